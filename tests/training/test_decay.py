"""A weight decay that is found: where it goes, how far, and where it begins."""

import math

import pytest
import torch
from torch import nn

from aime.config import OptimizerConfig
from aime.dynamics import RecurrentCore
from aime.training.decay import LEAST_HEED, LEAST_LOST, MOST_LOST, FoundDecay, follow_heed

RATES = {"learning_rate": 0.001, "muon_learning_rate": 0.02}


def matrices(seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 2))]


def loss_of(weights: list[nn.Parameter], target: float) -> torch.Tensor:
    """Least where the first two are so many times what they are; the third has no part in it."""
    wanted = [target * w.detach() for w in weights[:2]]
    return sum(((w - goal).square().sum() for w, goal in zip(weights, wanted, strict=False)), torch.zeros(()))


@pytest.mark.parametrize(("target", "factor"), [(0.5, math.exp(0.3)), (2.0, math.exp(-0.3))])
def test_it_rises_where_smaller_matrices_lose_less_and_falls_where_larger_ones_do(target: float, factor: float) -> None:
    weights = matrices()
    decay = FoundDecay(weights, OptimizerConfig(dynamics_decay=4.0, dynamics_decay_step=0.3, **RATES))
    assert float(decay.value) == pytest.approx(4.0 / 20)
    loss_of(weights, target).backward()
    before = decay.value
    decay.follow()
    assert decay.value is before, "the optimizer holds it"
    assert float(decay.value) == pytest.approx(0.2 * factor) and float(decay.as_set) == pytest.approx(4.0 * factor)
    decay.restart()
    assert float(decay.as_set) == pytest.approx(4.0)


def test_the_step_is_what_one_update_with_more_of_it_would_gain() -> None:
    """The sign agrees with two updates that differ in decay alone."""
    for seed in range(6):
        weights = matrices(seed)
        gradients = [torch.randn_like(w) for w in weights]
        decay = FoundDecay(weights, OptimizerConfig(dynamics_decay=4.0, **RATES))
        first = float(decay.value)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        decay.follow()
        losses = []
        for share in (0.2, 0.3):
            after = [(1 - 1e-3 * share) * w.detach() for w in weights]
            losses.append(sum(float((g * w).sum()) for g, w in zip(gradients, after, strict=True)))
        assert (float(decay.value) > first) == (losses[1] < losses[0])


def test_it_stays_within_what_an_update_can_bear_and_learns_nothing_from_what_is_not_a_number() -> None:
    weights = matrices()
    decay = FoundDecay(weights, OptimizerConfig(dynamics_decay=4.0, dynamics_decay_step=1.0, **RATES))
    for target, share in ((0.5, MOST_LOST), (2.0, LEAST_LOST)):
        for weight in weights:
            weight.grad = None
        loss_of(weights, target).backward()
        for _ in range(9):
            decay.follow()
        assert float(decay.value) * RATES["muon_learning_rate"] == pytest.approx(share)
    assert weights[0].grad is not None
    weights[0].grad.fill_(math.nan)
    before = float(decay.value)
    decay.follow()
    assert float(decay.value) == before


def test_a_context_is_believed_less_where_less_of_its_map_loses_less_and_never_more_than_in_full() -> None:
    core = RecurrentCore(latent_dim=3, context_dim=4, action_dim=2, hidden_dim=8)
    weight = core.from_context.weight
    follow_heed(core, 0.3)
    assert core.heed == 1, "nothing was said"
    torch.nn.init.normal_(weight)
    weight.grad = weight.detach().clone()  # a loss that is least where the map is nothing
    follow_heed(core, 0.3)
    assert float(core.heed) == pytest.approx(math.exp(-0.3))
    weight.grad.neg_()
    for _ in range(2):
        follow_heed(core, 0.3)
    assert core.heed == 1
    weight.grad.fill_(math.nan)
    follow_heed(core, 0.3)
    assert core.heed == 1
    weight.grad.copy_(weight.detach())
    for _ in range(40):
        follow_heed(core, 0.3)
    assert float(core.heed) == pytest.approx(LEAST_HEED)
