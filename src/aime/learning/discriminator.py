"""The adversary: does this clip look real, patch by patch and moment by moment?

Strided convolutions turn each frame, and its change since the one before, into a grid of patch tokens; a small
transformer then lets each patch look along its own time, both ways, so that what it judges is a moving patch, not a
still one. One logit per patch and frame comes out.

There is no spectral normalisation. Its power iteration would change the network at every look, the generator's too; it
binds the logits of attention, which need room; and its gift, a bounded gradient, is not needed where gradients are
balanced by direction. Group normalisation within a frame keeps the activations in range, and a regulariser holds the
adversary back (`aime.learning.objectives`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aime.attend import attend
from aime.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class DiscriminatorOutput:
    """What the adversary says of a clip, and what it saw on the way."""

    logits: Float[Tensor, "batch time patches"]
    """Above zero: looks real. Float32."""
    features: list[Tensor]
    """For feature matching: after each convolution (batch·time, channels, h, w), then after each block of the
    transformer (batch·patches, time, dim)."""


class TemporalPatchDiscriminator(nn.Module):
    """Judges clips of any length by patches of frames in time.

    Args:
        channels: channels after the first convolution; deeper ones have twice as many (and no more: this is where the
            time goes, and an adversary need not be as large as what it judges).
        image_size: height and width of a frame in pixels.
        layers: strided convolutions, each halving the grid.
        heads: attention heads of the transformer.
        max_frames: span of the attention over time: a frame is compared with those less than this many frames away.
            Clips may be longer or shorter.
        blocks: blocks of the transformer.

    Raises:
        ConfigError: `layers` would shrink the frame to less than one patch.
    """

    anchor_real: Tensor
    anchor_fake: Tensor
    anchored: Tensor

    def __init__(
        self, *, channels: int, image_size: int, layers: int = 4, heads: int = 4, max_frames: int = 16, blocks: int = 2
    ) -> None:
        super().__init__()
        if image_size >> layers < 1:
            raise ConfigError(
                f"img_disc_layers={layers} would halve frames of {image_size} pixels below one: at most "
                f"{image_size.bit_length() - 1}"
            )
        self.image_size = image_size
        self.max_frames = max_frames
        widths = [6, channels] + [2 * channels] * (layers - 1)
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1),
                # The first layer keeps the frame's own contrast and brightness, which a fake may get wrong.
                nn.GroupNorm(math.gcd(8, after), after) if i > 0 else nn.Identity(),
                nn.LeakyReLU(0.2),
            )
            for i, (before, after) in enumerate(itertools.pairwise(widths))
        )
        dim = 2 * heads * math.ceil(widths[-1] / (2 * heads))  # rotary positions need an even size per head
        self.to_tokens = nn.Conv2d(widths[-1], dim, kernel_size=1)
        self.blocks = nn.ModuleList(TemporalBlock(dim, heads, max_frames) for _ in range(blocks))
        self.to_logit = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 1))
        # Where the logits of real and fake clips have lately been; kept by `aime.learning.objectives`.
        self.register_buffer("anchor_real", torch.zeros(()))
        self.register_buffer("anchor_fake", torch.zeros(()))
        self.register_buffer("anchored", torch.zeros((), dtype=torch.bool))

    def forward(self, frames: Float[Tensor, "batch time 3 h w"]) -> DiscriminatorOutput:
        """Logits and features of clips with values in [0, 1].

        Raises:
            ShapeError: the frames have another size than the discriminator was made for.
        """
        batch, time, _, h, w = frames.shape
        if (h, w) != (self.image_size, self.image_size):
            raise ShapeError(f"the discriminator expects frames of {self.image_size}×{self.image_size}, not {h}×{w}")
        features: list[Tensor] = []
        # Without its change since the frame before (none for the first), a patch's motion takes long to be noticed.
        change = torch.diff(frames, dim=1, prepend=frames[:, :1])
        x = torch.cat([frames * 2 - 1, change], dim=2).flatten(0, 1)
        for convolution in self.convolutions:
            x = convolution(x)
            features.append(x)
        x = self.to_tokens(x).flatten(2)  # (batch·time, dim, patches)
        patches = x.shape[-1]
        x = x.unflatten(0, (batch, time)).permute(0, 3, 1, 2).flatten(0, 1)  # (batch·patches, time, dim)
        for block in self.blocks:
            x = block(x)
            features.append(x)
        logits = self.to_logit(x).float().unflatten(0, (batch, patches)).squeeze(-1).transpose(1, 2)
        return DiscriminatorOutput(logits, features)


class TemporalBlock(nn.Module):
    """Self-attention over time with rotary positions, then an MLP; both residual and normalised first."""

    def __init__(self, dim: int, heads: int, max_frames: int) -> None:
        super().__init__()
        self.heads = heads
        self.max_frames = max_frames
        self.norm_attention = nn.LayerNorm(dim)
        self.to_queries_keys_values = nn.Linear(dim, 3 * dim)
        self.merge = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        # Wavelengths from 4 frames (the shortest motion worth a phase) to four times the span.
        lengths = torch.logspace(math.log10(4), math.log10(4 * max(max_frames, 2)), dim // heads // 2)
        self.register_buffer("frequencies", 2 * math.pi / lengths, persistent=False)
        self.frequencies: Tensor

    def forward(self, x: Float[Tensor, "n time dim"]) -> Float[Tensor, "n time dim"]:
        """One step of looking along time."""
        time = x.shape[1]
        q, k, v = self.to_queries_keys_values(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        phase = torch.arange(time, device=x.device)[:, None] * self.frequencies
        cos, sin = phase.cos()[:, None], phase.sin()[:, None]  # (time, 1, half): the same for all heads
        q, k = (_turn(each, cos, sin).transpose(1, 2) for each in (q, k))
        read = attend(q, k, v.transpose(1, 2), self._within_span(time, x.device))
        x = x + self.merge(read.transpose(1, 2).flatten(2))
        return x + self.mlp(x)

    def _within_span(self, time: int, device: torch.device) -> Bool[Tensor, "time time"] | None:
        if time <= self.max_frames:
            return None
        at = torch.arange(time, device=device)
        return (at[:, None] - at[None, :]).abs() < self.max_frames


def _turn(x: Float[Tensor, "n time heads dim"], cos: Tensor, sin: Tensor) -> Float[Tensor, "n time heads dim"]:
    """Rotary position embedding (Su et al., 2021) over the halves of the last dimension."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)
