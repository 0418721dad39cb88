"""RGB, rotation-based gradient balancing: every objective turns towards the consensus, none past it.

    ḡ_i = g_i / ‖g_i‖                                   each objective's own direction
    C   ← μ C + (1 − μ) ḡ·ḡᵀ                            how the objectives stand to each other: cosines, with a memory
    d   = normalise(mean_i ḡ_i)                         the consensus
    w_i = the unit part of d orthogonal to ḡ_i          the way to turn
    r_i = cos α_i ḡ_i + sin α_i w_i                     0 ≤ α_i ≤ ∠(ḡ_i, d), see `aime.learning.rotation`
    update = mean_i ‖g_i‖ · Σ_i ω_i r_i                 ω_i: the say of objective i, 1 by default

The angles are those that are best for the remembered cosines; the directions are those of the present step. So the
memory steadies how far each gradient turns, and never moves a parameter by itself: a remembered *direction* would (the
update would run tens of steps behind the losses, at full length, and what is faint at first, such as a latent that
begins to carry a body's position, drowns in it).

All of it lies in the span of {g_1 … g_T} and depends on their inner products alone, so `rotate` works on a T × T Gram
matrix and answers with the coefficients of the update. `RGB` is the same thing as a `torchjd` aggregator;
`aime.learning.balancers` applies it to a model without ever stacking its gradients.
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
"""Squared norm of mean ḡ below which its direction is rounding noise."""


@dataclass(frozen=True)
class Rotation:
    """What RGB decided, in float64 on the Gram matrix's device, for T objectives."""

    update: Float64[Tensor, " t"]
    """Coefficients of (g_1 … g_T) in the update."""
    cosines: Float64[Tensor, "t t"]
    """The remembered cosines C, for the next step; zero where an objective was never heard."""
    angles: Float64[Tensor, " t"]
    """Angle α_i in radians by which each gradient was turned."""
    limits: Float64[Tensor, " t"]
    """Angle ∠(ḡ_i, d) in radians to the consensus; 0 for what cannot turn."""
    active: Bool[Tensor, " t"]
    """Objectives that have a say: a finite gradient that is not zero."""


@dataclass(frozen=True)
class _Stance:
    """Where T unit vectors with the given cosines stand towards their consensus d = Σ blend_i ḡ_i."""

    cosines: Float64[Tensor, "t t"]
    blend: Float64[Tensor, " t"]
    c: Float64[Tensor, " t"]
    """cos ∠(ḡ_i, d)."""
    per_s: Float64[Tensor, " t"]
    """1 / sin ∠(ḡ_i, d); 0 for what cannot turn."""
    limits: Float64[Tensor, " t"]

    @classmethod
    def of(cls, cosines: Tensor, voices: Tensor, active: Tensor) -> _Stance:
        square = voices @ cosines @ voices
        exists = square > _VANISHED
        blend = voices / square.clamp(min=_VANISHED).sqrt()
        c = (cosines @ blend).clamp(-1.0, 1.0)
        s = (1.0 - c * c).sqrt()
        turns = active & exists & (s > PARALLEL)
        per_s = turns.to(c.dtype) / torch.where(turns, s, 1.0)
        return cls(cosines, blend, c, per_s, torch.where(turns, torch.atan2(s, c), 0.0))

    def best_angles(self, kappa: Tensor, alpha_steps: int) -> Float64[Tensor, " t"]:
        c, per_s = self.c, self.per_s
        gw = (c[:, None] - c[None, :] * self.cosines) * per_s[None, :]
        ww = 1.0 - c[:, None] ** 2 - c[None, :] ** 2 + c[:, None] * c[None, :] * self.cosines
        ww = ww * per_s[:, None] * per_s[None, :]
        problem = AngleProblem.of(self.cosines, gw.clamp(-1.0, 1.0), ww.clamp(-1.0, 1.0), self.limits, kappa)
        return problem.solve(alpha_steps)


