"""Intervals over clips: they cover, they narrow, and a seed gives them again."""

import pytest
import torch

from aime.evaluation.bootstrap import resamples, summarise


def test_each_resample_draws_as_many_clips_as_there_are() -> None:
    draws = resamples(torch.arange(17), 50, seed=0)
    assert torch.equal(draws.sum(dim=1), torch.full((50,), 17.0, dtype=torch.float64))
    assert torch.equal(draws, resamples(torch.arange(17), 50, seed=0))
    assert not torch.equal(draws, resamples(torch.arange(17), 50, seed=1))


def test_intervals_cover_the_true_mean_19_times_in_20() -> None:
    generator = torch.Generator().manual_seed(0)
    trials, clips = 400, 64
    # Each column is an experiment of its own; the true mean of all is 3.
    values = 3 + torch.randn(clips, trials, generator=generator).exp() - torch.tensor(0.5).exp()
    curve = summarise(values, resamples(torch.arange(clips), 1000, seed=1))
    inside = [low <= 3 <= high for low, high in zip(curve.low, curve.high, strict=True)]
    # Skewed values cost the percentile bootstrap a few percent at 64 clips.
    assert 0.88 <= sum(inside) / trials <= 0.975


def test_the_spread_of_an_interval_is_that_of_the_mean() -> None:
    values = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    curve = summarise(values, resamples(torch.arange(400), 2000, seed=0))
    assert curve.high[0] - curve.low[0] == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.1)


def test_clips_of_one_episode_are_drawn_together() -> None:
    """Copies of a clip are no evidence: sixteen of each leave the interval as wide as one of each does."""
    values = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    episodes = torch.arange(30)
    once = summarise(values, resamples(episodes, 2000, seed=0))
    often = summarise(values.repeat_interleave(16, dim=0), resamples(7 * episodes.repeat_interleave(16), 2000, seed=0))
    assert often.low == pytest.approx(once.low) and often.high == pytest.approx(once.high)


def test_of_one_episode_alone_the_clips_are_drawn() -> None:
    draws = resamples(torch.full((5,), 3), 50, seed=0)
    assert draws.shape == (50, 5) and not torch.equal(draws, torch.ones_like(draws))


def test_missing_values_are_left_out_and_counted() -> None:
    values = torch.tensor([[1.0, torch.nan], [3.0, 5.0], [5.0, torch.nan]])
    curve = summarise(values, resamples(torch.arange(3), 500, seed=0))
    assert curve.mean == [3.0, 5.0]
    assert curve.left_out == [0, 2]
    assert curve.low[1] == curve.high[1] == 5.0
    assert curve.average == 4.0


def test_a_horizon_without_any_value_does_not_blank_the_average() -> None:
    values = torch.tensor([[1.0, torch.nan], [3.0, torch.nan]])
    curve = summarise(values, resamples(torch.arange(2), 100, seed=0))
    assert curve.average == 2.0
    assert curve.average_low <= 2.0 <= curve.average_high
    assert curve.left_out == [0, 2]


def test_clips_are_drawn_whole() -> None:
    """Horizons of one clip go together: if they cancel in every clip, their average does not vary."""
    x = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    curve = summarise(torch.cat([x, -x], dim=1), resamples(torch.arange(30), 300, seed=0))
    assert curve.high[0] - curve.low[0] > 0.3
    assert curve.average_low == pytest.approx(curve.average_high, abs=1e-6)
