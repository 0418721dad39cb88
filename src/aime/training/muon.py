"""Muon: momentum whose matrices are made orthogonal, for the filters and matrices of perception, dynamics and prior.

The gradient of a filter bank lies mostly in a few directions, those that the many frames of common poses ask for. Its
orthogonal factor moves along all of them alike, and so also towards what the rarer poses need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

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

    If there is an attribute `found_inf` it is a mask, as of the fused optimizers: where it is not zero nothing changes.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

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
        blocks = [block for x in ahead for block in _blocks(x.contiguous())]
        learning = [(part, group["lr"] * _stretch(p)) for p in parameters for part in _blocks(p)]
        for (part, length), block, factor in zip(learning, blocks, orthogonalising(blocks), strict=True):
            part.baddbmm_(factor, block, alpha=-length)
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


def _blocks(parameter: Tensor) -> list[Float[Tensor, "_ _ _"]]:
    """A view of its rows, or of its columns where these are fewer, in blocks; what is left over is a smaller one."""
    matrix = parameter.view(len(parameter), -1)
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    whole = len(wide) - len(wide) % BLOCK
    blocks = [wide[:whole].unflatten(0, (-1, BLOCK)), wide[whole:][None]]
    return [block for block in blocks if block.numel()]


def _stretch(parameter: Tensor) -> float:
    """√max(1, rows / columns): an update then changes what a matrix gives in proportion to what it is given."""
    rows, columns = parameter.flatten(1).shape
    return math.sqrt(max(1.0, rows / columns))


def orthogonalising(blocks: Sequence[Float[Tensor, "_ _ _"]]) -> list[Float[Tensor, "_ _ _"]]:
    """For each block M, which is U S Vᵀ, a matrix whose product with it is about U Vᵀ.

    That is Newton and Schulz's iteration, X ← a X + b X Xᵀ X + c (X Xᵀ)² X from X = M / ‖M‖. Each step multiplies X
    from the left by a polynomial of its Gram matrix G = X Xᵀ, and all of these commute. So G alone is led through the
    iteration: the same in a fifth of the products. But it has the squares of the singular values, and in less than
    float32 it would not hold.
    """
    grams = [block @ block.mT for block in blocks]
    found: dict[int, Tensor] = {}
    for size in {gram.shape[-1] for gram in grams}:
        alike = [index for index, gram in enumerate(grams) if gram.shape[-1] == size]
        factors = _iterate(torch.cat([grams[index] for index in alike]))
        found |= zip(alike, factors.split([len(grams[index]) for index in alike]), strict=True)
    return [found[index] for index in range(len(blocks))]


def _iterate(grams: Float[Tensor, "n block block"]) -> Float[Tensor, "n block block"]:
    a, b, c = COEFFICIENTS
    # ‖M‖² is no less than the square of any singular value, and the iteration needs them within one.
    square = grams.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None].clamp_min(1e-24)
    gram, factor = grams / square, square.rsqrt()
    for left in reversed(range(ITERATIONS)):
        move = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        move.diagonal(dim1=1, dim2=2).add_(a)
        factor = move @ factor if factor.shape == move.shape else move * factor
        if left:
            gram = move @ gram @ move
    return factor
