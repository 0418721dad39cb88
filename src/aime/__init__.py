"""AIME, the Adaptive Infinite Mixture Engine: a world model for embodied agents.

>>> import aime
>>> model = aime.WorldModel(aime.ModelConfig(action_dim=21))
>>> belief = model.observe(observations, actions)
>>> dream = model.imagine(belief, future_actions)
>>> model = aime.load("runs/humanoid-walk")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aime.config import LossConfig, ModelConfig
    from aime.errors import AimeError
    from aime.outputs import Belief, Dream, SequenceOutput
    from aime.training import load
    from aime.world_model import WorldModel

# Where each public name lives. They are imported on first use, so that `aime --help` need not wait for torch.
_HOMES = {
    "AimeError": "aime.errors",
    "Belief": "aime.outputs",
    "Dream": "aime.outputs",
    "LossConfig": "aime.config",
    "ModelConfig": "aime.config",
    "SequenceOutput": "aime.outputs",
    "WorldModel": "aime.world_model",
    "load": "aime.training",
}

__all__ = ["AimeError", "Belief", "Dream", "LossConfig", "ModelConfig", "SequenceOutput", "WorldModel", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aime' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
