"""The small parts that the convolutional stacks of perception share.

Everything here treats each frame on its own (no batch statistics), so one frame can never leak into another.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aime.errors import ConfigError


def require_multiple_of_16(image_size: int) -> None:
    """Refuse a frame size that the strided stacks cannot halve evenly."""
    if image_size < 16 or image_size % 16:
        raise ConfigError(f"image_size must be a multiple of 16 (such as 64), not {image_size}")


def coordinate_features(height: int, width: int, octaves: int) -> Float[Tensor, "features {height} {width}"]:
    """Where each cell of a grid lies: (y, x) in (-1, 1), and the sine and cosine of `octaves` doublings of both.

    The highest octave must stay below the grid's own sampling rate, else neighbouring cells look alike:
    2**octaves ≤ the shorter side.
    """
    y = (torch.arange(height, dtype=torch.float32) + 0.5) / height * 2 - 1
    x = (torch.arange(width, dtype=torch.float32) + 0.5) / width * 2 - 1
    yx = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    waves = [wave(yx * math.pi * 2**k / 2) for k in range(octaves) for wave in (torch.sin, torch.cos)]
    return torch.cat([yx, *waves])


class PositionBias(nn.Module):
    """A learned function of position alone, added to the features of every frame.

    The same as feeding coordinate channels to the convolution before it, at the price of one frame instead of all.
    """

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        features = coordinate_features(grid, grid, octaves=max(1, int(math.log2(grid))))
        self.register_buffer("coordinates", features[None], persistent=False)
        self.coordinates: Tensor
        self.to_channels = nn.Conv2d(features.shape[0], channels, kernel_size=1, bias=False)

    def forward(self, features: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n channels h w"]:
        return features + self.to_channels(self.coordinates)


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation inside one frame, in as many as 8 groups that divide the channels evenly."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class PlaceNorm(nn.LayerNorm):
    """Normalisation over the channels of one place: unlike `group_norm`, what happens elsewhere cannot touch it."""

    def forward(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n channels h w"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Sequential):
    """x + conv(act(conv(act(norm(x))))), whose branch starts at zero so that a fresh stack passes its input on."""

    def __init__(self, channels: int, *, kernel_size: int = 3, norm: nn.Module | None = None) -> None:
        first, last = (nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2) for _ in range(2))
        nn.init.zeros_(last.weight)
        super().__init__(norm or group_norm(channels), nn.SiLU(), first, nn.SiLU(), last)

    def forward(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n channels h w"]:
        return x + super().forward(x)


class Upsample(nn.Module):
    """Doubles the resolution: a 3×3 convolution to four times the channels, laid out as 2×2 blocks of pixels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, kernel_size=3, padding=1)
        # The four pixels of a block start alike (nearest-neighbour upsampling): no checkerboard to unlearn.
        with torch.no_grad():
            self.conv.weight.copy_(self.conv.weight[::4].repeat_interleave(4, dim=0))
            self.conv.bias.copy_(self.conv.bias[::4].repeat_interleave(4, dim=0))  # type: ignore[union-attr, index]
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Float[Tensor, "n in_channels h w"]) -> Float[Tensor, "n out_channels h2 w2"]:
        return self.shuffle(self.conv(x))
