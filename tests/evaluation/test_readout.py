"""The ridge read-out: what it reads, what it ignores, and R² by hand."""

from itertools import pairwise

import pytest
import torch

from aime.evaluation.bootstrap import resamples
from aime.evaluation.readout import PENALTIES, fit_readout, r2, r2_resampled, read_states


def data(n: int, seed: int, noise: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of 12 numbers, of which states (3) are a linear function; a fourth state never varies."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 12, generator=generator) * torch.logspace(-2, 2, 12)
    weight = torch.randn(12, 3, generator=torch.Generator().manual_seed(99)) / torch.logspace(-2, 2, 12)[:, None]
    states = 5 + features @ weight + noise * torch.randn(n, 3, generator=generator)
    return features, torch.cat([states, torch.full((n, 1), 7.0)], dim=1)


def test_a_linear_state_is_read_and_a_constant_one_is_set_aside() -> None:
    readout = fit_readout(*data(500, 0), *data(200, 1))
    assert readout.varies.tolist() == [True, True, True, False]
    assert readout.validation_r2 > 0.999
    features, states = data(100, 2)
    torch.testing.assert_close(readout(features), states.double(), atol=0.1, rtol=0)


def test_the_penalty_follows_validation() -> None:
    """Few noisy examples want a larger penalty than many clean ones."""
    few = fit_readout(*data(14, 0, noise=5.0), *data(400, 1, noise=5.0))
    many = fit_readout(*data(2000, 0), *data(400, 1))
    assert few.penalty > many.penalty
    weakest = fit_readout(*data(14, 0, noise=5.0), *data(400, 1, noise=5.0), penalties=PENALTIES[:1])
    assert few.validation_r2 > weakest.validation_r2


def test_ridge_is_the_closed_form() -> None:
    features, states = data(60, 0, noise=1.0)
    readout = fit_readout(features, states, *data(50, 1), penalties=(10.0,))
    x = (features.double() - features.double().mean(0)) / features.double().std(0)
    y = (states.double() - states.double().mean(0))[:, :3] / states.double().std(0)[:3]
    expected = torch.linalg.solve(x.T @ x + 10.0 * torch.eye(12, dtype=torch.float64), x.T @ y)
    torch.testing.assert_close(readout.weight[:, :3], expected)


def test_r2_by_hand() -> None:
    truth = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1).expand(3, 2, 1).clone()
    prediction = truth.clone()
    prediction[:, 1] = 2.0  # the mean: worth nothing
    assert r2(prediction, truth)[:, 0].tolist() == [1.0, 0.0]
    prediction[:, 1, 0] = torch.tensor([3.0, 2.0, 1.0])
    assert r2(prediction, truth)[1, 0].item() == pytest.approx(1 - 8 / 2)


def test_r2_of_what_never_varies_is_not_a_number() -> None:
    truth = torch.full((4, 1, 1), 1e4)
    assert r2(truth + 1, truth).isnan().all()


def test_r2_resampled_is_r2_of_the_clips_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, prediction = torch.randn(6, 4, 3, generator=generator), torch.randn(6, 4, 3, generator=generator)
    draws = resamples(torch.arange(6), 5, seed=0)
    for row, scores in zip(draws, r2_resampled(prediction, truth, draws), strict=True):
        drawn = torch.repeat_interleave(torch.arange(6), row.long())
        torch.testing.assert_close(scores, r2(prediction[drawn], truth[drawn]))


def test_states_are_read_by_horizon() -> None:
    """A dream whose beliefs lose the state over the horizon loses R² over the horizon, and its ceiling does not."""
    readout = fit_readout(*data(500, 0), *data(200, 1))
    features, states = data(80 * 5, 2)
    features, states = features.view(80, 5, 12), states.view(80, 5, 4)
    noise = torch.randn(80, 5, 12, generator=torch.Generator().manual_seed(3)) * torch.logspace(-2, 2, 12)
    dreamed = features + noise * torch.linspace(0, 2, 5)[:, None]
    beliefs = {"dream": dreamed, "watched": features}
    result = read_states(readout, beliefs, states, states[:, 0], list("abcd"), resamples(torch.arange(80), 100, seed=0))
    dream = result.r2["dream"]["mean"].mean
    assert all(earlier > later for earlier, later in pairwise(dream))
    assert min(result.r2["watched"]["mean"].mean) > 0.999
    assert result.r2["last_state"]["mean"].mean[0] == 1.0 > 0.5 > result.r2["last_state"]["mean"].mean[1]
    assert list(result.by_state) == ["a", "b", "c"]
