"""What dynamics rehearses: clips of any length, in long rollouts and in short ones."""

from __future__ import annotations

import pytest
import torch

from aime.config import LossConfig
from aime.reach import dynamics_parameters, matrices
from aime.rehearsal import WHOLE_HALF_QUARTER, Recollection, rehearse_dynamics
from aime.transition import Transition
from aime.world_model import WorldModel
from tests.helpers import random_clip, small_model


def watched(model: WorldModel, time: int) -> Recollection:
    """Two random clips."""
    frames, actions = random_clip(batch=2, time=time)
    is_first = torch.zeros(2, time, dtype=torch.bool)
    with torch.no_grad():
        seen = model.watch(frames.float() / 255, actions, is_first)
    return Recollection(seen.latent_mean, seen.latent_log_var, seen.sights.context, actions, is_first)


@pytest.mark.parametrize(
    ("time", "lengths"),
    [(16, {12, 6, 3}), (4, {3, 1}), (2, {1}), (1, {0})],
)
def test_rollouts_are_whole_half_and_a_quarter_as_often_as_each_other(
    time: int, lengths: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model().train()
    recollection = watched(model, time)
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


def test_the_head_that_foretells_the_context_rehearses_beside_dynamics_and_by_itself() -> None:
    """Where dynamics moves on without it, it would foretell from beliefs that it has never seen."""

    def gradients(heard: bool, weight: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = small_model(perceiver_context=heard).train()
        torch.manual_seed(1)
        rehearse_dynamics(model, watched(model, 12), LossConfig(lambda_context=weight)).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    without, much = gradients(True, 0.0), gradients(True, 100.0)
    moved = {name for name in much if not torch.equal(without.get(name, torch.zeros(())), much[name])}
    assert moved and all(name.startswith("context_head.") for name in moved), moved
    assert not any(name.startswith("context_head.") for name in gradients(False, 100.0))


def test_what_hears_or_foretells_the_context_is_not_muons() -> None:
    model = small_model()
    names = {id(p): name for name, p in model.named_parameters()}
    turned = {names[id(p)] for p in matrices(model, dynamics_parameters(model))}
    assert "core.from_latent.weight" in turned and "prior.common_mean.weight" in turned
    assert not {name for name in turned if "context" in name}
