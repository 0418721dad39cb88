"""The belief after seeing: from what a frame shows to a Gaussian over its latent, q(z[t] | o[t])."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

PLACES_SCALE = 3.0
"""Coordinates in [-1, 1], scaled to the spread of a latent."""


class Posterior(nn.Module):
    """A Gaussian whose mean is linear in where things are, and whatever else the evidence adds to that.

    The linear part alone speaks at first. So the latent begins as a place, which dynamics can foretell, and learns of
    appearance what places leave open.

    Args:
        places_dim: coordinates. evidence_dim: everything else that was seen. hidden_dim: width of its network.
        latent_dim: Z.
    """

    def __init__(self, *, places_dim: int, evidence_dim: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.from_places = nn.Linear(places_dim, 2 * latent_dim)
        self.from_evidence = nn.Sequential(
            nn.Linear(evidence_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, 2 * latent_dim),
        )
        nn.init.zeros_(self.from_evidence[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.from_evidence[-1].bias)  # type: ignore[arg-type]

    def forward(
        self, places: Float[Tensor, "n places"], evidence: Float[Tensor, "n evidence"]
    ) -> tuple[Float[Tensor, "n latent"], Float[Tensor, "n latent"]]:
        """Mean and log-variance, float32; the latter between -8 and 2, so that a posterior can neither vanish nor drown
        the latent."""
        raw = self.from_places(PLACES_SCALE * places).float() + self.from_evidence(evidence).float()
        mean, log_var = raw.chunk(2, dim=-1)
        return mean, -3 + 5 * torch.tanh(log_var / 5)
