"""Studies in small: a ball to train on, models of milliseconds, a second or so of training, a short protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aime.config import ModelSettings
from aime.data.index import StoreInfo
from aime.data.store import StoreWriter
from aime.evaluation import EvaluationConfig, protocol
from aime.presets import PRESETS, PresetValues
from aime.studies.recipe import Recipe
from aime.training import Trainer
from tests.helpers import pushed_ball, small_config

TASK = "pushed-ball"
RECIPE = Recipe(
    episodes=7,
    test_episodes=0,
    episode_length=16,
    policy="ou",
    action_repeat=1,
    image_size=32,
    segmentation=False,
)
PROTOCOL = EvaluationConfig(
    context_frames=3, horizon=5, clips=6, samples=2, batch_size=6, readout_clips=0, resamples=100
)
MINUTES = 0.01


def write_store(folder: Path, *, seed: int = 0, length: int = 16) -> Path:
    """The ball's episodes, by `RECIPE` unless it is said otherwise."""
    with StoreWriter(folder, StoreInfo(TASK, time_step=0.1, action_repeat=1)) as writer:
        for frames, moves in zip(*pushed_ball(7, length, seed=seed), strict=True):
            writer.add(
                {
                    "pixels": np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy()),
                    "action": moves.numpy(),
                    "reward": np.zeros(length, np.float32),
                    "is_first": np.arange(length) == 0,
                },
                policy="ou",
                renderer="none",
            )
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The root of the data; the ball's episodes are in it."""
    write_store(tmp_path / "data" / TASK)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny preset is the tests' small model, and nothing is drawn, which would take longer than all else."""
    sizes = small_config()
    model = {name: getattr(sizes, name) for name in ModelSettings.__dataclass_fields__}
    monkeypatch.setitem(PRESETS, "tiny", PresetValues(model=model, optimizer={"warmup_epochs": 1.0}))
    monkeypatch.setattr(Trainer, "draw", lambda self: [])
    monkeypatch.setattr(protocol, "write_showcase", lambda *args: None)


@pytest.fixture
def nothing_more_is_made(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, training and evaluating are mistakes."""

    def forbid() -> None:
        def made(*args: object, **kwargs: object) -> None:
            raise AssertionError("what is there was made again")

        monkeypatch.setattr("aime.studies.runs.train", made)
        monkeypatch.setattr("aime.studies.runs.evaluate", made)

    return forbid
