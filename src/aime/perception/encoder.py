"""From a frame to what attention and the posterior see of it: a grid of features and one embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aime.perception.blocks import PositionBias, ResidualBlock, group_norm, require_multiple_of_16


@dataclass
class FrameFeatures:
    """What `FrameEncoder` makes of n frames."""

    grid: Float[Tensor, "n channels grid grid"]
    """Features at the resolution of the attention maps, position included."""
    embedding: Float[Tensor, "n embed"]
    """All of the frame in one vector, float32."""


class FrameEncoder(nn.Module):
    """Convolutions with coordinates; each frame on its own.

    A 4×4 stem of stride 3 gives the attention grid G = (image_size - 4) // 3 + 1 (21 for 64×64 frames); two strided
    stages follow, whose last grid is flattened rather than pooled, so that the embedding knows where a small body is.

    Attributes: `grid_channels` (channels of the grid) and `grid_size` (G).
    Raises `ConfigError` for an `image_size` that is not a multiple of 16.
    """

    def __init__(self, *, channels: int, image_size: int, embed_dim: int) -> None:
        super().__init__()
        require_multiple_of_16(image_size)
        self.grid_channels = channels
        self.grid_size = (image_size - 4) // 3 + 1
        half = (self.grid_size + 1) // 2
        quarter = (half + 1) // 2
        self.stem = nn.Conv2d(3, channels, kernel_size=4, stride=3)
        self.position = PositionBias(channels, self.grid_size)
        self.fine = ResidualBlock(channels)
        self.coarse = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1),
            ResidualBlock(2 * channels),
            nn.SiLU(),
            nn.Conv2d(2 * channels, 2 * channels, kernel_size=3, stride=2, padding=1),
            ResidualBlock(2 * channels),
            group_norm(2 * channels),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.to_embedding = nn.Linear(2 * channels * quarter * quarter, embed_dim)

    def forward(self, frames: Float[Tensor, "n 3 h w"]) -> FrameFeatures:
        """Frames in [0, 1] to their features."""
        centred = (frames - 0.5).contiguous(memory_format=torch.channels_last)
        grid = self.fine(self.position(self.stem(centred)))
        return FrameFeatures(grid=grid, embedding=self.to_embedding(self.coarse(grid)).float())
