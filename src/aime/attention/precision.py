"""Attention as precision: the weight of each pixel's error in the likelihood of a frame.

In predictive coding attention is the precision that the brain expects of its prediction errors (Feldman & Friston,
2010). Here the map A[t] raises the inverse variance of the pixels it lies on, and the mean over the frame stays 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def precision_map(
    attention: Float[Tensor, "n grid grid"], image_size: int, floor: float
) -> Float[Tensor, "n height width"]:
    """Relative precision of each pixel: `floor` everywhere, the rest where attention lies; its mean over a frame is 1.

    Args:
        attention: maps that sum to 1.
        floor: share of the precision that does not depend on attention, in (0, 1].
    """
    grid = attention.shape[-1]
    density = F.interpolate(
        attention[:, None].float() * grid**2, size=(image_size, image_size), mode="bilinear", align_corners=False
    )[:, 0]
    density = density / density.mean(dim=(-2, -1), keepdim=True)
    return floor + (1 - floor) * density


def gaussian_nll(
    frames: Float[Tensor, "n channels height width"],
    mean: Float[Tensor, "n channels height width"],
    log_sigma: Float[Tensor, "*#n"],
    precision: Float[Tensor, "n height width"],
) -> Float[Tensor, " n"]:
    """−log N(frame; mean, σ²/Λ) in nats per frame, summed over pixels and channels.

    The normaliser −½ log Λ is included: an ignored pixel is cheap to miss, and expensive to have ignored.
    """
    return gaussian_nll_of(weighted_error(frames, mean, precision), log_sigma, precision, frames.shape[1])


def weighted_error(
    frames: Float[Tensor, "n channels height width"],
    mean: Float[Tensor, "n channels height width"],
    precision: Float[Tensor, "n height width"],
) -> Float[Tensor, " n"]:
    """Λ (frame − mean)², summed over pixels and channels."""
    return (precision * (frames.float() - mean.float()).square().sum(dim=1)).sum(dim=(-2, -1))


def gaussian_nll_of(
    error: Float[Tensor, " n"],
    log_sigma: Float[Tensor, "*#n"],
    precision: Float[Tensor, "n height width"],
    channels: int,
) -> Float[Tensor, " n"]:
    """`gaussian_nll` where the weighted error is known already: it is the only pass over all the pixels."""
    log_sigma = log_sigma.float()
    pixels = channels * precision[0].numel()
    normaliser = channels * precision.log().sum(dim=(-2, -1))
    constant = pixels * (2 * log_sigma + math.log(2 * math.pi))
    return 0.5 * (error * torch.exp(-2 * log_sigma) - normaliser + constant)


def motion_target(
    frames: Float[Tensor, "batch time channels height width"], grid: int
) -> tuple[Float[Tensor, "batch time grid grid"], Float[Tensor, "batch time"]]:
    """Where things moved on arriving at each frame, as a map that sums to 1, and how much it should count.

    The map is the absolute difference to the previous frame, on the attention grid and slightly blurred. The weight is
    0 for the first frame and for a still one, and nears 1 where something clearly moves.
    """
    change = (frames[:, 1:] - frames[:, :-1]).abs().mean(dim=2)
    change = F.pad(change, (0, 0, 0, 0, 1, 0))
    coarse = F.adaptive_avg_pool2d(change, grid)
    coarse = F.avg_pool2d(coarse, 3, stride=1, padding=1, count_include_pad=False)
    total = coarse.sum(dim=(-2, -1))
    # One grid cell changing by a tenth of the range is half-way to full weight: noise and shading stay below.
    weight = total / (total + 0.1)
    return coarse / total.clamp_min(1e-8)[..., None, None], weight
