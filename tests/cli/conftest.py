"""A data store and a trained-looking model on disk, small enough to use in every test of the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from aime.config import DataConfig, ModelSettings, TrainConfig
from aime.data.index import StoreInfo
from aime.data.store import StoreWriter
from aime.training.config_file import to_yaml
from aime.training.runs import RunFolder

EPISODES, LENGTH = 6, 24


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def aime(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command line in this process."""
    from aime.cli import main

    def call(*argv: str | Path) -> Said:
        code = main([str(a) for a in argv])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


def write_store(folder: Path, *, actions: int = 3, size: int = 32, task: str = "pushed-ball") -> Path:
    """Episodes of a ball that actions push."""
    from tests.helpers import pushed_ball

    frames, moves = pushed_ball(EPISODES, LENGTH, size=size)
    with StoreWriter(folder, StoreInfo(task, time_step=0.05, action_repeat=1)) as writer:
        for pixels, action in zip(frames, moves, strict=True):
            columns = {
                "pixels": np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()),
                "action": np.resize(action.numpy(), (LENGTH, actions)).astype(np.float32),
                "reward": np.zeros(LENGTH, np.float32),
                "is_first": np.arange(LENGTH) == 0,
            }
            writer.add(columns, policy="test")
    return folder


def write_run(folder: Path, data_dir: Path, *, step: int = 3) -> Path:
    """A run with one checkpoint of an untrained small model."""
    from aime.training.checkpoint import save_checkpoint
    from aime.world_model import WorldModel
    from tests.helpers import small_config

    torch.manual_seed(0)
    model = WorldModel(small_config())
    sizes = {name: getattr(model.config, name) for name in ModelSettings.__dataclass_fields__}
    data = DataConfig(env="pushed-ball", data_dir=data_dir, batch_size=2)
    config = TrainConfig(preset="tiny", model=ModelSettings(**sizes), data=data, run_dir=folder, max_steps=step)
    run = RunFolder(folder)
    save_checkpoint(run.checkpoint(step), model, config, state={"step": step})
    run.config.write_text(to_yaml(config))
    return folder


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("cli")
    store = write_store(root / "data" / "pushed-ball")
    return store, write_run(root / "runs" / "pushed-ball", store)


@pytest.fixture
def store(_made: tuple[Path, Path]) -> Path:
    """A store that no test may change."""
    return _made[0]


@pytest.fixture
def run_folder(_made: tuple[Path, Path]) -> Path:
    """A run that no test may change."""
    return _made[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path) -> Iterator[None]:
    """Commands write below the current folder; let that be a new one for each test."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)
