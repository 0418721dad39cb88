"""The belief before seeing: from the recurrent state to a mixture over the next latent.

A truncated Dirichlet-process mixture of Gaussians (DPGMM), amortised. Generative side: concentration α ~ Gamma, sticks
v_k ~ Beta(1, α), weights π from the sticks, z ~ Σ_k π_k N(m_k, s_k). Variational side: q(α) = Gamma and q(v_k) =
Kumaraswamy (Nalisnick & Smyth 2017), whose parameters, like the components' means and log-variances, come from a
network of the condition.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from aime.belief import relocation
from aime.belief.coalescence import coalesce, handover
from aime.belief.kumaraswamy import kumaraswamy_mean, sample_logit
from aime.belief.mixture import MixturePrior, compute_kl_divergence_mc
from aime.belief.stick_breaking import log_stick_weights, log_weights_from_logits
from aime.errors import ConfigError, ShapeError

__all__ = ["DPGMMPrior", "MixturePrior", "compute_kl_divergence_mc"]

STICK_RANGE = (0.05, 50.0)
"""Soft bounds of a and b, within which the sticks' divergence is accurate."""
GAMMA_RANGE = (0.02, 200.0)
"""Soft bounds of the shape and rate of q(α)."""
LOG_VAR_RANGE = (-8.0, 4.0)
"""Soft bounds of a component's log-variance."""
ALPHA_PRIOR = (1.0, 0.2)
"""Shape and rate of p(α): broad, with a mean of 5, for sticks that give a dozen components a share. Data with few
modes need no small α, because components that coincide count as one."""


def soft_clamp(x: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, "*shape"]:
    """`x` between two bounds: the identity well inside, and never without a gradient."""
    x = high - F.softplus(high - x)
    # The second softplus lifts the upper bound by log1p(exp(low - high)); scaled back, the bounds are exact.
    lifted = high - low + math.log1p(math.exp(low - high))
    return low + (high - low) / lifted * F.softplus(x - low)


