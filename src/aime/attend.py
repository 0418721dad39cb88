"""Scaled dot-product attention by whichever way is fast for its size; the parts that attend all call this one.

PyTorch's fused kernels are made for long sequences. Here most are of 4 to 64, and on a CPU the fused kernel takes five
times as long for those as two batched matrix products, in bfloat16 up to ten times.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

FUSED_FROM = 1 << 14
"""Scores per head (queries × keys) from which the fused kernel is used on a CPU, too."""


def attend(
    queries: Float[Tensor, "*batch heads queries dim"],
    keys: Float[Tensor, "*batch heads keys dim"],
    values: Float[Tensor, "*batch heads keys dim"],
    visible: Bool[Tensor, "... queries keys"] | None = None,
) -> Float[Tensor, "*batch heads queries dim"]:
    """softmax(q·kᵀ / √dim) v.

    `visible` is true for what a query may see, and is broadcast over batch and heads. A query that sees nothing gives
    anything finite.
    """
    if queries.device.type != "cpu" or queries.shape[-2] * keys.shape[-2] >= FUSED_FROM:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if visible is not None:  # a finite score, for a row of infinities would be a row of NaN
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return scores.float().softmax(dim=-1).to(values.dtype) @ values
