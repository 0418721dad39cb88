"""The other balancers, from `torchjd`, reduced to what they need: the Gram matrix of the gradients.

Every one of them answers with a combination of the gradients that depends on their inner products alone, so the model's
gradients are read once for the Gram matrix and once to combine them, whichever balancer is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from jaxtyping import Float64
from torch import Tensor
from torchjd.aggregation import (
    AlignedMTLWeighting,
    CAGradWeighting,
    ConFIG,
    MeanWeighting,
    PCGradWeighting,
    SumWeighting,
    UPGradWeighting,
    Weighting,
)
from torchjd.linalg import DualConeProjector

from aime.errors import ConfigError, unknown

CAGRAD_RADIUS = 0.5
"""Radius c of CAGrad's ball around the mean gradient, as in most experiments of its paper (arXiv 2110.14048)."""

NOISE = 1e-6
"""Eigenvalue of a matrix of cosines below which it is taken for rounding noise."""


class ExactProjector(DualConeProjector):
    """Projection onto the dual cone by trying every set of active constraints: exact, for few objectives."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        """argmin_v vᵀ G v subject to v ≥ u, for each row u of `U` (…, m); `G` is (m, m)."""
        m = G.shape[0]
        flat = U.reshape(-1, m)
        best = flat.clone()  # v = u always satisfies the constraints
        cost = torch.einsum("ni,ij,nj->n", best, G, best)
        slack = 1e-9 * flat.abs().amax(dim=1, keepdim=True)
        for size in range(1, m + 1):
            for free in combinations(range(m), size):
                held = [i for i in range(m) if i not in free]
                at = list(free)
                v = flat.clone()
                v[:, at] = -flat[:, held] @ G[held][:, at] @ torch.linalg.pinv(G[at][:, at], hermitian=True)
                value = torch.einsum("ni,ij,nj->n", v, G, v)
                better = (v >= flat - slack).all(dim=1) & (value < cost)
                best, cost = torch.where(better[:, None], v, best), torch.where(better, value, cost)
        return best.reshape(U.shape)


def _cagrad() -> Weighting:
    try:
        return CAGradWeighting(c=CAGRAD_RADIUS)
    except ImportError as error:
        raise ConfigError(
            "balancer cagrad needs the packages cvxpy and clarabel: pip install aime[cagrad], or choose "
            "another balancer"
        ) from error


_MAKERS: dict[str, Callable[[], Weighting]] = {
    "mean": MeanWeighting,
    "sum": SumWeighting,
    "upgrad": lambda: UPGradWeighting(projector=ExactProjector()),
    "pcgrad": PCGradWeighting,
    "cagrad": _cagrad,
    "alignedmtl": AlignedMTLWeighting,
}


class GramAggregator:
    """One of `torchjd`'s aggregators, by name, on a Gram matrix.

    Args:
        name: `mean`, `sum`, `upgrad`, `pcgrad`, `cagrad`, `config` or `alignedmtl`.

    Raises:
        ConfigError: the name is unknown, or `cagrad` was asked for without its solver.
    """

    def __init__(self, name: str) -> None:
        if name != "config" and name not in _MAKERS:
            raise unknown("balancer", name, [*_MAKERS, "config"])
        self.name = name
        self._weighting = None if name == "config" else _MAKERS[name]()

    def weights(self, gram: Float64[Tensor, "t t"], objective_weights: Sequence[float]) -> Float64[Tensor, " t"]:
        """Coefficients of the gradients in the update, on the Gram matrix's device.

        An objective with a zero or non-finite gradient, or a weight of zero, gets zero and is not counted. The weights
        scale the gradients before they are aggregated; ConFIG, which forgets scale, takes them as its preference. The
        host waits for the Gram matrix here.
        """
        here = gram.detach().cpu()
        say = torch.tensor(list(objective_weights), dtype=here.dtype)
        squares = here.diagonal()
        active = (torch.isfinite(squares) & (squares > 0) & (say > 0)).nonzero().squeeze(-1)
        result = torch.zeros(len(here), dtype=here.dtype)
        if len(active) > 0:
            here, say = _without_noise(here[active][:, active]), say[active]
            if self._weighting is None:
                result[active] = _config(here, say)
            else:
                scaled = here * say[:, None] * say[None, :]
                # The answers do not depend on the overall scale, but thresholds inside some of them do.
                result[active] = say * self._weighting(scaled / scaled.diagonal().sum())
        return result.to(gram.device)


def _without_noise(gram: Tensor) -> Tensor:
    """The Gram matrix with the rank that its cosines, known to some 1e-8, can vouch for.

    Gradients that agree leave an eigenvalue of rounding noise, to whose root AlignedMTL would shrink the update.
    """
    norms = gram.diagonal().sqrt()
    values, vectors = torch.linalg.eigh(gram / norms[:, None] / norms[None, :])
    kept = torch.where(values > NOISE, values, 0.0)
    return (vectors * kept) @ vectors.T * norms[:, None] * norms[None, :]


def _config(gram: Tensor, preference: Tensor) -> Tensor:
    """ConFIG wants the Jacobian itself: it gets a T × T matrix with the same Gram matrix.

    ConFIG's answer lies in the span of the rows, and turning the rows turns it with them, so its coefficients are the
    same.
    """
    values, vectors = torch.linalg.eigh(gram / gram.diagonal().sum())
    noise = values.amax() * len(gram) * torch.finfo(gram.dtype).eps
    jacobian = vectors * torch.where(values > noise, values, 0.0).sqrt()
    return torch.linalg.pinv(jacobian.T) @ ConFIG(pref_vector=preference)(jacobian)
