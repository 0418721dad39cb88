"""The causal Perceiver: reads the codes of each frame into a few latents, and the latents of the past into a context.

Each frame has its own latents; they cross-attend to that frame's tokens, then blocks of self-attention run over the
latents of this frame and the `window` - 1 frames before it, never past the start of an episode. Two read-outs query
the final latents: the context c[t], and logits for the tokens of the next frame (Perceiver IO, Jaegle et al. 2021, in
which output queries may carry input features of their place: here the token that stands there now).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from aime.errors import ConfigError
from aime.perception.perceiver_parts import (
    CrossAttention,
    GridEmbedding,
    Residual,
    TemporalBlock,
    TimeChunks,
    TokenEmbedding,
    mlp,
)


@dataclass
class PerceiverCache:
    """What the Perceiver remembers of the last window - 1 frames: all that a next frame needs, however long the stream.

    Batch comes first in both, so a belief can be picked, repeated and moved with plain indexing.
    """

    keys_values: Float[Tensor, "batch layers history latents two dim"]
    """Keys and values of every block, before rotation."""
    visible: Bool[Tensor, "batch history"]
    """Whether a frame is remembered and belongs to the episode of the last frame."""

    def __getitem__(self, index: Tensor | slice | list[int]) -> PerceiverCache:
        """The memories of these batch elements."""
        return PerceiverCache(self.keys_values[index], self.visible[index])

    def repeat_interleave(self, repeats: int) -> PerceiverCache:
        """Every batch element `repeats` times in a row."""
        return PerceiverCache(
            self.keys_values.repeat_interleave(repeats, dim=0), self.visible.repeat_interleave(repeats, dim=0)
        )

    def to(self, device: torch.device | str) -> PerceiverCache:
        """The same memory on another device."""
        return PerceiverCache(self.keys_values.to(device), self.visible.to(device))

    def detach(self) -> PerceiverCache:
        """The same memory without its gradient."""
        return PerceiverCache(self.keys_values.detach(), self.visible)


@dataclass
class PerceiverOutput:
    """What `CausalPerceiver` makes of t frames per batch element."""

    context: Float[Tensor, "b t context"]
    """c[t], from frames ≤ t; float32."""
    read: Float[Tensor, "b t latents dim"]
    """What was read of each frame by itself, from which contexts can be found again (`CausalPerceiver.recall`)."""
    cache: PerceiverCache
    """The memory with which the next frames can be read."""
    read_out: Callable[[], Tensor]

    @cached_property
    def next_token_logits(self) -> Float[Tensor, "b t tokens codebook"]:
        """Logits of the tokens of frame t + 1, from frames ≤ t; float32. Read out when first asked for."""
        return self.read_out()


class CausalPerceiver(nn.Module):
    """Tokens of frames ≤ t to the context c[t] and to logits for the tokens of frame t + 1.

    Attention looks back `window` frames, this one included, and never across an `is_first`. The cost of t frames is
    linear in t, and reading them in any portions with the cache gives what reading them at once gives.

    Raises `ConfigError` if `tokens_per_frame` is no square, or `dim` no multiple of 2 × `heads`.
    """

    def __init__(
        self,
        *,
        token_dim: int,
        tokens_per_frame: int,
        codebook_size: int,
        dim: int,
        latents_per_frame: int,
        window: int,
        layers: int,
        heads: int,
        context_dim: int,
    ) -> None:
        super().__init__()
        grid = math.isqrt(tokens_per_frame)
        if grid * grid != tokens_per_frame:
            raise ConfigError(f"tokens_per_frame must be a square number (such as 64), not {tokens_per_frame}")
        if dim % (2 * heads):
            raise ConfigError(f"dim must be a multiple of 2 × heads ({2 * heads}), not {dim}")
        self.dim, self.latents_per_frame, self.window = dim, latents_per_frame, window
        self.embed = TokenEmbedding(code_dim=token_dim, grid=grid, dim=dim)
        self.latents = nn.Parameter(torch.randn(1, latents_per_frame, dim) * 0.5)
        self.read = CrossAttention(dim=dim, heads=heads)
        self.read_mlp = mlp(dim, 4)
        self.blocks = nn.ModuleList(TemporalBlock(dim=dim, heads=heads) for _ in range(layers))
        self.context_query = nn.Parameter(torch.randn(1, 1, dim) * 0.5)
        self.read_context = CrossAttention(dim=dim, heads=heads)
        self.to_context = nn.Sequential(Residual(mlp(dim, 2)), nn.LayerNorm(dim), nn.Linear(dim, context_dim))
        self.next_position = GridEmbedding(grid, dim)
        self.from_present = nn.Linear(dim, dim)
        self.read_next = CrossAttention(dim=dim, heads=heads)
        self.to_logits = nn.Sequential(Residual(mlp(dim, 2)), nn.LayerNorm(dim), nn.Linear(dim, codebook_size))
        # Wavelengths from 2π frames to some 100 times that: the far end still tells the ends of a long window apart.
        half = dim // heads // 2
        angles = torch.arange(2 * window - 1)[:, None] * 100.0 ** (-torch.arange(half) / half)
        self.register_buffer("angles", angles, persistent=False)
        self.angles: Tensor

    def forward(
        self,
        codes: Float[Tensor, "b t tokens code"],
        is_first: Bool[Tensor, "b t"],
        cache: PerceiverCache | None = None,
    ) -> PerceiverOutput:
        """Read t frames, the first of them right after those in `cache` if one is given.

        `is_first` is true where an episode starts: there the past is forgotten.
        """
        b, t = is_first.shape
        tokens = self.embed(codes.flatten(0, 1))
        latents = self.read(self.latents, tokens)
        read = (latents + self.read_mlp(latents)).unflatten(0, (b, t))
        final, remembered = self._remember(read, is_first, cache)

        def read_out() -> Tensor:
            # Each query knows what stands at its place now, so that the latents are asked for what changes.
            queries = self.next_position() + self.from_present(tokens)
            return self.to_logits(self.read_next(queries, final.flatten(0, 1))).float().unflatten(0, (b, t))

        return PerceiverOutput(context=self._context(final), read=read, cache=remembered, read_out=read_out)

    @torch.no_grad()
    def recall(self, read: Float[Tensor, "b t latents dim"]) -> Float[Tensor, "b t context"]:
        """The contexts of clips with nothing before them, by what was read of their frames when they were watched as
        parts of something longer."""
        first = torch.zeros(read.shape[:2], dtype=torch.bool, device=read.device)
        first[:, 0] = True
        return self._context(self._remember(read, first, None)[0])

    def _context(self, final: Float[Tensor, "b t latents dim"]) -> Float[Tensor, "b t context"]:
        """The read-out of the context."""
        context = self.to_context(self.read_context(self.context_query, final.flatten(0, 1))[:, 0])
        return context.float().unflatten(0, final.shape[:2])

    def _remember(
        self, x: Float[Tensor, "b t latents dim"], is_first: Bool[Tensor, "b t"], cache: PerceiverCache | None
    ) -> tuple[Float[Tensor, "b t latents dim"], PerceiverCache]:
        """The latents of t frames as those before let them be understood; and the memory after them."""
        b, t = is_first.shape
        history = 0 if cache is None and t <= self.window else self.window - 1
        if cache is None:
            memory = x.new_zeros(b, len(self.blocks), history, self.latents_per_frame, 2, self.dim)
            visible = is_first.new_zeros(b, history)
        else:
            memory, visible = cache.keys_values, cache.visible
        # Remembered frames that are still visible continue into the present as episode 0; forgotten ones are -1.
        episodes = torch.cat([visible.long() - 1, is_first.long().cumsum(1)], dim=1)
        chunks = self._chunks(episodes, t, history)
        remembered = []
        for block, past in zip(self.blocks, memory.unbind(1), strict=True):
            x, keys_values = block(x, past, chunks)
            remembered.append(_last(keys_values, self.window - 1))
        # A frame of the running episode has the last frame's number; what was never there has none.
        still_visible = _last(episodes == episodes[:, -1:], self.window - 1)
        return x, PerceiverCache(torch.stack(remembered, dim=1), still_visible)

    def _chunks(self, episodes: Int64[Tensor, "b total"], t: int, history: int) -> TimeChunks:
        """Cut t frames after `history` remembered ones into chunks of at most `window` queries."""
        size = min(t, self.window)
        keys = F.pad(episodes, (0, -t % size), value=-2).unfold(1, history + size, size).flatten(0, 1)
        queries = keys[:, history:]
        distance = torch.arange(history, history + size, device=keys.device)[:, None] - torch.arange(
            history + size, device=keys.device
        )
        banded = (distance >= 0) & (distance < self.window)
        frames = (queries[:, :, None] == keys[:, None, :]) & banded
        n = self.latents_per_frame
        mask = frames.repeat_interleave(n, 1).repeat_interleave(n, 2)[:, None]
        angles = self.angles[: history + size].repeat_interleave(n, 0)
        return TimeChunks(size, history, mask, angles.cos(), angles.sin())


def _last(x: Tensor, frames: int) -> Tensor:
    """The last frames along dimension 1, with zeros (nothing) before them where there are too few."""
    missing = frames - x.shape[1]
    if missing > 0:
        return torch.cat([x.new_zeros(x.shape[0], missing, *x.shape[2:]), x], dim=1)
    return x[:, x.shape[1] - frames :]
