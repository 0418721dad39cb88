"""A store of the toy world's episodes, and one evaluation of each toy model on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aime.data.store import EpisodeStore, StoreInfo, StoreWriter
from aime.evaluation import Evaluation, EvaluationConfig, evaluate
from aime.evaluation.models import Dreamer
from tests.toys import episode

SMALL = EvaluationConfig(
    context_frames=4, horizon=8, clips=12, samples=3, batch_size=5, readout_clips=24, resamples=200
)
"""The protocol in small: three batches, of which the last is not full."""


def write_store(folder: Path, *, episodes: int = 9, length: int = 24, still: bool = False) -> EpisodeStore:
    info = StoreInfo("toy-square", time_step=0.1, action_repeat=1, details={"state": {"position": 2}})
    with StoreWriter(folder, info) as writer:
        for seed in range(episodes):
            one = episode(length, seed, still=still)
            writer.add(
                {
                    "pixels": one["observations"].permute(0, 2, 3, 1).numpy(),
                    "action": one["actions"].numpy(),
                    "reward": np.zeros(length, dtype=np.float32),
                    "is_first": one["is_first"].numpy(),
                    "state": one["states"].numpy(),
                },
                policy="drift",
                split=("train", "validation", "test")[seed % 3],
            )
    return EpisodeStore.open(folder)


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Nine episodes of 24 frames, three per split."""
    return write_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture(scope="session")
def evaluated(toy_store: EpisodeStore) -> Callable[[Dreamer], Evaluation]:
    """The evaluation of a toy model on the toy store; each kind of model is evaluated once."""
    done: dict[type, Evaluation] = {}

    def once(model: Dreamer) -> Evaluation:
        if type(model) not in done:
            done[type(model)] = evaluate(model, toy_store, SMALL)
        return done[type(model)]

    return once
