"""The VQ tokenizer: a frame to a grid of codes and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from aime.perception.blocks import PlaceNorm, ResidualBlock, Upsample, require_multiple_of_16

DEAD_BELOW = 0.03
"""A code is out of use when the moving average of its uses per batch falls below this: after 33 batches without one."""
ROUNDING = 1e-6
"""Two features that are nearer than this (mean square, where each has 1) differ by rounding only."""
IDLE_BATCHES = 100
"""A code that no frame has used for this many training batches is not counted as live."""
FRAMES_AT_ONCE = 64
"""Frames whose features are compared with the codebook at once where nothing is learned."""


@dataclass
class TokenizerOutput:
    """What `VQTokenizer` makes of n frames, with P = image_size / 8."""

    indices: Int64[Tensor, "n p p"]
    """Which code stands at each place, in [0, codebook_size)."""
    codes: Float[Tensor, "n p p code"]
    """The codes themselves (root mean square one), their gradient passed straight through to the encoder."""
    commitment_loss: Float[Tensor, ""]
    """Mean squared distance of the encoder's features to their codes; its gradient moves the encoder only."""
    perplexity: Float[Tensor, ""]
    """exp of the entropy of the codes' use over recent training batches, between 1 and codebook_size."""
    live_codes: Float[Tensor, ""]
    """How many codes recent training batches used."""