class DPGMMPrior(nn.Module):
    """p(z | condition) as a truncated Dirichlet-process mixture of K Gaussians.

    Args:
        condition_dim: size of the condition: in the world model h.
        latent_dim: Z. max_components: the truncation K; 1 makes it a single Gaussian. hidden_dim: width of the network.
    """

    usage: Tensor
    offset: Tensor
    """Running mean of the latents …"""
    scale: Tensor
    """… and their running standard deviation: the units in which the network speaks."""
    # The divergence needs no parameters of the prior; it is found here as well, where one looks for it.
    compute_kl_divergence_mc = staticmethod(compute_kl_divergence_mc)

    def __init__(self, *, condition_dim: int, latent_dim: int, max_components: int, hidden_dim: int) -> None:
        super().__init__()
        sizes = {"condition_dim": condition_dim, "latent_dim": latent_dim, "max_components": max_components}
        for name, value in {**sizes, "hidden_dim": hidden_dim}.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        self.condition_dim, self.latent_dim, self.max_components = condition_dim, latent_dim, max_components
        self.trunk = nn.Sequential(
            nn.Linear(condition_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.SiLU(),
        )
        # What all components' means have in common learns from every frame, each one's own part from those it explains.
        self.common_mean = nn.Linear(hidden_dim, latent_dim)
        self.means = nn.Linear(hidden_dim, max_components * latent_dim)
        self.log_vars = nn.Linear(hidden_dim, max_components * latent_dim)
        # Log a and log b of each stick, then log shape and log rate of q(α): read out as they are, under no norm.
        self.sticks = nn.Linear(hidden_dim, 2 * (max_components - 1) + 2)
        self.register_buffer("usage", torch.full((max_components,), 1 / max_components))
        self.register_buffer("offset", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start with components spread over a standard normal, each as likely as the next, for every condition."""
        nn.init.zeros_(self.common_mean.weight)
        nn.init.zeros_(self.common_mean.bias)
        for head in (self.means, self.log_vars, self.sticks):
            nn.init.normal_(head.weight, std=0.1 / math.sqrt(head.in_features))
            nn.init.zeros_(head.bias)
        # Scrambled Sobol points, taken through the normal quantile, lie further apart than independent draws do.
        seed = int(torch.randint(2**31 - 1, ()))
        points = torch.quasirandom.SobolEngine(self.latent_dim, scramble=True, seed=seed).draw(self.max_components)
        self.means.bias.copy_(torch.special.ndtri(points.clamp(1e-3, 1 - 1e-3)).flatten())
        # Kumaraswamy(1, b) has mean 1 / (1 + b): of K - k components left, the first takes its equal share.
        left = torch.arange(self.max_components - 1, 0, -1, dtype=torch.float32)
        shape, rate = ALPHA_PRIOR[0] + 1, (ALPHA_PRIOR[0] + 1) * ALPHA_PRIOR[1] / ALPHA_PRIOR[0]
        alpha = torch.tensor([shape, rate])
        self.sticks.bias.copy_(torch.cat([torch.zeros_like(left), left.log(), alpha.log()]))
        self.usage.fill_(1 / self.max_components)

    def forward(self, condition: Float[Tensor, "*batch condition"]) -> MixturePrior:
        """The mixture for each condition (*batch, condition_dim).

        In train mode the sticks are drawn, one uniform number each, and gradients reach their parameters; in eval
        mode their means are used, which gives the mean weights and nothing random. Raises ShapeError for a condition
        of the wrong size.
        """
        if condition.shape[-1] != self.condition_dim:
            raise ShapeError(f"the prior expects conditions of size {self.condition_dim}, got {condition.shape[-1]}")
        features = self.trunk(condition)
        with torch.autocast(condition.device.type, enabled=False):
            # Read-outs in float32: in bfloat16 a mean of 3 would move in steps of 0.016, a good part of a standard
            # deviation.
            features = features.to(self.means.weight.dtype)
            shape = (self.max_components, self.latent_dim)
            common = self.common_mean(features)
            means = common.unsqueeze(-2) + self.means(features).unflatten(-1, shape)
            log_vars = soft_clamp(self.log_vars(features).unflatten(-1, shape), *LOG_VAR_RANGE)
            sizes = [self.max_components - 1, self.max_components - 1, 2]
            log_a, log_b, log_alpha = self.sticks(features).split(sizes, dim=-1)
            a, b = (torch.exp(soft_clamp(x, *map(math.log, STICK_RANGE))) for x in (log_a, log_b))
            alpha_shape, alpha_rate = torch.exp(soft_clamp(log_alpha, *map(math.log, GAMMA_RANGE))).unbind(-1)
            if self.training:
                log_weights = log_weights_from_logits(sample_logit(a, b))
            else:
                log_weights = log_stick_weights(kumaraswamy_mean(a, b))
            log_weights = coalesce(log_weights, handover(means, log_vars))
            mixture = MixturePrior(log_weights, means, log_vars, a, b, alpha_shape, alpha_rate, ALPHA_PRIOR)
            return mixture.moved(self.offset, self.scale)

    def standardised(self, latents: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
        """Latents in units of their running standard deviation, from their running mean."""
        return (latents - self.offset) / self.scale

    def doubt(self, mixture: MixturePrior) -> Float[Tensor, "*batch latent"]:
        """How unsure a guess at each number of the latent is: 0 if it is known, about 1 if nothing is known of it."""
        return mixture.deviation() / self.scale

    @torch.no_grad()
    def follow(self, latents: Float[Tensor, "*batch latent"], decay: float = 0.98) -> None:
        """Move the units towards those of these latents.

        What size a latent has is the encoder's choice, and changes while it learns. A prior that had to learn sizes by
        gradient would lag behind, as clusters that cover where latents tend to be, whatever the condition.
        """
        variance, mean = torch.var_mean(latents.float().flatten(0, -2), dim=0, correction=0)
        deviation = (variance + (mean - self.offset).square() * decay).sqrt().clamp_min(1e-3)
        finite = torch.isfinite(mean).all() & torch.isfinite(deviation).all()
        self.offset.lerp_(torch.where(finite, mean, self.offset), 1 - decay)
        self.scale.lerp_(torch.where(finite, deviation, self.scale), 1 - decay)

    @torch.no_grad()
    def relocate(
        self,
        latents: Float[Tensor, "*batch latent"],
        mixture: MixturePrior,
        decay: float = 0.98,
        unless: Bool[Tensor, ""] | None = None,
    ) -> Bool[Tensor, ""]:
        """Move one component to where it explains these latents better, if there is such a move; say whether it moved.

        To be called between updates, after the optimizer's step, with the step's posterior samples (clips first, so
        that some clips judge what others propose) and their mixture: parameters change in place. `decay` is that of
        the running mean of the components' use, over calls. Nothing moves where `unless` is true, which a GPU need not
        be waited for. See `aime.belief.relocation`.
        """
        if self.max_components == 1:  # a single Gaussian has no other to move beside
            return torch.zeros((), dtype=torch.bool, device=latents.device)
        inner = mixture.moved(-self.offset / self.scale, 1 / self.scale)
        latents = self.standardised(latents.to(inner.means.dtype))
        return relocation.relocate(self.means, self.log_vars, self.usage, latents, inner, decay, unless)
