"""From a latent state and an attention map to a frame: p(o[t] | z[t], A[t]).

Or from a guess at the latent, and how unsure it is, to the mean of the frames that it may be: where the guess does not
know, the picture says so, and is soft.

A dream uses nothing of what it dreams: no feature of the encoder ever gets here.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aime.perception.blocks import group_norm, require_multiple_of_16


def resize_matrix(size: int, new_size: int) -> Float[Tensor, "{new_size} {size}"]:
    """The matrix R of a separable resize, image' = R image Rᵀ: area averaging down, linear interpolation up.

    As a matrix product it is the same to the bit on every run and device kind, unlike the interpolation kernels, whose
    backward passes on a GPU add in any order. Every row sums to one.
    """
    edges = torch.arange(new_size + 1, dtype=torch.float64) * size / new_size
    cells = torch.arange(size, dtype=torch.float64)
    if new_size <= size:
        overlap = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
        weights = overlap.clamp(min=0)
    else:
        centres = ((edges[1:] + edges[:-1]) / 2 - 0.5).clamp(0, size - 1)
        weights = (1 - (centres[:, None] - cells).abs()).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


class Precision(nn.Module):
    """Attention as precision at one scale: a gain and a bias per channel from how much attention each place gets.

    From a = A·G² (one everywhere for uniform attention) come log(1 + a) and the bounded a / (1 + a), both less their
    value at a = 1: uniform attention leaves the features exactly as they are, whatever has been learned.
    """

    def __init__(self, channels: int, attention_grid: int, grid: int) -> None:
        super().__init__()
        self.register_buffer("resize", resize_matrix(attention_grid, grid), persistent=False)
        self.resize: Tensor
        # A 1×1 convolution from two channels, as the matrix product that it is: several times faster backward.
        self.to_film = nn.Linear(2, 2 * channels, bias=False)
        nn.init.normal_(self.to_film.weight, std=0.02)

    def forward(
        self, x: Float[Tensor, "n channels h w"], relative: Float[Tensor, "n grid grid"]
    ) -> Float[Tensor, "n channels h w"]:
        """Modulate features by the relative attention A·G²."""
        with torch.autocast(x.device.type, enabled=False):
            a = self.resize @ relative.float() @ self.resize.T
            cues = torch.stack([torch.log1p(a) - math.log(2.0), a / (1 + a) - 0.5], dim=-1)
        gain, bias = self.to_film(cues).permute(0, 3, 1, 2).chunk(2, dim=1)
        return x * (1 + gain) + bias


TRUST_KNOTS = 5
"""Degrees of doubt at which it is told how far a guess is believed."""


def full_trust() -> Float[Tensor, " knots"]:
    """The trust in guesses of a decoder that has not been told of their errors."""
    return torch.ones(TRUST_KNOTS)


def trust_weights(doubt: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch knots"]:
    """How near a guess is to each degree of doubt, summing to one: linear in between.

    The degrees are equally spaced shares, from 0 to 1, of the latents' variance that the guess does not know.
    """
    unknown = doubt.float().square().mean(dim=-1, keepdim=True).clamp(0, 1)
    knots = torch.arange(TRUST_KNOTS, device=doubt.device)
    return (1 - (unknown * (TRUST_KNOTS - 1) - knots).abs()).clamp_min(0)


class FrameDecoder(nn.Module):
    """A latent state and an attention map to the mean of a frame.

    The latent is laid out on a grid of image_size / 16 and doubled four times. At each scale attention modulates the
    features. What comes out is added to a learned image, the background: mid-grey in a fresh model, and best started
    from the mean of the frames to learn, so that the latent has to tell from the first step on what moves before it.
    A guess is drawn as far as a guess of such a doubt is to be trusted, and for the rest the mean frame, the best that
    one can draw who knows nothing: `aime.training.calibrate` finds out how far, and measures that frame.

    Raises `ConfigError` for an `image_size` that is not a multiple of 16.
    """

    def __init__(
        self, *, channels: int, image_size: int, latent_dim: int, hidden_dim: int, attention_grid: int
    ) -> None:
        super().__init__()
        require_multiple_of_16(image_size)
        widths = [8 * channels, 4 * channels, 2 * channels, channels]
        self.base_grid, self.base_channels = image_size // 16, widths[0]
        grids = [self.base_grid * 2**i for i in range(4)]
        # A place is not linear in the latent: half of the decoder's work is to tell where, before any convolution.
        self.from_latent = nn.Linear(latent_dim, hidden_dim)
        self.from_doubt = nn.Linear(latent_dim, hidden_dim, bias=False)
        nn.init.zeros_(self.from_doubt.weight)
        self.lay_out = nn.Sequential(
            nn.LayerNorm(hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, self.base_channels * self.base_grid**2),
        )
        self.norms = nn.ModuleList(group_norm(c) for c in widths)
        self.precisions = nn.ModuleList(Precision(c, attention_grid, g) for c, g in zip(widths, grids, strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, kernel_size=4, stride=2, padding=1) for a, b in pairwise([*widths, 3])
        )
        nn.init.normal_(self.up[-1].weight, std=1e-3)  # type: ignore[arg-type]
        nn.init.zeros_(self.up[-1].bias)  # type: ignore[arg-type]
        self.background = nn.Parameter(torch.full((3, image_size, image_size), 0.5))
        self.register_buffer("trust", full_trust())
        self.trust: Tensor
        self.register_buffer("mean_frame", torch.full((3, image_size, image_size), 0.5))
        self.mean_frame: Tensor
        self.act = nn.SiLU()

    def forward(
        self,
        latents: Float[Tensor, "n latent"],
        attention_map: Float[Tensor, "n grid grid"] | None,
        doubt: Float[Tensor, "n latent"] | None = None,
    ) -> Float[Tensor, "n 3 h w"]:
        """The mean of the frames, float32, unbounded (clamp it to [0, 1] to look at); at first the background.

        Args:
            attention_map: sums to one over space. None is an even one, and costs no modulation.
            doubt: for guesses, how unsure each number of the latent is (`DPGMMPrior.doubt`); None is sure of all.
        """
        relative = None if attention_map is None else attention_map * attention_map.shape[-1] * attention_map.shape[-2]
        said = self.from_latent(latents)
        if doubt is not None:
            said = said + self.from_doubt(doubt)
        x = self.lay_out(said).unflatten(1, (self.base_channels, self.base_grid, self.base_grid))
        x = x.contiguous(memory_format=torch.channels_last)
        for norm, precision, up in zip(self.norms, self.precisions, self.up, strict=True):
            x = norm(x)
            x = up(self.act(x if relative is None else precision(x, relative)))
        mean = self.background + x.float()
        if doubt is not None:
            distrust = (trust_weights(doubt) @ (1 - self.trust))[:, None, None, None]
            mean = mean - distrust * (mean - self.mean_frame)  # full trust changes no bit
        return mean
