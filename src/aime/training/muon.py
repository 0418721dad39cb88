"""Muon: momentum whose matrices are made orthogonal, for the filters and matrices of perception, dynamics and prior.

The gradient of a filter bank lies mostly in a few directions, those that the many frames of common poses ask for. Its
orthogonal factor moves along all of them alike, and so also towards what the rarer poses need.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

BLOCK = 32
"""Rows, at most, that are made orthogonal to each other. The price of an update grows with it."""
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that each iteration applies to the singular values. Five bring those that are no less than a 300th
of the Frobenius norm to between 0.68 and 1.21."""


class Muon(torch.optim.Optimizer):
    """W ← (1 − η·decay) W − η √max(1, rows / columns) · orthogonal(momentum) (Jordan et al., 2024, "Muon").

    As elsewhere a parameter's first dimension are its rows; all others together are its columns, so that a filter is a
    row of what it reads, and a transposed one a row of what it writes. Rows (or columns, where these are fewer) are
    made orthogonal in blocks of `BLOCK`.

    Args:
        params: parameters of two or more dimensions, or groups of them.
        lr: η, about the spectral norm of an update.
        weight_decay: decoupled, as AdamW's; of a group it may be a tensor (0-d), which nobody reads on the host.
        momentum: Nesterov's.
        dtype: in which the matrix products are done; bfloat16 is enough.

    If there is an attribute `found_inf` it is a mask, as of the fused optimizers: where it is not zero nothing changes.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update by the gradients that there are."""
        assert closure is None
        bad: Tensor | None = getattr(self, "found_inf", None)
        if bad is not None and _known(bad):
            if bad:
                return
            bad = None
        for group in self.param_groups:
            if learning := [p for p in group["params"] if p.grad is not None]:
                self._move(learning, group, bad)

    def _move(self, parameters: list[nn.Parameter], group: dict[str, Any], bad: Tensor | None) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        means = [self._momentum(p) for p in parameters]
        changing: list[Tensor] = [*parameters, *means]
        before = [] if bad is None else [x.clone() for x in changing]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, means, group["momentum"])  # Nesterov's look ahead
        torch._foreach_mul_(changing[: len(parameters)], 1 - group["lr"] * group["weight_decay"])
        directions = orthogonal([x.flatten(1) for x in ahead], self.dtype)
        for parameter, direction in zip(parameters, directions, strict=True):
            rows, columns = direction.shape
            length = group["lr"] * math.sqrt(max(1.0, rows / columns))
            parameter.sub_(direction.reshape(parameter.shape), alpha=length)
        if bad is not None:
            for x, old in zip(changing, before, strict=True):
                x.copy_(torch.where(bad > 0, old, x))

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        if not (state := self.state[parameter]):
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def _known(bad: Tensor) -> bool:
    """Whether it costs nothing to ask: on the CPU. A GPU goes on, and masks what it did."""
    return not bad.is_cuda


def orthogonal(
    matrices: Sequence[Float[Tensor, "_ _"]], dtype: torch.dtype = torch.float32
) -> list[Float[Tensor, "_ _"]]:
    """About the orthogonal factor U Vᵀ of each matrix U S Vᵀ, in blocks of rows, or of columns where these are fewer.

    Newton and Schulz's iteration, by matrix products (of `dtype`) alone; those of one shape are done at once.
    """
    shaped = defaultdict(list)
    for index, matrix in enumerate(matrices):
        blocks = _blocks(matrix.T if matrix.shape[0] > matrix.shape[1] else matrix)
        shaped[blocks.shape[1:]].append((index, blocks))
    found: dict[int, Tensor] = {}
    for alike in shaped.values():
        done = _iterate(torch.cat([blocks for _, blocks in alike]), dtype)
        for (index, _), blocks in zip(alike, done.split([len(blocks) for _, blocks in alike]), strict=True):
            rows, columns = matrices[index].shape
            flat = blocks.flatten(0, 1)[: min(rows, columns)]
            found[index] = flat.T if rows > columns else flat
    return [found[index] for index in range(len(matrices))]


def _blocks(wide: Float[Tensor, "rows columns"]) -> Float[Tensor, "blocks block columns"]:
    """As few blocks of rows as there may be, of one size; rows of zeros, which stay zero, fill up the last."""
    rows, columns = wide.shape
    count = math.ceil(rows / BLOCK)
    size = math.ceil(rows / count)
    whole = wide if rows == count * size else pad(wide, (0, 0, 0, count * size - rows))
    return whole.reshape(count, size, columns)


def _iterate(blocks: Float[Tensor, "n block columns"], dtype: torch.dtype) -> Float[Tensor, "n block columns"]:
    a, b, c = COEFFICIENTS
    # The Frobenius norm is no less than any singular value, and the iteration needs them within one.
    x = (blocks / torch.linalg.matrix_norm(blocks, keepdim=True).clamp_min(1e-12)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(blocks.dtype)
