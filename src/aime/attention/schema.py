"""Top-down attention: a schema that expects where to attend next, and its fusion with what the slots see.

The schema is the model's own model of its attention (Graziano & Webb, 2015): from the map it attended last, the belief
and the latent of the new frame it predicts the next map, mostly by moving the old one along a learned motion field.
In a dream there is nothing to see, and the schema's prediction *is* the attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-6
"""Smallest attention that a place can have, before normalisation: keeps logarithms and KLs finite."""


class AttentionSchema(nn.Module):
    """p(A[t] | A[t-1], h[t-1], z[t]) as a motion field with innovation, and the fusion that gives A[t].

    The belief and the latent are read without gradient: the schema is a model *of* the belief's attention and does not
    bend the belief.

    Args:
        grid: height and width G of the attention map.
        condition_dim: size of cat[h, z].
        width: size of the schema's hidden layer.
        reach: largest displacement of the motion field in one step, as a share of the frame.
    """

    COARSE = 7
    """Cells along each side of the coarse grid on which motion and innovation are predicted."""

    def __init__(self, *, grid: int, condition_dim: int, width: int = 128, reach: float = 0.3) -> None:
        super().__init__()
        self.grid, self.reach = grid, reach
        channels = 16
        self.to_coarse = nn.Sequential(
            nn.Linear(condition_dim, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, channels * self.COARSE**2),
            nn.Unflatten(-1, (channels, self.COARSE, self.COARSE)),
        )
        self.refine = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU())
        self.to_field = nn.Conv2d(channels, 3, 3, padding=1)
        # At first the schema expects attention to stay where it is.
        nn.init.zeros_(self.to_field.weight)
        nn.init.zeros_(self.to_field.bias)  # type: ignore[arg-type]
        self.trust = nn.Parameter(torch.tensor(-1.0))
        axis = torch.linspace(-1, 1, grid)
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("identity", torch.stack([columns, rows], dim=-1), persistent=False)
        self.identity: Tensor

    def forward(
        self,
        previous: Float[Tensor, "n grid grid"],
        hidden: Float[Tensor, "n hidden"],
        latents: Float[Tensor, "n latent"],
    ) -> Float[Tensor, "n grid grid"]:
        """The map that the schema expects, summing to 1: `previous` moved along the field, times the innovation."""
        condition = torch.cat([hidden, latents], dim=-1).detach()
        coarse = F.interpolate(self.to_coarse(condition), size=(self.grid, self.grid), mode="bilinear")
        field = self.to_field(self.refine(coarse)).float()
        flow = 2 * self.reach * torch.tanh(field[:, :2]).permute(0, 2, 3, 1)
        flow = flow.nan_to_num()  # grid_sample reads outside its memory at a place that is not a number
        moved = F.grid_sample(
            previous.float()[:, None], self.identity + flow, padding_mode="border", align_corners=True
        )
        return _normalise((moved[:, 0] + EPSILON).log() + field[:, 2])

    def fuse(
        self, seen: Float[Tensor, "n grid grid"], expected: Float[Tensor, "n grid grid"]
    ) -> Float[Tensor, "n grid grid"]:
        """A[t]: a geometric mean of what is seen and what was expected, with a learned trust in the expectation."""
        trust = torch.sigmoid(self.trust)
        return _normalise((1 - trust) * (seen + EPSILON).log() + trust * (expected + EPSILON).log())

    def uniform(self, n: int) -> Float[Tensor, "n grid grid"]:
        """Attention before anything was seen."""
        return self.identity.new_full((n, self.grid, self.grid), 1.0 / self.grid**2)


def map_kl(p: Float[Tensor, "*batch grid grid"], q: Float[Tensor, "*batch grid grid"]) -> Float[Tensor, "*batch"]:
    """KL(p ‖ q) between two attention maps, in nats."""
    return (p * ((p + EPSILON).log() - (q + EPSILON).log())).sum(dim=(-2, -1))


def _normalise(logits: Tensor) -> Tensor:
    return logits.flatten(1).softmax(dim=-1).view_as(logits)
