"""Intervals over clips: how far a mean would move if other episodes had been drawn.

The percentile bootstrap (Efron, 1979), by clusters: episodes are drawn with replacement, each with all of its clips,
the statistic is computed again, and the middle 95% of its values are the interval. Clips of one episode share its
start, its policy and often frames: drawn one by one they would pass for more evidence than they are, and the interval
for three times as narrow. A resample is a row of how often each clip was drawn, so that all resamples of all horizons
are one matrix product; using the same rows for every predictor makes differences between predictors paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LOW, HIGH = 0.025, 0.975


@dataclass(frozen=True)
class Curve:
    """A statistic by horizon with its 95% interval, and its mean over all horizons with the interval of that mean."""

    mean: list[float]
    """Per horizon 1..K."""
    low: list[float]
    high: list[float]
    average: float
    """Mean over the horizons."""
    average_low: float
    average_high: float
    left_out: list[int]
    """Per horizon, the clips that have no value there (nothing moves in them, say)."""


def resamples(episodes: Int[Tensor, " clips"], count: int, seed: int) -> Float[Tensor, "count clips"]:
    """How often each clip is drawn in each of `count` resamples.

    Args:
        episodes: the episode that each clip comes from. Of one episode alone the clips themselves are drawn: that says
            how it varies, and nothing of other episodes.
    """
    which = episodes.cpu().unique(return_inverse=True)[1]
    if int(which.max()) == 0:
        which = torch.arange(len(which))
    number = int(which.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(number, (count, number), generator=generator)
    ones = torch.ones(count, number, dtype=torch.float64)
    return torch.zeros(count, number, dtype=torch.float64).scatter_add_(1, drawn, ones)[:, which]


def summarise(values: Float[Tensor, "clips horizon"], draws: Float[Tensor, "count clips"]) -> Curve:
    """The mean over clips by horizon with 95% bootstrap intervals; NaN marks a clip without a value at a horizon."""
    values = values.detach().cpu().double()
    present = ~torch.isnan(values)
    filled = torch.where(present, values, 0.0)
    mean = filled.sum(0) / present.sum(0)
    resampled = (draws @ filled) / (draws @ present.double())
    return _curve(mean, resampled, left_out=(~present).sum(0).tolist())


def summarise_resampled(mean: Float[Tensor, " horizon"], resampled: Float[Tensor, "count horizon"]) -> Curve:
    """A curve from a statistic and its values on the resamples, for statistics that are not means over clips."""
    return _curve(mean, resampled, left_out=[0] * len(mean))


def _curve(mean: Tensor, resampled: Tensor, left_out: list[int]) -> Curve:
    quantiles = torch.tensor([LOW, HIGH], dtype=torch.float64)
    # A horizon at which no clip has a value has none in any resample either; it must not blank the average.
    low, high = torch.nanquantile(resampled, quantiles, dim=0)
    average_low, average_high = torch.nanquantile(resampled.nanmean(dim=1), quantiles)
    return Curve(
        mean=mean.tolist(),
        low=low.tolist(),
        high=high.tolist(),
        average=float(mean.nanmean()),
        average_low=float(average_low),
        average_high=float(average_high),
        left_out=left_out,
    )
