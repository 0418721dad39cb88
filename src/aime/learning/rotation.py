"""The angles by which RGB turns each gradient towards the consensus: a small non-convex problem, solved exactly.

Each unit gradient ḡ_i may turn by α_i in the plane that it spans with the consensus: r_i = cos α_i ḡ_i + sin α_i w_i,
with 0 ≤ α_i ≤ θ_i = ∠(ḡ_i, d). The angles maximise

    f(α) = Σ_{i<j} r_i·r_j + κ Σ_i cos α_i,      κ = λ (T − 1) / 2,

which is, up to a constant and the factor −T(T − 1), the objective of rotation-based balancing
1/(T(T−1)) Σ_{i<j} (1 − r_i·r_j) + λ/(4T) Σ ‖r_i − ḡ_i‖². Only inner products of ḡ and w enter it.

With the other angles held, f is A cos α_i + B sin α_i, so a sweep of exact coordinate maximisation has a closed form.
Sweeps find the right hill from any start but climb it linearly, so each round ends with one projected Newton step,
which converges quadratically. f has several hills: the climb starts from 2 + 2T corners of the box at once (no turn,
full turn, and one gradient alone turned or unturned) and the highest end wins. Nothing here branches on a tensor's
value, so on an accelerator nothing waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

SWEEPS_PER_ROUND = 4
"""Exact coordinate sweeps before each Newton step: fewer leave the Newton step outside its region of convergence."""

_STEP_SIZES = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class AngleProblem:
    """f(α) as above, for T gradients."""

    products: Float64[Tensor, "twice twice"]
    """Gram matrix of (ḡ_1 … ḡ_T, w_1 … w_T), 2T points; zero where both belong to one gradient."""
    limit: Float64[Tensor, " t"]
    """Largest angle θ_i in radians, in [0, π]; 0 holds a gradient still."""
    kappa: Float64[Tensor, ""]
    """Weight κ ≥ 0 of staying where one is."""

    @classmethod
    def of(cls, gg: Tensor, gw: Tensor, ww: Tensor, limit: Tensor, kappa: Tensor) -> AngleProblem:
        """From the inner products ḡ_i·ḡ_j, ḡ_i·w_j and w_i·w_j, each T × T; their diagonals do not matter."""
        products = torch.cat([torch.cat([gg, gw], dim=1), torch.cat([gw.T, ww], dim=1)])
        others = 1.0 - torch.eye(len(limit), dtype=products.dtype, device=products.device)
        return cls(products * others.repeat(2, 2), limit, kappa)

    def value(self, angles: Float64[Tensor, "starts t"]) -> Float64[Tensor, " starts"]:
        """f(α), which the angles maximise."""
        cos = angles.cos()
        position = torch.cat([cos, angles.sin()], dim=-1)
        return (position @ self.products * position).sum(-1) / 2 + self.kappa * cos.sum(-1)

    def solve(self, rounds: int) -> Float64[Tensor, " t"]:
        """The angles at the highest point reached from the corners.

        After three rounds f(α) is within 1e-9 of its global maximum, and α within 1e-6 of the maximiser where that is
        unique and f is not flat around it.
        """
        alone = torch.diag(self.limit)
        angles = torch.cat([torch.zeros_like(self.limit)[None], self.limit[None], alone, self.limit - alone])
        for _ in range(rounds):
            for _ in range(SWEEPS_PER_ROUND):
                angles = self._sweep(angles)
            angles = self._newton(angles)
        # a tensor index rather than .item(), so that the host does not wait
        return angles.index_select(0, self.value(angles).argmax().reshape(1)).squeeze(0)

    def _sweep(self, angles: Tensor) -> Tensor:
        """Sets one angle after the other to its exact maximiser, given the others."""
        t = len(self.limit)
        angles = angles.clone()
        position = torch.cat([angles.cos(), angles.sin()], dim=-1)
        for i in range(t):
            along = position @ self.products[:, i] + self.kappa
            across = position @ self.products[:, t + i]
            limit = self.limit[i]
            peak = torch.atan2(across, along)
            at_limit = along * limit.cos() + across * limit.sin()
            end = torch.where(at_limit > along, limit, torch.zeros_like(limit))
            best = torch.where((peak >= 0) & (peak <= limit), peak, end)
            angles[:, i], position[:, i], position[:, t + i] = best, best.cos(), best.sin()
        return angles

    def _newton(self, angles: Tensor) -> Tensor:
        """One projected Newton step, shortened or refused where it would not climb."""
        t = len(self.limit)
        cos, sin = angles.cos(), angles.sin()
        pull = torch.cat([cos, sin], dim=-1) @ self.products
        along = cos * pull[:, :t] + sin * pull[:, t:]
        slope = cos * pull[:, t:] - sin * pull[:, :t] - self.kappa * sin
        # Second derivatives: dr_i·dr_j off the diagonal, −r_i·Σ_j r_j − κ cos α_i on it.
        turn = torch.cat([torch.diag_embed(-sin), torch.diag_embed(cos)], dim=-1)
        hessian = turn @ self.products @ turn.mT - torch.diag_embed(along + self.kappa * cos)
        free = ~(((angles <= 0) & (slope < 0)) | ((angles >= self.limit) & (slope > 0)))
        mask = free.to(angles.dtype)
        system = torch.diag_embed(1.0 - mask) - hessian * mask[:, :, None] * mask[:, None, :]
        # solve_ex does not raise on a singular system, for which the host would have to wait; a step of NaN never
        # climbs.
        step = torch.linalg.solve_ex(system, (slope * mask)[..., None]).result.squeeze(-1)
        best, height = angles, self.value(angles)
        for size in _STEP_SIZES:
            candidate = torch.minimum((angles + size * step).clamp(min=0.0), self.limit)
            reached = self.value(candidate)
            higher = reached > height
            best = torch.where(higher[:, None], candidate, best)
            height = torch.where(higher, reached, height)
        return best
