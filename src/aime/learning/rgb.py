"""RGB, rotation-based gradient balancing: every objective turns towards the consensus, none past it.

    ḡ_i = g_i / ‖g_i‖                                   each objective's own direction
    d   ← normalise(μ d + (1 − μ) mean_i ḡ_i)           the consensus, which has a memory
    w_i = the unit part of d orthogonal to ḡ_i          the way to turn
    r_i = cos α_i ḡ_i + sin α_i w_i                     0 ≤ α_i ≤ ∠(ḡ_i, d), see `aime.learning.rotation`
    update = mean_i ‖g_i‖ · Σ_i ω_i r_i                 ω_i: the say of objective i, 1 by default

All of it lies in the span of {g_1 … g_T, d} and depends on their inner products alone, so `rotate` works on a
(T + 1) × (T + 1) Gram matrix and answers with the coefficients of the update and of the new consensus. `RGB` is the
same thing as a `torchjd` aggregator; `aime.learning.balancers` applies it to a model without ever stacking its
gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor
from torchjd.aggregation import Aggregator

from aime.errors import ConfigError, ShapeError
from aime.learning.rotation import AngleProblem

PARALLEL = 1e-3
"""Radians within which two directions count as one: inner products summed in float32 tell no finer."""

_VANISHED = 1e-12
"""Squared norm of μ d + (1 − μ) mean ḡ below which its direction is rounding noise."""


@dataclass(frozen=True)
class Rotation:
    """What RGB decided, in float64 on the Gram matrix's device. T objectives; the last coefficient is the old d's."""

    update: Float64[Tensor, " rows"]
    """Coefficients of (g_1 … g_T, d) in the update."""
    consensus: Float64[Tensor, " rows"]
    """Coefficients of (g_1 … g_T, d) in the new d, which has norm 1 (or is zero if there was nothing to agree on)."""
    angles: Float64[Tensor, " t"]
    """Angle α_i in radians by which each gradient was turned."""
    limits: Float64[Tensor, " t"]
    """Angle ∠(ḡ_i, d) in radians to the new consensus; 0 for what cannot turn."""
    active: Bool[Tensor, " t"]
    """Objectives that have a say: a finite gradient that is not zero."""


def rotate(
    gram: Float64[Tensor, "rows rows"],
    *,
    mu: float = 0.9,
    lambd: float = 1.0,
    alpha_steps: int = 3,
    objective_weights: Float64[Tensor, " t"] | None = None,
    consensus_weights: Float64[Tensor, " t"] | None = None,
) -> Rotation:
    """Solves RGB on the Gram matrix of (g_1 … g_T, d), rows = T + 1.

    An objective with a zero or non-finite gradient has no say and does not touch the consensus. A gradient that is
    parallel or antiparallel to d (within `PARALLEL`) has no way to turn and stays; with d = 0 (the first step) the
    consensus is the mean direction.

    Args:
        gram: inner products; the last row and column belong to d, which may be zero. Rows of T that hold a NaN or an
            infinity are taken out.
        mu: momentum of d, in [0, 1).
        lambd: λ ≥ 0, how strongly a gradient is held to its own direction.
        alpha_steps: rounds of the solver; three reach the optimum (`AngleProblem.solve`).
        objective_weights: ω, one per objective, applied after the rotation.
        consensus_weights: the share of each objective in the mean that moves d; equal where not given. With a plain
            mean an objective of small ω would still steer all the others through d.
    """
    t = gram.shape[0] - 1
    squares = gram.diagonal()
    known = torch.isfinite(squares) & (squares > 0)
    active = known[:t]
    inverse = known.to(gram.dtype) / torch.where(known, squares, 1.0).sqrt()
    both = known[:, None] & known[None, :]
    cosines = torch.where(both, gram * inverse[:, None] * inverse[None, :], 0.0).clamp(-1.0, 1.0)
    norms = torch.where(active, squares[:t], 0.0).sqrt()
    count = active.to(gram.dtype).sum()
    of_active = active.to(gram.dtype) / count.clamp(min=1)  # turns a sum over the active into their mean

    # The consensus, as coefficients of the unit vectors (ḡ_1 … ḡ_T, d/‖d‖).
    voices = active.to(gram.dtype) if consensus_weights is None else active * consensus_weights
    voices = voices / voices.sum().clamp(min=torch.finfo(gram.dtype).tiny)
    blend = torch.cat([(1.0 - mu) * voices, mu * known[t:].to(gram.dtype)])
    square = blend @ cosines @ blend
    unchanged = torch.zeros_like(blend)
    unchanged[t] = known[t]
    blend = torch.where(square > _VANISHED, blend / square.clamp(min=_VANISHED).sqrt(), unchanged)
    exists = (square > _VANISHED) | known[t]

    # Where each gradient stands towards it, and the inner products of the directions of turn.
    c = (cosines @ blend)[:t].clamp(-1.0, 1.0)
    s = (1.0 - c * c).sqrt()
    turns = active & exists & (s > PARALLEL)
    per_s = turns.to(gram.dtype) / torch.where(turns, s, 1.0)
    gg = cosines[:t, :t]
    gw = (c[:, None] - c[None, :] * gg) * per_s[None, :]
    ww = (1.0 - c[:, None] ** 2 - c[None, :] ** 2 + c[:, None] * c[None, :] * gg) * per_s[:, None] * per_s[None, :]
    limits = torch.where(turns, torch.atan2(s, c), 0.0)
    kappa = lambd * (count - 1).clamp(min=0) / 2
    angles = AngleProblem.of(gg, gw.clamp(-1.0, 1.0), ww.clamp(-1.0, 1.0), limits, kappa).solve(alpha_steps)

    # r_i = (cos α_i − sin α_i cot θ_i) ḡ_i + (sin α_i / sin θ_i) d, and Σ ω_i r_i at the mean norm.
    say = norms @ of_active * active
    if objective_weights is not None:
        say = say * objective_weights
    towards = angles.sin() * per_s
    own = angles.cos() - towards * c
    update = (say * towards).sum() * blend
    update[:t] += say * own
    return Rotation(update * inverse, blend * inverse, angles, limits, active)


class RGB(Aggregator):
    """Rotation-based balancing as a `torchjd` aggregator: a (T, n) Jacobian in, an (n,) update out.

    It remembers the consensus between calls; `reset` forgets it, and `state_dict` holds it.

    Args:
        mu, lambd, alpha_steps, objective_weights: as for `rotate`.

    >>> RGB()(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([2.7964, 2.7964])
    """

    consensus: Tensor | None
    angles: Tensor | None

    def __init__(
        self,
        mu: float = 0.9,
        lambd: float = 1.0,
        alpha_steps: int = 3,
        objective_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= mu < 1.0 or lambd < 0.0 or alpha_steps < 1:
            raise ConfigError(
                f"RGB needs 0 <= mu < 1, lambd >= 0 and alpha_steps >= 1, not mu={mu}, lambd={lambd}, "
                f"alpha_steps={alpha_steps}"
            )
        self.mu, self.lambd, self.alpha_steps = mu, lambd, alpha_steps
        self.objective_weights = None if objective_weights is None else tuple(objective_weights)
        self.consensus = None
        self.angles = None

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        """The update for the rows of `matrix` (T, n), in its dtype; advances the consensus."""
        d = matrix.new_zeros(matrix.shape[1]) if self.consensus is None else self.consensus.to(matrix)
        if d.shape[0] != matrix.shape[1]:
            raise ShapeError(
                f"this RGB holds a consensus over {d.shape[0]} parameters but was given gradients of "
                f"{matrix.shape[1]}; call reset() to start anew"
            )
        if self.objective_weights is not None and len(self.objective_weights) != matrix.shape[0]:
            raise ShapeError(f"RGB has {len(self.objective_weights)} objective_weights for {matrix.shape[0]} gradients")
        rows = torch.cat([matrix, d[None]]).double()
        weights = None if self.objective_weights is None else rows.new_tensor(self.objective_weights)
        rotation = rotate(
            rows @ rows.T, mu=self.mu, lambd=self.lambd, alpha_steps=self.alpha_steps, objective_weights=weights
        )
        # A row without a say may hold NaN, and 0 · NaN is NaN.
        silent = ~torch.cat([rotation.active, rotation.active.new_ones(1)])
        rows = rows.masked_fill(silent[:, None], 0.0)
        self.consensus = (rotation.consensus @ rows).to(matrix.dtype)
        self.angles = rotation.angles
        return (rotation.update @ rows).to(matrix.dtype)

    def reset(self) -> None:
        """Forgets the consensus."""
        self.consensus = None
        self.angles = None

    def get_extra_state(self) -> dict[str, Tensor | None]:
        """The consensus and the last angles, for `state_dict`."""
        return {"consensus": self.consensus, "angles": self.angles}

    def set_extra_state(self, state: dict[str, Tensor | None]) -> None:
        """Takes over what `get_extra_state` gave."""
        self.consensus, self.angles = state["consensus"], state["angles"]

    def __repr__(self) -> str:
        return f"RGB(mu={self.mu}, lambd={self.lambd}, alpha_steps={self.alpha_steps})"
