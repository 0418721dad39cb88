"""A small world on disk, and the settings of a run on it that takes a second."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from aime.config import DataConfig, ModelSettings, OptimizerConfig, TrainConfig, replace
from aime.data.index import StoreInfo
from aime.data.store import StoreWriter
from tests.helpers import pushed_ball, small_config

EPISODES, FRAMES = 7, 12
BATCHES_PER_EPOCH = 5
"""Of two clips of six frames, from the training episodes: a run of eight steps crosses into its second epoch."""


def write_store(
    folder: Path, seed: int = 0, actions: int = 3, lengths: Mapping[int, int] = MappingProxyType({})
) -> Path:
    """Short episodes of a ball that actions push about, at 32×32; some of another length."""
    with StoreWriter(folder, StoreInfo("pushed-ball", time_step=0.1, action_repeat=1)) as writer:
        frames, moves = pushed_ball(EPISODES, FRAMES, seed=seed)
        for episode in range(EPISODES):
            length = lengths.get(episode, FRAMES)
            first = np.zeros(length, dtype=bool)
            first[0] = True
            writer.add(
                {
                    "pixels": frames[episode, :length].permute(0, 2, 3, 1).numpy(),
                    "action": np.resize(moves[episode].numpy(), (length, actions)).astype(np.float32),
                    "reward": np.zeros(length, dtype=np.float32),
                    "is_first": first,
                },
                policy="noise",
                seed=episode,
            )
    return folder


@pytest.fixture(scope="session")
def ball_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven episodes of twelve frames with three actions."""
    return write_store(tmp_path_factory.mktemp("data") / "pushed-ball")


def small_settings(run: Path, store: Path, **changes: object) -> TrainConfig:
    """A run of eight steps of two clips, all parts of the model present; in the last two perception rests."""
    small = small_config()
    base = TrainConfig(
        data=DataConfig(env="pushed-ball", data_dir=store, batch_size=2),
        model=ModelSettings(**{name: getattr(small, name) for name in ModelSettings.__dataclass_fields__}),
        optimizer=OptimizerConfig(warmup_epochs=1.0, learning_rate=0.001, consolidation=0.2),
        run_dir=run,
        max_steps=8,
        device="cpu",
        precision="float32",
        log_every=2,
        checkpoint_every=3,
        eval_every=0,
        eval_clips=2,
        tensorboard=False,
    )
    return replace(base, **changes)


@pytest.fixture
def settings(ball_store: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Settings of such a run into `tmp_path / name`, with changes."""
    return lambda name="run", **changes: small_settings(tmp_path / name, ball_store, **changes)
