"""Does the belief know where the body is? A ridge regression from beliefs to the physical state.

Pixels can flatter a dream: a blurred body costs little. So a linear map from beliefs (hidden and latents) to the
simulator's state is fitted on real beliefs of training episodes, its penalty chosen on validation episodes, and then
read on dreamed beliefs of test episodes. What it reads there is what the dream still knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aime.evaluation.bootstrap import Curve, summarise_resampled

PENALTIES = tuple(10.0**exponent for exponent in range(-4, 7))
"""Ridge penalties tried, on standardised features, relative to one frame."""


@dataclass(frozen=True)
class Readout:
    """A fitted linear map from belief features to physical states."""

    weight: Float[Tensor, "features states"]
    feature_mean: Float[Tensor, " features"]
    feature_scale: Float[Tensor, " features"]
    state_mean: Float[Tensor, " states"]
    state_scale: Float[Tensor, " states"]
    varies: Bool[Tensor, " states"]
    """States that vary in the training data; the others have nothing to predict."""
    penalty: float
    """The penalty chosen on validation episodes."""
    validation_r2: float
    """Mean R² over the varying states on real validation beliefs."""

    def __call__(self, features: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch states"]:
        """The states that these beliefs speak of, in the simulator's own units."""
        standard = (features.double() - self.feature_mean) / self.feature_scale
        return standard @ self.weight * self.state_scale + self.state_mean


def fit_readout(
    features: Float[Tensor, "n features"],
    states: Float[Tensor, "n states"],
    validation_features: Float[Tensor, "m features"],
    validation_states: Float[Tensor, "m states"],
    penalties: tuple[float, ...] = PENALTIES,
) -> Readout:
    """Ridge regression on standardised beliefs and states, with the penalty that reads validation beliefs best.

    Solved for every penalty at once from one eigendecomposition of the features' covariance, in float64.
    """
    x, y = features.double().cpu(), states.double().cpu()
    feature_mean, feature_scale = x.mean(0), x.std(0).clamp_min(1e-8)
    state_mean, state_scale = y.mean(0), y.std(0)
    varies = state_scale > 1e-6
    state_scale = torch.where(varies, state_scale, 1.0)
    x, y = (x - feature_mean) / feature_scale, (y - state_mean) / state_scale
    eigenvalues, vectors = torch.linalg.eigh(x.T @ x / len(x))
    projected = vectors.T @ (x.T @ y / len(x))

    best: Readout | None = None
    for penalty in penalties:
        # Beliefs have dead dimensions, whose eigenvalues can come out a hair below zero.
        weight = vectors @ (projected / (eigenvalues.clamp_min(0.0) + penalty / len(x))[:, None])
        readout = Readout(weight, feature_mean, feature_scale, state_mean, state_scale, varies, penalty, float("nan"))
        score = r2(readout(validation_features.cpu())[:, None], validation_states.double().cpu()[:, None])
        mean = float(score[0, varies].nanmean())
        if best is None or not mean <= best.validation_r2:
            best = Readout(weight, feature_mean, feature_scale, state_mean, state_scale, varies, penalty, mean)
    assert best is not None
    return best


def r2(
    prediction: Float[Tensor, "clips horizon states"], truth: Float[Tensor, "clips horizon states"]
) -> Float[Tensor, "horizon states"]:
    """R² = 1 − Σ(truth − prediction)² / Σ(truth − mean truth)² over clips: 1 is perfect, 0 is no better than the mean.

    NaN where the truth is the same in all clips.
    """
    return r2_resampled(prediction, truth, torch.ones(1, len(truth), dtype=torch.float64))[0]


def r2_resampled(
    prediction: Float[Tensor, "clips horizon states"],
    truth: Float[Tensor, "clips horizon states"],
    draws: Float[Tensor, "count clips"],
) -> Float[Tensor, "count horizon states"]:
    """`r2` on each bootstrap resample (see `aime.evaluation.bootstrap.resamples`)."""
    prediction, truth = prediction.double(), truth.double()
    shape = truth.shape[1:]
    # Centred first: a position of 100 m that varies by centimetres keeps its digits.
    centre = truth.mean(0, keepdim=True)
    t = (truth - centre).flatten(1)
    count = draws.sum(1, keepdim=True)
    residual = draws @ (truth - prediction).square().flatten(1)
    total = draws @ t.square() - (draws @ t).square() / count
    # Rounding leaves a trace of variance in a constant; relative to its own size, that is none.
    still = total <= count * 1e-12 * (1.0 + centre.square().flatten(1))
    return torch.where(still, torch.nan, 1.0 - residual / total).unflatten(1, shape)


@dataclass(frozen=True)
class StateReadout:
    """How well the physical state is read, by horizon."""

    r2: dict[str, dict[str, Curve]]
    """For `dream` (dreamed beliefs), `watched` (real beliefs of the same frames: the ceiling) and `last_state` (the
    last true state watched, kept: the floor), the mean and the median of R² over the states that vary."""
    by_state: dict[str, list[float]]
    """R² of the dream for each state that varies."""
    penalty: float
    """Ridge penalty, chosen on validation episodes."""
    validation_r2: float
    """Mean R² there, on real beliefs."""


def read_states(
    readout: Readout,
    beliefs: Mapping[str, Float[Tensor, "clips horizon features"]],
    states: Float[Tensor, "clips horizon states"],
    last_state: Float[Tensor, "clips states"],
    names: Sequence[str],
    draws: Float[Tensor, "count clips"],
) -> StateReadout:
    """R² of the states read out of `beliefs` (`dream`, `watched`) against the true ones, with intervals."""
    truth = states.double()
    predictions = {name: readout(features) for name, features in beliefs.items()}
    predictions["last_state"] = last_state[:, None].double().expand_as(truth)
    varies = readout.varies
    curves = {}
    for name, prediction in predictions.items():
        scores = r2(prediction, truth)[:, varies]
        resampled = r2_resampled(prediction, truth, draws)[..., varies]
        curves[name] = {
            "mean": summarise_resampled(scores.nanmean(-1), resampled.nanmean(-1)),
            "median": summarise_resampled(scores.nanmedian(-1).values, resampled.nanmedian(-1).values),
        }
    dream = r2(predictions["dream"], truth)
    return StateReadout(
        r2=curves,
        by_state={names[s]: dream[:, s].tolist() for s in range(truth.shape[-1]) if varies[s]},
        penalty=readout.penalty,
        validation_r2=readout.validation_r2,
    )
