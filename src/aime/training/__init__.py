"""Training: runs that collect what they need, resume by themselves, and lose nothing when they are stopped."""

from aime.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from aime.training.locate import load
from aime.training.trainer import Trainer, train

__all__ = ["Checkpoint", "Trainer", "load", "load_checkpoint", "save_checkpoint", "train"]
