"""Components that coincide are one component: what makes the number of components that matter adapt to the data.

A Dirichlet process does not care whether one mode of the data is held by one component or by five that coincide: the
density is the same, and its sticks even prefer several. So the evidence alone never settles on a number of
components. Here each component hands its weight to the earlier one that it coincides with. Where components coincide
exactly the density does not change, so this costs nothing and favours no fit over another; but a duplicate is then
left with no weight, needs none of its own, and is free to be moved where it is needed (`aime.belief.relocation`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Two components coincide to the degree exp(-(divergence / REACH)²): nearly fully within 2 nats, hardly beyond 14.
# The flat top lets duplicates drift within a mode, as estimates do, without becoming components of their own.
REACH = 7.0
# Even an exact duplicate keeps this share, so that it keeps a gradient and its log weight stays finite.
KEPT = 1e-4


def divergences(
    means: Float[Tensor, "*batch components latent"], log_vars: Float[Tensor, "*batch components latent"]
) -> Float[Tensor, "*batch components components"]:
    """Mean of KL(N_i ‖ N_j) and KL(N_j ‖ N_i) in nats for every pair of components: half of Jeffreys' divergence.

    It is symmetric on purpose: a narrow component inside a broad one loses little by being taken for it, but not the
    reverse.
    """
    precision = torch.exp(-log_vars)
    # Multiplied out, (m_i - m_j)² becomes three matrix products, but cancels: so from the components' own centre.
    means = means - means.mean(dim=-2, keepdim=True).detach()
    weighed = means * precision
    squares = torch.cat([torch.exp(log_vars) + means.square(), -2 * means], dim=-1)
    one_way = squares @ torch.cat([precision, weighed], dim=-1).mT + (means * weighed).sum(-1)[..., None, :]
    return 0.25 * (one_way + one_way.mT) - 0.5 * means.shape[-1]


def handover(
    means: Float[Tensor, "*batch components latent"], log_vars: Float[Tensor, "*batch components latent"]
) -> Float[Tensor, "*batch components components"]:
    """The share of component k's weight (row) that ends with component j ≤ k (column); every row sums to one.

    Component k asks the earlier components in turn, hands each, of what it still has, the degree to which they
    coincide, and keeps the rest. What it has been handed it hands on alike, so that of a cluster of duplicates the
    first one gets all.
    """
    count = means.shape[-2]
    earlier = torch.ones(count, count, dtype=torch.bool, device=means.device).tril(-1)
    # Rounding can bring the divergence of exact duplicates just below zero.
    degree = divergences(means, log_vars).clamp_min(0) / REACH
    coinciding = ((1 - KEPT) * torch.exp(-degree.square())).masked_fill(~earlier, 0.0)
    log_refused = torch.log1p(-coinciding)
    left = torch.exp(log_refused.cumsum(-1) - log_refused)
    given, kept = coinciding * left, left.diagonal(dim1=-2, dim2=-1)
    # If x is one component's weight and what it is handed, x = π + givenᵀ x, and it ends with kept · x.
    one = torch.eye(count, dtype=means.dtype, device=means.device)
    passed = torch.linalg.solve_triangular(one - given, one.expand_as(given), upper=False, unitriangular=True)
    return passed * kept[..., None, :]


def coalesce(
    log_weights: Float[Tensor, "*batch components"], shares: Float[Tensor, "*batch components components"]
) -> Float[Tensor, "*batch components"]:
    """Log weights after the `handover`; they sum to what they summed to before."""
    log_shares = torch.log(shares.clamp_min(torch.finfo(shares.dtype).tiny))
    return torch.logsumexp(log_weights[..., :, None] + log_shares, dim=-2)