class VQTokenizer(nn.Module):
    """A convolutional autoencoder around a vector quantiser (van den Oord et al. 2017, codes by moving averages).

    Distances are cosines: features and codes lie on one sphere (Yu et al. 2022), which keeps more codes in use. Codes
    that fall out of use are replaced by features that no code fits well. In eval mode nothing changes.

    Raises `ConfigError` for an `image_size` that is not a multiple of 16.
    """

    def __init__(self, *, channels: int, code_dim: int, codebook_size: int, image_size: int) -> None:
        super().__init__()
        require_multiple_of_16(image_size)
        self.grid_size = image_size // 8
        self.code_dim = code_dim
        self.codebook_size = codebook_size
        wide, narrow = 2 * channels, max(8, channels // 2)
        # A code sees its patch and about one patch around it, and no statistic of the whole frame: what stands still
        # keeps its code while something moves elsewhere, so the next tokens can be foretold.
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, kernel_size=8, stride=4, padding=2),
            ResidualBlock(channels, norm=PlaceNorm(channels)),
            nn.SiLU(),
            nn.Conv2d(channels, wide, kernel_size=4, stride=2, padding=1),
            ResidualBlock(wide, kernel_size=1, norm=PlaceNorm(wide)),
            PlaceNorm(wide),
            nn.SiLU(),
            nn.Conv2d(wide, code_dim, kernel_size=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(code_dim, wide, kernel_size=3, padding=1),
            ResidualBlock(wide, norm=PlaceNorm(wide)),
            nn.SiLU(),
            Upsample(wide, channels),
            ResidualBlock(channels, norm=PlaceNorm(channels)),
            nn.SiLU(),
            Upsample(channels, narrow),
            nn.SiLU(),
            Upsample(narrow, 3),
        )
        self.quantiser = VectorQuantize(
            dim=code_dim,
            codebook_size=codebook_size,
            decay=0.9,
            use_cosine_sim=True,
            rotation_trick=False,
            commitment_weight=0.0,
            sync_codebook=torch.distributed.is_available() and torch.distributed.is_initialized(),
        )
        # As if no code had ever been used: the first training batch seeds the codebook.
        self.quantiser._codebook.cluster_size.zero_()
        self.register_buffer("usage", torch.zeros(codebook_size))
        self.register_buffer("idle", torch.full((codebook_size,), IDLE_BATCHES, dtype=torch.int64))
        self.usage: Tensor
        self.idle: Tensor

    def forward(self, frames: Float[Tensor, "n 3 h w"]) -> TokenizerOutput:
        """Frames in [0, 1] to codes (and back with `reconstruct`). In train mode the codebook follows the features."""
        features = self._features(frames)
        codes, indices = self._quantise(features)
        if self.training:
            self._count(indices)
        share = self.usage / self.usage.sum().clamp(min=1e-12)
        return TokenizerOutput(
            indices=indices,
            codes=codes,
            commitment_loss=F.mse_loss(features, codes.detach()),
            perplexity=torch.exp(torch.special.entr(share).sum()),
            live_codes=(self.idle < IDLE_BATCHES).sum().float(),
        )

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "n 3 h w"]) -> Int64[Tensor, "n p p"]:
        """Frames in [0, 1] to the indices of their codes; leaves the codebook alone in train mode, too."""
        return self._nearest(self._features(frames))

    def reconstruct(self, codes: Float[Tensor, "n p p code"]) -> Float[Tensor, "n 3 h w"]:
        """Codes to frames, float32, meant to be in [0, 1] but not clamped: the loss is the caller's."""
        return 0.5 + self.decoder(codes.permute(0, 3, 1, 2)).float()

    def decode(self, indices: Int64[Tensor, "n p p"]) -> Float[Tensor, "n 3 h w"]:
        """Indices of codes to frames in [0, 1]."""
        return self.reconstruct(self.codes(indices)).clamp(0, 1)

    def _features(self, frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n p p code"]:
        centred = (frames - 0.5).contiguous(memory_format=torch.channels_last)
        features = self.encoder(centred).float().permute(0, 2, 3, 1)
        return F.normalize(features, dim=-1) * math.sqrt(self.code_dim)

    def codes(self, indices: Int64[Tensor, "n p p"]) -> Float[Tensor, "n p p code"]:
        """The codes with these indices, root mean square one."""
        return self.quantiser.codebook[indices] * math.sqrt(self.code_dim)

    def _nearest(self, features: Float[Tensor, "n p p code"]) -> Int64[Tensor, "n p p"]:
        # A clip at a time: the similarities of a long video to every code would fill the memory.
        with torch.autocast(features.device.type, enabled=False):
            chunks = [(part @ self.quantiser.codebook.T).argmax(-1) for part in features.split(FRAMES_AT_ONCE)]
        return torch.cat(chunks)

    def _quantise(
        self, features: Float[Tensor, "n p p code"]
    ) -> tuple[Float[Tensor, "n p p code"], Int64[Tensor, "n p p"]]:
        if not self.training:
            indices = self._nearest(features)
            return self.codes(indices), indices
        # Detached and in float32: the library's moving averages would otherwise keep the graph, and be rounded to
        # bfloat16 under autocast on a CPU.
        with torch.autocast(features.device.type, enabled=False):
            codes, indices, _ = self.quantiser(features.detach().flatten(1, 2))
        codes = codes.view(features.shape) * math.sqrt(self.code_dim)
        self._revive(features, codes)
        return features + (codes - features).detach(), indices.view(features.shape[:-1])

    @torch.no_grad()
    def _revive(self, features: Float[Tensor, "n p p code"], codes: Float[Tensor, "n p p code"]) -> None:
        """Give the codes out of use to features of this batch, drawn in proportion to their quantisation error.

        The library's own replacement draws evenly: most draws land on a background that is served well already, take
        its tokens over from the codes in place, and the tokens of a scene at rest keep changing their names.
        """
        book = self.quantiser._codebook
        error = (features - codes).square().mean(-1).flatten()
        k = min(error.numel(), self.codebook_size)
        # Gumbel top-k: k different features, each as likely as its error is large.
        drawn = (error.clamp(min=1e-12).log() - torch.empty_like(error).exponential_().log()).topk(k).indices
        candidates = features.flatten(0, 2)[drawn] / math.sqrt(self.code_dim)
        # Two codes for one feature would take turns by rounding alone: what has its code already is no candidate, nor
        # is what equals an earlier candidate.
        alike = (2 - 2 * candidates @ candidates.T < ROUNDING).tril(-1).any(-1)
        candidates[alike | (error[drawn] < ROUNDING)] = 0
        if book.use_ddp:
            torch.distributed.broadcast(candidates, src=0)  # every process must end with the same codebook
        dead = book.cluster_size[0] < DEAD_BELOW
        turn = dead.cumsum(0) - 1
        fresh = candidates[turn.clamp(0, k - 1)]
        revived = dead & (turn < k) & fresh.any(-1)
        book.embed[0] = torch.where(revived[:, None], fresh, book.embed[0])
        book.embed_avg[0] = torch.where(revived[:, None], fresh, book.embed_avg[0])
        book.cluster_size[0] = torch.where(revived, 1.0, book.cluster_size[0])

    @torch.no_grad()
    def _count(self, indices: Int64[Tensor, "n p p"]) -> None:
        flat = indices.flatten()
        counts = torch.zeros_like(self.usage).index_add_(0, flat, torch.ones_like(flat, dtype=self.usage.dtype))
        self.usage.lerp_(counts / flat.numel(), 0.01)
        self.idle.copy_(torch.where(counts > 0, 0, self.idle + 1))
