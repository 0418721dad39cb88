"""Turns, and what becomes of what they took."""

from __future__ import annotations

import pytest
import torch

from aime.bench.figures import Figure
from aime.bench.timing import Timing, take_turns

CPU = torch.device("cpu")


def test_whatever_is_compared_takes_turns_and_the_first_round_does_not_count():
    said: list[str] = []
    times = take_turns({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, 3, CPU)
    assert said == ["a", "b"] * 4
    assert {name: len(timing.seconds) for name, timing in times.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_taken_round_by_round():
    """A moment in which everything took ten times as long leaves no trace."""
    figure = Figure.ratio("a against b", Timing((2.0, 20.0, 2.0)), Timing((1.0, 10.0, 1.0)))
    assert (figure.least, figure.value, figure.most) == (2, 2, 2)


def test_a_rate_is_highest_where_the_time_was_least():
    figure = Figure.rate("read", 12, "windows/s", Timing((1.0, 2.0, 4.0)))
    assert (figure.least, figure.value, figure.most) == (3, 6, 12)
    assert Timing((1.0, 2.0)).each(0.5).seconds == pytest.approx((0.5, 1.0))
