"""Parts of the Perceiver: tokens that know their place, cross-attention within a frame, self-attention over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aime.attend import attend


@dataclass
class TimeChunks:
    """How t frames are cut into chunks of queries, each with the keys of its own frames and of the history before."""

    size: int
    """Frames of queries in one chunk."""
    history: int
    """Frames of keys before each chunk."""
    mask: Bool[Tensor, "chunks 1 queries keys"]
    """Which latents see which: b·chunks in all."""
    cos: Float[Tensor, "keys half"]
    sin: Float[Tensor, "keys half"]
    """Rotations of the latents of history and chunk, in order."""


def _rotate(x: Float[Tensor, "... n dim"], cos: Tensor, sin: Tensor) -> Float[Tensor, "... n dim"]:
    """Rotary position embedding (Su et al. 2021) over the last dimension's two halves."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def mlp(dim: int, ratio: int) -> nn.Sequential:
    """Norm and two linear maps, `ratio` times as wide between them."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))


class CrossAttention(nn.Module):
    """Queries read a set of vectors, frame by frame; one set of learned queries may serve all frames."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_queries = nn.LayerNorm(dim)
        self.norm_source = nn.LayerNorm(dim)
        self.to_queries = nn.Linear(dim, dim)
        self.to_keys_values = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        # Scores of normed vectors start with a spread of about 2: each query looks at something from the first step on,
        # where the usual initialisation averages everything and takes long to leave that.
        nn.init.normal_(self.to_queries.weight, std=1.4 / math.sqrt(dim))
        nn.init.normal_(self.to_keys_values.weight[:dim], std=1.4 / math.sqrt(dim))

    def forward(
        self, queries: Float[Tensor, "#n queries dim"], source: Float[Tensor, "n keys dim"]
    ) -> Float[Tensor, "n queries dim"]:
        q = self.to_queries(self.norm_queries(queries)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.to_keys_values(self.norm_source(source)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = attend(q.expand(source.shape[0], -1, -1, -1), k, v)
        return queries + self.out(read.transpose(1, 2).flatten(2))


class TokenEmbedding(nn.Module):
    """Codes of one frame to tokens that know their place and what stands around them."""

    def __init__(self, *, code_dim: int, grid: int, dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.from_codes = nn.Linear(code_dim, dim)
        self.position = GridEmbedding(grid, dim)
        self.neighbours = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, codes: Float[Tensor, "n tokens code"]) -> Float[Tensor, "n tokens dim"]:
        tokens = self.from_codes(codes) + self.position()
        on_grid = tokens.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        return tokens + self.neighbours(on_grid).permute(0, 2, 3, 1).flatten(1, 2)


class GridEmbedding(nn.Module):
    """A learned vector for each place of a square grid: that of its row plus that of its column."""

    def __init__(self, grid: int, dim: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(grid, 1, dim) * 0.5)
        self.columns = nn.Parameter(torch.randn(1, grid, dim) * 0.5)

    def forward(self) -> Float[Tensor, "tokens dim"]:
        return (self.rows + self.columns).flatten(0, 1)


class TemporalBlock(nn.Module):
    """Self-attention over the latents of a window of frames, and an MLP."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_queries = nn.Linear(dim, dim)
        self.to_keys_values = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = mlp(dim, 4)

    def forward(
        self,
        x: Float[Tensor, "b t latents dim"],
        past: Float[Tensor, "b history latents two dim"],
        chunks: TimeChunks,
    ) -> tuple[Float[Tensor, "b t latents dim"], Float[Tensor, "b total latents two dim"]]:
        """The latents after this block, and the keys and values of `past` and of all these frames in one."""
        b, t = x.shape[:2]
        normed = self.norm(x)
        keys_values = self.to_keys_values(normed).unflatten(-1, (2, -1))
        everything = torch.cat([past.to(keys_values.dtype), keys_values], dim=1)

        padding = (0, 0, 0, 0, 0, -t % chunks.size)  # whole chunks only; nothing real sees the padded frames
        queries = F.pad(self.to_queries(normed), padding)
        queries = queries.unflatten(1, (-1, chunks.size)).flatten(0, 1).flatten(1, 2)
        q = queries.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        windows = F.pad(everything, (0, 0, *padding)).unfold(1, chunks.history + chunks.size, chunks.size)
        # b chunks latents two dim frames -> two (b chunks) heads (frames latents) dim
        k, v = (
            windows.flatten(0, 1).permute(2, 0, 4, 1, 3).flatten(2, 3).unflatten(-1, (self.heads, -1)).transpose(2, 3)
        )
        own = q.shape[2]
        turned = _rotate(q, chunks.cos[-own:], chunks.sin[-own:]), _rotate(k, chunks.cos, chunks.sin)
        read = attend(*turned, v, chunks.mask)
        read = read.transpose(1, 2).flatten(2).unflatten(1, (chunks.size, -1)).unflatten(0, (b, -1)).flatten(1, 2)
        x = x + self.out(read[:, :t])
        return x + self.mlp(x), everything


class Residual(nn.Sequential):
    """x + f(x)."""

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return x + super().forward(x)
