"""Bottom-up attention: slots that compete for the places of one frame.

Slot attention (Locatello et al., 2020, arXiv 2006.15055) with learned queries, so that slot k means the same thing in
every frame and all frames run at once. One extra query that is never reported, the *ground*, competes too: it takes the
background, and so lets the reported slots stay local.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Slots:
    """What the slots hold after their last round of competition."""

    vectors: Float[Tensor, "n slots slot_dim"]
    maps: Float[Tensor, "n slots grid grid"]
    """Where each slot looks: every map sums to 1 over the grid."""
    gates: Float[Tensor, "n slots"]
    """How much each slot matters to the frame's attention: sums to 1 over the slots."""

    @property
    def attention(self) -> Float[Tensor, "n grid grid"]:
        """The bottom-up attention map: the slots' maps weighted by their gates, summing to 1."""
        return torch.einsum("ns,nshw->nhw", self.gates, self.maps)

    def followed_by(self, others: Slots) -> Slots:
        """These frames' slots and then those of other frames."""
        pairs = ((self.vectors, others.vectors), (self.maps, others.maps), (self.gates, others.gates))
        return Slots(*(torch.cat(pair) for pair in pairs))

    def summary(self) -> Float[Tensor, "n features"]:
        """One vector per frame for the posterior: what the slots hold, where each one is, and how much it matters."""
        return torch.cat([self.vectors.flatten(1), slot_centres(self.maps).flatten(1), self.gates], dim=-1)


class SlotAttention(nn.Module):
    """Slots over a grid of features.

    Args:
        in_channels: channels of the feature grid.
        grid: height and width of that grid.
        slot_dim: size of a slot.
        num_slots: reported slots (the ground is one more).
        iterations: rounds of competition.
    """

    def __init__(self, *, in_channels: int, grid: int, slot_dim: int, num_slots: int, iterations: int) -> None:
        super().__init__()
        self.grid, self.iterations = grid, iterations
        self.scale = slot_dim**-0.5
        self.queries = nn.Parameter(torch.randn(num_slots + 1, slot_dim) * slot_dim**-0.5)
        self.position = nn.Linear(4, in_channels)
        self.norm_inputs = nn.LayerNorm(in_channels)
        self.to_keys_values = nn.Linear(in_channels, 2 * slot_dim, bias=False)
        self.norm_slots = nn.LayerNorm(slot_dim)
        self.to_query = nn.Linear(slot_dim, slot_dim, bias=False)
        self.update = nn.GRUCell(slot_dim, slot_dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(slot_dim), nn.Linear(slot_dim, 2 * slot_dim), nn.SiLU(), nn.Linear(2 * slot_dim, slot_dim)
        )
        self.to_gate = nn.Linear(slot_dim, 1)
        self.register_buffer("coordinates", _corner_distances(grid), persistent=False)
        self.coordinates: Tensor

    @property
    def summary_dim(self) -> int:
        """Size of `Slots.summary` for one frame."""
        num_slots, slot_dim = self.queries.shape[0] - 1, self.queries.shape[1]
        return num_slots * (slot_dim + 2 + 1)

    def forward(self, features: Float[Tensor, "n channels grid grid"]) -> Slots:
        """Let the slots compete for the places of each frame, independently of all other frames."""
        n = features.shape[0]
        places = features.flatten(2).transpose(1, 2)  # (n, G², C)
        keys, values = self.to_keys_values(self.norm_inputs(places + self.position(self.coordinates))).chunk(2, dim=-1)
        slots = self.queries.expand(n, -1, -1)
        for _ in range(self.iterations):
            logits = torch.einsum("nsd,npd->nsp", self.to_query(self.norm_slots(slots)), keys) * self.scale
            share = logits.float().softmax(dim=1)  # slots compete for each place …
            maps = share / share.sum(dim=-1, keepdim=True).clamp_min(1e-6)  # … and average over the places they won
            updates = torch.einsum("nsp,npd->nsd", maps.to(values.dtype), values)
            slots = self.update(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(slots)
        vectors = slots[:, :-1]  # the last query is the ground
        maps = maps[:, :-1].unflatten(-1, (self.grid, self.grid))
        return Slots(vectors, maps, self.to_gate(vectors).squeeze(-1).float().softmax(dim=-1))


def slot_centres(maps: Float[Tensor, "*batch grid grid"]) -> Float[Tensor, "*batch 2"]:
    """Centre of mass (row, column) of each map, in [-1, 1]."""
    axis = torch.linspace(-1, 1, maps.shape[-1], device=maps.device, dtype=maps.dtype)
    return torch.stack([(maps.sum(-1) * axis).sum(-1), (maps.sum(-2) * axis).sum(-1)], dim=-1)


def slot_spread(maps: Float[Tensor, "*batch grid grid"]) -> Float[Tensor, "*batch"]:
    """Spatial variance of each map, in units where the grid spans [-1, 1]: 0 for a point, 2/3 for a uniform map."""
    axis = torch.linspace(-1, 1, maps.shape[-1], device=maps.device, dtype=maps.dtype)
    rows, columns = maps.sum(-1), maps.sum(-2)
    second = (rows * axis**2).sum(-1) + (columns * axis**2).sum(-1)
    return (second - slot_centres(maps).square().sum(-1)).clamp_min(0)


def slot_overlap(maps: Float[Tensor, "n slots grid grid"]) -> Float[Tensor, " n"]:
    """Mean overlap between two slots of a frame: the off-diagonal of the Gram matrix of their normalised maps.

    0 when no two slots share a place, 1 when all look at the same places; 0 for a single slot.
    """
    unit = nn.functional.normalize(maps.flatten(2), dim=-1)
    gram = unit @ unit.transpose(1, 2)
    slots = maps.shape[1]
    off_diagonal = gram.sum(dim=(1, 2)) - gram.diagonal(dim1=1, dim2=2).sum(-1)
    return off_diagonal / max(slots * (slots - 1), 1)


def _corner_distances(grid: int) -> Tensor:
    """Position of each place as its distances to the four sides: (G², 4), in [0, 1]."""
    axis = torch.linspace(0, 1, grid)
    row, column = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([row, column, 1 - row, 1 - column], dim=-1).flatten(0, 1)
