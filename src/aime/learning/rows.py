"""Linear algebra over several gradients of a model, without ever stacking them.

The gradients of T objectives are T vectors as long as the model is large. A balancer needs their inner products once
and one linear combination of them. Here each vector stays where automatic differentiation left it, in pieces ("runs"):
a run is a stretch of parameters that the same objectives reach, one tensor of the model or many small ones joined. Two
passes go over the runs in chunks that fit the cache: `gram` reads, `combine` writes the update into the storage of one
of the gradients. So no copy of the model is made, and an objective costs nothing where it does not reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

CHUNK_PER_THREAD = 1 << 16
"""Elements of one vector that each core of a CPU handles at a time: four vectors of them fit its second-level cache."""

JOIN_BELOW = 1 << 14
"""Parameters with fewer elements than this are joined, because calls on them would cost more than the arithmetic."""


@dataclass
class Run:
    """A stretch of parameters that the same objectives reach."""

    parameters: tuple[int, ...]
    """Which parameters, by the balancer's numbering, in order."""
    objectives: tuple[int, ...]
    """Which objectives reach them, in order."""
    rows: list[Float[Tensor, " n"]]
    """Their gradients there, in the order of `objectives`. The first is overwritten by the update."""

    def chunks(self) -> Sequence[list[Tensor]]:
        """The rows, cut into cache-sized stretches; on an accelerator in one piece."""
        n = len(self.rows[0])
        size = CHUNK_PER_THREAD * torch.get_num_threads() if self.rows[0].device.type == "cpu" else n
        if n <= size:
            return [self.rows]
        return [[row[i : i + size] for row in self.rows] for i in range(0, n, size)]


def gram(runs: Sequence[Run], objectives: int, device: torch.device) -> Float64[Tensor, "t t"]:
    """Inner products of (g_1 … g_T); what a run lacks counts as zero there.

    Each chunk's product is summed in float32, the chunks in float64: relative errors of the cosines stay near 1e-8.
    """
    cells: dict[tuple[int, int], list[Tensor]] = {}
    for run in runs:
        for rows in run.chunks():
            labelled = list(zip(run.objectives, rows, strict=True))
            for k, (i, left) in enumerate(labelled):
                for j, right in labelled[k:]:
                    cells.setdefault((i, j), []).append(torch.dot(left, right))
    result = torch.zeros(objectives, objectives, dtype=torch.float64, device=device)
    for (i, j), parts in cells.items():
        result[i, j] = result[j, i] = torch.stack(parts).double().sum()
    return result


def combine(runs: Sequence[Run], weights: Float64[Tensor, " t"]) -> None:
    """Overwrites each run's first row by Σ weights_i g_i. A weight of zero silences its row even where that is NaN."""
    scales = coefficients(weights)
    for run in runs:
        for rows in run.chunks():
            (i, total), *others = zip(run.objectives, rows, strict=True)
            scale_(total, scales[i])
            for j, row in others:
                add_scaled(total, row, scales[j])


def coefficients(weights: Tensor) -> list[float] | list[Tensor]:
    """Numbers to scale rows by.

    Plain numbers on a CPU, where they are at hand; scalar tensors on an accelerator, where the host would have to wait.
    """
    return weights.tolist() if weights.device.type == "cpu" else list(weights.float())


def add_scaled(total: Tensor, row: Tensor, weight: float | Tensor) -> None:
    """total += weight · row, where a weight of zero silences any row."""
    if isinstance(weight, Tensor):
        total.add_((row * weight).masked_fill_(weight == 0, 0.0))
    elif weight != 0.0:
        total.add_(row, alpha=weight)


def scale_(row: Tensor, weight: float | Tensor) -> Tensor:
    """row *= weight, where a weight of zero silences any row."""
    if isinstance(weight, Tensor):
        return row.mul_(weight).masked_fill_(weight == 0, 0.0)
    if weight == 0.0:
        return row.zero_()
    return row if weight == 1.0 else row.mul_(weight)
