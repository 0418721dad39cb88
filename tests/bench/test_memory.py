"""Peaks of a process of its own."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from aime.bench.figures import NotMeasured
from aime.bench.memory import _peak, in_a_fresh_process, memory_per_frame, training_memory
from aime.bench.subject import Subject
from aime.config import DataConfig, ModelSettings, TrainConfig
from tests.helpers import small_config

CPU = torch.device("cpu")
MIB = 2**20


def grown_by(mebibytes: int) -> tuple[int, int]:
    """The peak before and after so much was held for a moment."""
    before = _peak(CPU)
    torch.ones(mebibytes * MIB, dtype=torch.uint8)
    return before, _peak(CPU)


def both(subject: Subject) -> tuple[int, float]:
    return training_memory(subject, 1), memory_per_frame(subject, 64, 1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_peak_rises_by_what_was_held_and_starts_without_what_others_held():
    ours, _ = grown_by(700)
    before, after = in_a_fresh_process(grown_by, 200)
    assert 200 * MIB <= after - before < 260 * MIB
    assert before < max(ours, _peak(CPU)), "the process started from its parent's peak"


def test_training_needs_weights_gradients_and_moments_and_every_frame_some_more():
    sizes = {name: getattr(small_config(), name) for name in ModelSettings.__dataclass_fields__}
    config = TrainConfig(model=ModelSettings(**sizes), data=DataConfig(batch_size=2), precision="float32")
    subject = Subject("small", config, CPU)
    parameters = sum(p.numel() for p in subject.model().parameters())
    training, frame = in_a_fresh_process(both, subject)
    assert training > 4 * 4 * parameters
    assert frame > 4 * 3 * subject.sizes.input_dim**2


def test_a_process_that_was_killed_is_a_reason():
    with pytest.raises(NotMeasured, match="killed"):
        in_a_fresh_process(die)
