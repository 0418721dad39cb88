"""Does the dream know how little it knows? Its samples' spread against its error.

A model is calibrated when truth is one more sample of its dreams. Then (a) of n samples, the interval from the j-th
smallest to the j-th largest holds the truth with probability (n + 1 − 2j) / (n + 1), and (b) the spread of the samples
equals the error of their mean. Both are measured on the pixels that move in truth: elsewhere there is nothing to be
unsure of. Samples are the means of p(o | z, A), so the decoder's own noise is not counted as spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aime.evaluation.bootstrap import Curve, summarise_resampled

HALF_GREY_LEVEL = 0.5 / 255.0
"""The truth is known to half a step of its 8 bits; a sample that close is neither above nor below it."""


@dataclass(frozen=True)
class CalibrationTerms:
    """Sums over the moving pixels of each clip and horizon; their ratios over any set of clips are the measures."""

    inside: Float[Tensor, "levels clips horizon"]
    """Pixels whose truth lies inside the central interval of each level."""
    pixels: Float[Tensor, "clips horizon"]
    spread: Float[Tensor, "clips horizon"]
    """Σ (1 + 1/n) s², s² the samples' variance: what the error below is expected to be under calibration."""
    error: Float[Tensor, "clips horizon"]
    """Σ (truth − mean of the samples)²."""

    @staticmethod
    def cat(parts: list[CalibrationTerms]) -> CalibrationTerms:
        """The terms of several batches of clips, one after another."""
        return CalibrationTerms(
            torch.cat([p.inside for p in parts], dim=1),
            torch.cat([p.pixels for p in parts]),
            torch.cat([p.spread for p in parts]),
            torch.cat([p.error for p in parts]),
        )


def levels(samples: int) -> list[float]:
    """Probabilities of the central intervals that `samples` dreams have, widest first: 7/9, 5/9, 3/9, 1/9 for 8."""
    return [(samples + 1 - 2 * j) / (samples + 1) for j in range(1, samples // 2 + 1)]


class CalibrationCounter:
    """Compares dreams with the truth one sample at a time, so that memory does not grow with the number of samples."""

    def __init__(self, truth: Float[Tensor, "clips horizon 3 h w"], moving: Bool[Tensor, "clips horizon h w"]) -> None:
        self._truth = truth
        self._moving = moving
        self._samples = 0
        self._sum = torch.zeros_like(truth)
        self._squares = torch.zeros_like(truth)
        self._above = torch.zeros_like(truth, dtype=torch.int16)
        self._below = torch.zeros_like(truth, dtype=torch.int16)

    def add(self, sample: Float[Tensor, "clips horizon 3 h w"]) -> None:
        """Count one more dreamed sample of every clip."""
        difference = sample - self._truth
        self._sum += difference
        self._squares += difference.square()
        self._above += difference > HALF_GREY_LEVEL
        self._below += difference < -HALF_GREY_LEVEL
        self._samples += 1

    def mean(self) -> Float[Tensor, "clips horizon 3 h w"]:
        """The mean of the samples."""
        return self._truth + self._sum / self._samples

    def terms(self) -> CalibrationTerms:
        """The sums over moving pixels; needs at least two samples."""
        n = self._samples
        weight = self._moving.unsqueeze(2).to(self._sum.dtype)
        variance = (self._squares - self._sum.square() / n).clamp_min(0.0) / (n - 1)

        def over_pixels(x: Tensor) -> Tensor:
            return (x * weight).sum(dim=(-3, -2, -1)).double().cpu()

        # x(j) <= truth <= x(n+1-j) says that at most n - j samples lie above it, and at most n - j below.
        inside = [over_pixels((self._above <= n - j) & (self._below <= n - j)) for j in range(1, n // 2 + 1)]
        return CalibrationTerms(
            inside=torch.stack(inside),
            pixels=over_pixels(torch.ones_like(self._sum)),
            spread=over_pixels(variance) * (1 + 1 / n),
            error=over_pixels((self._sum / n).square()),
        )


@dataclass(frozen=True)
class Calibration:
    """How the spread of dreams compares with their error, by horizon."""

    levels: list[float]
    """Probabilities of the central intervals, widest first."""
    coverage: list[Curve]
    """For each level, the share of moving pixels whose truth lies inside."""
    spread_to_error: Curve
    """Root of (spread / error): 1 is calibrated, below 1 the model is surer than it should be."""


def calibrate(terms: CalibrationTerms, samples: int, draws: Float[Tensor, "count clips"]) -> Calibration:
    """The measures over all clips, with intervals over `draws` (see `aime.evaluation.bootstrap.resamples`)."""
    every = torch.ones(1, draws.shape[1], dtype=torch.float64)

    def ratio(top: Tensor, bottom: Tensor, rows: Tensor) -> Tensor:
        return (rows @ top) / (rows @ bottom)

    return Calibration(
        levels=levels(samples),
        coverage=[
            summarise_resampled(ratio(i, terms.pixels, every)[0], ratio(i, terms.pixels, draws)) for i in terms.inside
        ],
        spread_to_error=summarise_resampled(
            ratio(terms.spread, terms.error, every)[0].sqrt(), ratio(terms.spread, terms.error, draws).sqrt()
        ),
    )
