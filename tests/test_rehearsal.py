"""What dynamics rehearses: clips of any length, in long rollouts and in short ones."""

from __future__ import annotations

import pytest
import torch

from aime.config import LossConfig
from aime.rehearsal import WHOLE_HALF_QUARTER, Recollection, rehearse_dynamics
from aime.transition import Transition
from tests.helpers import random_clip, small_model


@pytest.mark.parametrize(
    ("time", "lengths"),
    [(16, {12, 6, 3}), (4, {3, 1}), (2, {1}), (1, {0})],
)
def test_rollouts_are_whole_half_and_a_quarter_as_often_as_each_other(
    time: int, lengths: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model().train()
    frames, actions = random_clip(batch=2, time=time)
    is_first = torch.zeros(2, time, dtype=torch.bool)
    with torch.no_grad():
        seen = model.watch(frames.float() / 255, actions, is_first)
    recollection = Recollection(seen.latent_mean, seen.latent_log_var, seen.sights.context, actions, is_first)
    whole, rehearsed = Transition.conditions, []

    def conditions(*args: object) -> torch.Tensor:
        *_, start, steps = args
        rehearsed.append(steps)
        assert start >= 0
        assert start + 1 + steps <= time
        return whole(*args)

    monkeypatch.setattr(Transition, "conditions", conditions)
    torch.manual_seed(0)
    for _ in range(60):
        loss = rehearse_dynamics(model, recollection, LossConfig(), WHOLE_HALF_QUARTER)
        assert bool(loss.isfinite())
    assert set(rehearsed) == lengths
    for length in lengths:
        assert rehearsed.count(length) > 60 / (2 * len(lengths))
