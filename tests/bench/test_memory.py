"""Peaks of a process of its own."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from aime.bench.figures import NotMeasured
from aime.bench.memory import _peak, in_a_fresh_process

CPU = torch.device("cpu")
MIB = 2**20


def grown_by(mebibytes: int) -> tuple[int, int]:
    """The peak before and after so much was held for a moment."""
    before = _peak(CPU)
    torch.ones(mebibytes * MIB, dtype=torch.uint8)
    return before, _peak(CPU)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_peak_rises_by_what_was_held_and_starts_without_what_others_held():
    ours, _ = grown_by(700)
    before, after = in_a_fresh_process(grown_by, 200)
    assert 200 * MIB <= after - before < 260 * MIB
    assert before < max(ours, _peak(CPU)), "the process started from its parent's peak"


def test_a_process_that_was_killed_is_a_reason():
    with pytest.raises(NotMeasured, match="killed"):
        in_a_fresh_process(die)
