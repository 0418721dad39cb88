"""From a frame to what attention and the posterior see of it: a grid of features and one embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from aime.perception.blocks import PositionBias, ResidualBlock, group_norm, require_multiple_of_16


@dataclass
class FrameFeatures:
    """What `FrameEncoder` makes of n frames."""

    grid: Float[Tensor, "n channels grid grid"]
    """Features at the resolution of the attention maps, position included."""
    places: Float[Tensor, "n coordinates"]
    """Where the keypoints are: all rows, then all columns, in [-1, 1], float32."""
    embedding: Float[Tensor, "n embed"]
    """All of the frame in one vector, float32."""

    def followed_by(self, others: FrameFeatures) -> FrameFeatures:
        """The features of these frames and then of others."""
        pairs = ((self.grid, others.grid), (self.places, others.places), (self.embedding, others.embedding))
        return FrameFeatures(*(torch.cat(pair) for pair in pairs))

    def __getitem__(self, rows: Int64[Tensor, " m"]) -> FrameFeatures:
        """The features of some of the frames."""
        return FrameFeatures(self.grid[rows], self.places[rows], self.embedding[rows])


SHARPNESS = 4.0
"""Spread of a fresh keypoint's map, in nats: it lies on some few of the places, and so moves when they do. Flat maps
all have their centre in the middle of the frame, whatever it shows, and wake late or never."""


class Keypoints(nn.Module):
    """Where learned features are: the spatial soft-argmax of one map each (Levine et al., 2016, arXiv 1504.00702).

    A coordinate moves as its body does, so what is linear in it has simple dynamics: an embedding must learn for every
    place anew how a place is told, and what follows it.
    """

    def __init__(self, channels: int, grid: int, keypoints: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * channels, keypoints, kernel_size=1),
        )
        self.sharpness = nn.Parameter(torch.full((keypoints,), SHARPNESS))
        axis = (torch.arange(grid) + 0.5) * 2 / grid - 1
        places = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
        self.register_buffer("coordinates", places, persistent=False)
        self.coordinates: Tensor

    def forward(self, features: Float[Tensor, "n channels grid grid"]) -> Float[Tensor, "n coordinates"]:
        """The centre of each keypoint's map: all rows, then all columns, in [-1, 1]."""
        maps = self.maps(features).permute(0, 2, 3, 1).flatten(1, 2).float()  # (n, grid², keypoints), as they lie
        with torch.autocast(features.device.type, enabled=False):
            centred = maps - maps.mean(dim=1, keepdim=True)  # in two passes, each faster than one `var_mean`
            variance = centred.square().mean(dim=1, keepdim=True)
            scaled = centred * (self.sharpness * torch.rsqrt(variance + 1e-5))
            return (self.coordinates @ scaled.softmax(dim=1)).flatten(1)


class FrameEncoder(nn.Module):
    """Convolutions with coordinates; each frame on its own.

    A 4×4 stem of stride 3 gives the attention grid G = (image_size - 4) // 3 + 1 (21 for 64×64 frames); two strided
    stages follow, whose last grid is flattened rather than pooled, so that the embedding knows where a small body is.
    Beside them stand the coordinates of keypoints on the attention grid.

    Attributes: `grid_channels` (channels of the grid), `grid_size` (G) and `places_dim` (coordinates of all keypoints).
    Raises `ConfigError` for an `image_size` that is not a multiple of 16.
    """

    def __init__(self, *, channels: int, image_size: int, embed_dim: int, keypoints: int = 32) -> None:
        super().__init__()
        require_multiple_of_16(image_size)
        self.grid_channels = channels
        self.grid_size = (image_size - 4) // 3 + 1
        half = (self.grid_size + 1) // 2
        quarter = (half + 1) // 2
        self.stem = nn.Conv2d(3, channels, kernel_size=4, stride=3)
        self.position = PositionBias(channels, self.grid_size)
        self.fine = ResidualBlock(channels)
        self.keypoints = Keypoints(channels, self.grid_size, keypoints)
        self.places_dim = 2 * keypoints
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
        embedding = self.to_embedding(self.coarse(grid)).float()
        return FrameFeatures(grid=grid, places=self.keypoints(grid), embedding=embedding)
