"""Scores of every predictor on every clip, from which all curves and differences are made.

Predictors: `dream` (the model's best guess), `sample` (one draw; the mean over draws), `best` (of the draws, in each
clip the one with the best mean over horizons, for each metric by itself), `sample_mean` (the mean of the draws),
`shuffled` (a dream with another clip's actions), `copy_last`, `mean_frame`, and `ceiling` (the model's reconstruction
of the frames it watches).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aime.evaluation.bootstrap import Curve, summarise
from aime.evaluation.lpips import LPIPS
from aime.evaluation.metrics import StructuralSimilarity, moving_psnr, psnr

PREDICTORS = {
    "dream": "dream",
    "sample": "one sample",
    "best": "best sample",
    "sample_mean": "mean of samples",
    "shuffled": "shuffled actions",
    "copy_last": "copy last",
    "mean_frame": "mean frame",
    "ceiling": "reconstruction",
}
"""Names of the predictors, and how they are called in tables."""

METRICS = ("psnr", "moving_psnr", "ssim", "lpips")
LOWER_IS_BETTER = frozenset({"lpips"})

Scores = dict[str, Tensor]
"""Metric to its values, (clips, horizon), in float64 on the CPU."""


class Scorer:
    """Scores predictions of one batch of clips against the truth, all on the same pixels."""

    def __init__(
        self,
        truth: Float[Tensor, "clips horizon 3 h w"],
        moving: Bool[Tensor, "clips horizon h w"],
        lpips: LPIPS | None,
    ) -> None:
        self._truth = truth
        self._moving = moving
        self._lpips = lpips
        self._similarity = StructuralSimilarity(truth)

    def __call__(self, prediction: Float[Tensor, "clips horizon 3 h w"], *, perceptual: bool = True) -> Scores:
        """The scores of a prediction; `perceptual` leaves out LPIPS, which costs more than all others."""
        prediction = prediction.float()
        scores = {
            "psnr": psnr(prediction, self._truth),
            "moving_psnr": moving_psnr(prediction, self._truth, self._moving),
            "ssim": self._similarity(prediction),
        }
        if self._lpips is not None and perceptual:
            scores["lpips"] = self._lpips(prediction, self._truth)
        return {name: values.double().cpu() for name, values in scores.items()}


def of_samples(samples: list[Scores]) -> dict[str, Scores]:
    """The scores of `sample` and `best` from those of each sample."""
    names = samples[0].keys()
    stacked = {name: torch.stack([scores[name] for scores in samples]) for name in names}
    return {
        "sample": {name: values.mean(dim=0) for name, values in stacked.items()},
        "best": {name: _best(values, lower=name in LOWER_IS_BETTER) for name, values in stacked.items()},
    }


def _best(values: Float[Tensor, "samples clips horizon"], *, lower: bool) -> Float[Tensor, "clips horizon"]:
    # A clip in which nothing moves has no mean; any sample will do, since it has no score either.
    mean = values.nanmean(dim=2).nan_to_num(0.0)
    chosen = mean.argmin(dim=0) if lower else mean.argmax(dim=0)
    return values[chosen, torch.arange(values.shape[1])]


def join(parts: list[dict[str, Scores]]) -> dict[str, Scores]:
    """The scores of several batches of clips, one after another."""
    first = parts[0]
    return {
        predictor: {metric: torch.cat([part[predictor][metric] for part in parts]) for metric in first[predictor]}
        for predictor in first
    }


def curves(scores: Mapping[str, Scores], draws: Float[Tensor, "count clips"]) -> dict[str, dict[str, Curve]]:
    """Each predictor's metrics by horizon, with intervals."""
    return {
        predictor: {metric: summarise(values, draws) for metric, values in metrics.items()}
        for predictor, metrics in scores.items()
    }


DIFFERENCES = {
    "gain_over_copy_last": ("dream", "copy_last"),
    "gain_over_mean_frame": ("dream", "mean_frame"),
    "loss_by_shuffling": ("dream", "shuffled"),
    "below_ceiling": ("ceiling", "dream"),
}
"""Differences of two predictors on the same clips, so that their intervals are paired."""


def difference_curves(scores: Mapping[str, Scores], draws: Float[Tensor, "count clips"]) -> dict[str, dict[str, Curve]]:
    """The differences, per metric, as far as both predictors were scored."""
    return {
        name: {
            metric: summarise(scores[first][metric] - scores[second][metric], draws)
            for metric in METRICS
            if metric in scores[first] and metric in scores[second]
        }
        for name, (first, second) in DIFFERENCES.items()
        if first in scores and second in scores
    }