def rotate(
    gram: Float64[Tensor, "t t"],
    remembered: Float64[Tensor, "t t"] | None = None,
    *,
    mu: float = 0.9,
    lambd: float = 1.0,
    alpha_steps: int = 3,
    objective_weights: Float64[Tensor, " t"] | None = None,
    consensus_weights: Float64[Tensor, " t"] | None = None,
) -> Rotation:
    """Solves RGB on the Gram matrix of (g_1 … g_T).

    An objective with a zero or non-finite gradient has no say: it touches neither the consensus nor what is remembered.
    A gradient that is parallel or antiparallel to d (within `PARALLEL`) has no way to turn and stays.

    Args:
        gram: inner products. Rows that hold a NaN or an infinity are taken out.
        remembered: the cosines C of the step before; None, or zero on the diagonal where an objective was never heard.
        mu: momentum of C, in [0, 1).
        lambd: λ ≥ 0, how strongly a gradient is held to its own direction.
        alpha_steps: rounds of the solver; three reach the optimum (`AngleProblem.solve`).
        objective_weights: ω, one per objective, applied after the rotation.
        consensus_weights: the share of each objective in the mean that is d; equal where not given. With a plain
            mean an objective of small ω would still steer all the others through d.
    """
    squares = gram.diagonal()
    active = torch.isfinite(squares) & (squares > 0)
    inverse = active.to(gram.dtype) / torch.where(active, squares, 1.0).sqrt()
    both = active[:, None] & active[None, :]
    cosines = torch.where(both, gram * inverse[:, None] * inverse[None, :], 0.0).clamp(-1.0, 1.0)
    norms = torch.where(active, squares, 0.0).sqrt()
    count = active.to(gram.dtype).sum()
    of_active = active.to(gram.dtype) / count.clamp(min=1)  # turns a sum over the active into their mean

    memory = cosines if remembered is None else _remember(cosines, remembered, both, mu)
    voices = active.to(gram.dtype) if consensus_weights is None else active * consensus_weights
    voices = voices / voices.sum().clamp(min=torch.finfo(gram.dtype).tiny)
    kappa = lambd * (count - 1).clamp(min=0) / 2
    wanted = _Stance.of(torch.where(both, memory, 0.0), voices, active).best_angles(kappa, alpha_steps)
    now = _Stance.of(cosines, voices, active)
    angles = torch.minimum(wanted, now.limits)

    # r_i = (cos α_i − sin α_i cot θ_i) ḡ_i + (sin α_i / sin θ_i) d, and Σ ω_i r_i at the mean norm.
    say = norms @ of_active * active
    if objective_weights is not None:
        say = say * objective_weights
    towards = angles.sin() * now.per_s
    update = (say * towards).sum() * now.blend + say * (angles.cos() - towards * now.c)
    return Rotation(update * inverse, memory, angles, now.limits, active)


def _remember(cosines: Tensor, remembered: Tensor, both: Tensor, mu: float) -> Tensor:
    """C after this step. A pair that was not heard now keeps what is remembered; one never heard before starts here."""
    heard = remembered.diagonal() > 0
    blended = torch.where(heard[:, None] & heard[None, :], mu * remembered + (1.0 - mu) * cosines, cosines)
    return torch.where(both, blended, remembered)


class RGB(Aggregator):
    """Rotation-based balancing as a `torchjd` aggregator: a (T, n) Jacobian in, an (n,) update out.

    It remembers between calls how the gradients stand to each other; `reset` forgets it, and `state_dict` holds it.

    Args:
        mu, lambd, alpha_steps, objective_weights: as for `rotate`.

    >>> RGB()(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([2.7964, 2.7964])
    """

    cosines: Tensor | None
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
        self.cosines = None
        self.angles = None

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        """The update for the rows of `matrix` (T, n), in its dtype; advances the memory."""
        if self.cosines is not None and len(self.cosines) != matrix.shape[0]:
            raise ShapeError(
                f"this RGB remembers {len(self.cosines)} objectives but was given gradients of {matrix.shape[0]}; "
                "call reset() to start anew"
            )
        if self.objective_weights is not None and len(self.objective_weights) != matrix.shape[0]:
            raise ShapeError(f"RGB has {len(self.objective_weights)} objective_weights for {matrix.shape[0]} gradients")
        rows = matrix.double()
        weights = None if self.objective_weights is None else rows.new_tensor(self.objective_weights)
        rotation = rotate(
            rows @ rows.T,
            None if self.cosines is None else self.cosines.to(rows),
            mu=self.mu,
            lambd=self.lambd,
            alpha_steps=self.alpha_steps,
            objective_weights=weights,
        )
        # A row without a say may hold NaN, and 0 · NaN is NaN.
        rows = rows.masked_fill(~rotation.active[:, None], 0.0)
        self.cosines, self.angles = rotation.cosines, rotation.angles
        return (rotation.update @ rows).to(matrix.dtype)

    def reset(self) -> None:
        """Forgets how the gradients stood to each other."""
        self.cosines = None
        self.angles = None

    def get_extra_state(self) -> dict[str, Tensor | None]:
        """The remembered cosines and the last angles, for `state_dict`."""
        return {"cosines": self.cosines, "angles": self.angles}

    def set_extra_state(self, state: dict[str, Tensor | None]) -> None:
        """Takes over what `get_extra_state` gave."""
        self.cosines, self.angles = state["cosines"], state["angles"]

    def __repr__(self) -> str:
        return f"RGB(mu={self.mu}, lambd={self.lambd}, alpha_steps={self.alpha_steps})"
