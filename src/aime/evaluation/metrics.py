"""How close a predicted frame is to the true one: PSNR, SSIM, and PSNR over the pixels that move.

Every function scores all clips and horizons at once; frames are floats in [0, 1]. The scores of a clip stay apart, so
that `aime.evaluation.bootstrap` can put intervals over clips around their means.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

FINEST_MSE = 1.0 / (12.0 * 255.0**2)
"""Mean squared error that rounding to 8 bits makes by itself. A truth stored in 8 bits cannot tell a prediction apart
that is closer than this, so errors are not counted below it: PSNR ends at 58.9 dB instead of at infinity."""

_SSIM_SIGMA = 1.5
_SSIM_RADIUS = 5
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2


def _decibel(mse: Tensor) -> Tensor:
    return -10.0 * torch.log10(mse.clamp_min(FINEST_MSE))


def psnr(
    prediction: Float[Tensor, "*batch channels height width"], truth: Float[Tensor, "*batch channels height width"]
) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio in dB of frames in [0, 1]: −10 log10(MSE), at most 58.9 dB (see `FINEST_MSE`)."""
    return _decibel((prediction - truth).square().mean(dim=(-3, -2, -1)))


def moving_psnr(
    prediction: Float[Tensor, "*batch channels height width"],
    truth: Float[Tensor, "*batch channels height width"],
    moving: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch"]:
    """PSNR in dB over the pixels marked in `moving` (by `moving_pixels` of `aime.observation`).

    NaN for a frame in which nothing moves.
    """
    error = (prediction - truth).square().mean(dim=-3)
    pixels = moving.sum(dim=(-2, -1))
    mse = (error * moving).sum(dim=(-2, -1)) / pixels.clamp_min(1)
    return torch.where(pixels > 0, _decibel(mse), torch.nan)


def _blur_matrix(size: int, like: Tensor) -> Tensor:
    """Gaussian blur of a line of `size` pixels as a matrix, its ends reflected as in `torch.nn.functional.pad`.

    A frame is blurred by two matrix products, which on small frames is an order of magnitude faster than a convolution.
    """
    offsets = torch.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1, device=like.device)
    kernel = torch.exp(-0.5 * (offsets.to(like.dtype) / _SSIM_SIGMA).square())
    kernel = kernel / kernel.sum()
    rows = torch.arange(size, device=like.device)[:, None]
    columns = (rows + offsets).abs()
    columns = torch.where(columns >= size, 2 * (size - 1) - columns, columns)
    return torch.zeros(size, size, dtype=like.dtype, device=like.device).scatter_add_(
        1, columns, kernel.expand(size, -1).contiguous()
    )


class StructuralSimilarity:
    """SSIM of predictions with one truth, of which it blurs what all of them need just once (Wang et al., 2004).

    Frames are in [0, 1] and larger than 5 pixels; the window is the usual Gaussian of 11×11, σ = 1.5. A score is the
    mean over pixels and channels of (2 μx μy + c1)(2 σxy + c2) / ((μx² + μy² + c1)(σx² + σy² + c2)), as in
    `torchmetrics.functional.image.structural_similarity_index_measure` at `data_range=1`.
    """

    def __init__(self, truth: Float[Tensor, "*batch channels height width"]) -> None:
        height, width = truth.shape[-2:]
        self._down, self._across = _blur_matrix(height, truth), _blur_matrix(width, truth).mT
        # A few frames at a time stay in a processor's cache, which is ten times faster than all at once.
        self._frames = 8 if truth.device.type == "cpu" else 4096
        self._truth = truth.flatten(0, -4).split(self._frames)
        self._mean = [self._blur(t) for t in self._truth]
        self._square = [self._blur(t.square()) for t in self._truth]

    def __call__(self, prediction: Float[Tensor, "*batch channels height width"]) -> Float[Tensor, "*batch"]:
        """The score of each frame of a prediction of that truth."""
        chunks = prediction.flatten(0, -4).split(self._frames)
        found = [self._of(*chunk) for chunk in zip(chunks, self._truth, self._mean, self._square, strict=True)]
        return torch.cat(found).reshape(prediction.shape[:-3])

    def _blur(self, x: Tensor) -> Tensor:
        return self._down @ (x @ self._across)

    def _of(self, prediction: Tensor, truth: Tensor, mean_t: Tensor, square_t: Tensor) -> Tensor:
        mean_p = self._blur(prediction)
        product, squares = mean_p * mean_t, mean_p.square() + mean_t.square()
        # Of the two variances only their sum is asked for, which one blur less gives.
        variances = (self._blur(prediction.square()) + square_t - squares).clamp_min(0.0)
        covariance = self._blur(prediction * truth) - product
        luminance = (2 * product + _SSIM_C1) / (squares + _SSIM_C1)
        return (luminance * (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2)).mean(dim=(-3, -2, -1))
