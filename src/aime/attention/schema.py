"""Top-down attention: a schema that expects where to attend next, and its fusion with what the slots see.

The schema is the model's own model of its attention (Graziano & Webb, 2015): from the belief and the latent of a frame
it expects the map with which that frame is attended. It is not told the map of the frame before: that tells more than
the latent does while frames are seen, and less and less in a dream, where nothing corrects it. In a dream there is
nothing to see, and what the schema expects *is* the attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-6
"""Smallest attention that a place can have, before normalisation: keeps logarithms and KLs finite."""


class AttentionSchema(nn.Module):
    """p(A[t] | h[t-1], z[t]), and the fusion with what is seen that gives A[t].

    The belief and the latent are read without gradient: the schema is a model *of* the belief's attention and does not
    bend the belief.

    Args:
        grid: height and width G of the attention map.
        condition_dim: size of cat[h, z].
        width: size of the schema's hidden layer.
    """

    COARSE = 7
    """Cells along each side of the coarse grid on which the map begins."""

    def __init__(self, *, grid: int, condition_dim: int, width: int = 64) -> None:
        super().__init__()
        self.grid = grid
        channels = 16
        self.to_coarse = nn.Sequential(
            nn.Linear(condition_dim, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, channels * self.COARSE**2),
            nn.Unflatten(-1, (channels, self.COARSE, self.COARSE)),
        )
        self.refine = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU())
        self.to_logits = nn.Conv2d(channels, 1, 3, padding=1)
        # At first the schema expects nothing in particular: an even map.
        nn.init.zeros_(self.to_logits.weight)
        nn.init.zeros_(self.to_logits.bias)  # type: ignore[arg-type]
        self.trust = nn.Parameter(torch.tensor(-1.0))

    def forward(
        self, hidden: Float[Tensor, "n hidden"], latents: Float[Tensor, "n latent"]
    ) -> Float[Tensor, "n grid grid"]:
        """The map that the schema expects, summing to 1."""
        condition = torch.cat([hidden, latents], dim=-1).detach()
        coarse = F.interpolate(self.to_coarse(condition), size=(self.grid, self.grid), mode="bilinear")
        return _normalise(self.to_logits(self.refine(coarse)).float()[:, 0])

    def fuse(
        self, seen: Float[Tensor, "n grid grid"], expected: Float[Tensor, "n grid grid"]
    ) -> Float[Tensor, "n grid grid"]:
        """A[t]: a geometric mean of what is seen and what was expected, with a learned trust in the expectation."""
        trust = torch.sigmoid(self.trust)
        return _normalise((1 - trust) * (seen + EPSILON).log() + trust * (expected + EPSILON).log())


def map_kl(p: Float[Tensor, "*batch grid grid"], q: Float[Tensor, "*batch grid grid"]) -> Float[Tensor, "*batch"]:
    """KL(p ‖ q) between two attention maps, in nats."""
    return (p * ((p + EPSILON).log() - (q + EPSILON).log())).sum(dim=(-2, -1))


def _normalise(logits: Tensor) -> Tensor:
    return logits.flatten(1).softmax(dim=-1).view_as(logits)
