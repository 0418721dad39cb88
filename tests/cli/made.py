"""A data store and a run on disk, made in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from aime.config import DataConfig, ModelSettings, TrainConfig
from aime.data.index import StoreInfo
from aime.data.store import StoreWriter
from aime.training.checkpoint import save_checkpoint
from aime.training.config_file import to_yaml
from aime.training.runs import RunFolder
from aime.world_model import WorldModel
from tests.helpers import pushed_ball, small_config


def write_store(
    folder: Path,
    *,
    episodes: int = 6,
    length: int = 24,
    actions: int = 3,
    size: int = 32,
    task: str = "pushed-ball",
) -> Path:
    """Episodes of a ball that actions push."""
    frames, moves = pushed_ball(episodes, length, size=size)
    with StoreWriter(folder, StoreInfo(task, time_step=0.05, action_repeat=1)) as writer:
        for pixels, action in zip(frames, moves, strict=True):
            columns = {
                "pixels": np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()),
                "action": np.resize(action.numpy(), (length, actions)).astype(np.float32),
                "reward": np.zeros(length, np.float32),
                "is_first": np.arange(length) == 0,
            }
            writer.add(columns, policy="test")
    return folder


def write_run(folder: Path, data_dir: Path, *, step: int = 3) -> Path:
    """A run with one checkpoint of an untrained small model."""
    torch.manual_seed(0)
    model = WorldModel(small_config())
    sizes = {name: getattr(model.config, name) for name in ModelSettings.__dataclass_fields__}
    data = DataConfig(env="pushed-ball", data_dir=data_dir, batch_size=2)
    config = TrainConfig(preset="tiny", model=ModelSettings(**sizes), data=data, run_dir=folder, max_steps=step)
    run = RunFolder(folder)
    save_checkpoint(run.checkpoint(step), model, config, state={"step": step})
    run.config.write_text(to_yaml(config))
    return folder
