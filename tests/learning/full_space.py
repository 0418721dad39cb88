"""RGB written down as its equations stand, on whole vectors: slow, plain, and independent of `aime.learning`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize


@dataclass
class FullSpace:
    """One step of RGB on gradients G (T, n), nothing remembered."""

    angles: np.ndarray
    limits: np.ndarray
    rotated: np.ndarray
    update: np.ndarray
    objective: float


def unit(x: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(x)
    return x / norm if norm > 0 else x


def objective(rotated: np.ndarray, units: np.ndarray, lambd: float) -> float:
    """1/(T(T−1)) Σ_{i<j}(1 − r_i·r_j) + λ/(4T) Σ‖r_i − ḡ_i‖²."""
    t = len(units)
    pairs = sum(1 - rotated[i] @ rotated[j] for i in range(t) for j in range(i + 1, t))
    return float(pairs / (t * (t - 1)) + lambd / (4 * t) * np.sum((rotated - units) ** 2))


def solve(
    gradients: np.ndarray,
    *,
    lambd: float = 1.0,
    weights: np.ndarray | None = None,
    voices: np.ndarray | None = None,
    starts: int = 12,
    seed: int = 0,
) -> FullSpace:
    """The equations, with the angles found by L-BFGS-B from all corners and `starts` random points."""
    t = len(gradients)
    norms = np.linalg.norm(gradients, axis=1)
    units = gradients / norms[:, None]
    consensus = unit(np.average(units, axis=0, weights=voices))
    limits = np.arccos(np.clip(units @ consensus, -1, 1))
    ways = np.stack([unit(consensus - (g @ consensus) * g) for g in units])

    def turned(angles: np.ndarray) -> np.ndarray:
        return np.cos(angles)[:, None] * units + np.sin(angles)[:, None] * ways

    def value(angles: np.ndarray) -> tuple[float, np.ndarray]:
        rotated = turned(angles)
        moving = -np.sin(angles)[:, None] * units + np.cos(angles)[:, None] * ways
        others = rotated.sum(0) - rotated
        pull = lambd / (2 * t) * ((rotated - units) * moving).sum(1)
        return objective(rotated, units, lambd), pull - (moving * others).sum(1) / (t * (t - 1))

    random = np.random.default_rng(seed)
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * t)).reshape(t, -1).T
    best = None
    for start in [*(corners * limits), *(random.random((starts, t)) * limits)]:
        found = minimize(value, start, jac=True, method="L-BFGS-B", bounds=[(0, x) for x in limits], tol=1e-15)
        if best is None or found.fun < best.fun:
            best = found
    rotated = turned(best.x)
    say = np.ones(t) if weights is None else weights
    return FullSpace(
        angles=best.x,
        limits=limits,
        rotated=rotated,
        update=norms.mean() * (say[:, None] * rotated).sum(0),
        objective=best.fun,
    )
