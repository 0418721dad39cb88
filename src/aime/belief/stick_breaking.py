"""From K - 1 sticks to K mixture weights: π_k = v_k Π_{j<k} (1 - v_j), and the last weight is what is left.

All of it happens in log space (Sethuraman 1994 for the construction), where a weight of e^-400 is still a weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from aime.belief.kumaraswamy import at_least_float32


def log_weights_from_logits(logits: Float[Tensor, "*batch sticks"]) -> Float[Tensor, "*batch components"]:
    """Log weights of the K = sticks + 1 components, given log v - log(1 - v) of every stick.

    Each stick divides what is left into σ(x) and σ(-x), so that the weights sum to one by construction. No sticks:
    one weight, log 1.
    """
    logits = at_least_float32(logits)
    nothing = logits.new_zeros(*logits.shape[:-1], 1)
    log_left = torch.cat([nothing, torch.cumsum(F.logsigmoid(-logits), dim=-1)], dim=-1)
    return log_left + torch.cat([F.logsigmoid(logits), nothing], dim=-1)


def log_stick_weights(v: Float[Tensor, "*batch sticks"]) -> Float[Tensor, "*batch components"]:
    """Log weights of the K = sticks + 1 components, given sticks v in [0, 1]; finite even for a stick of 0 or 1."""
    v = at_least_float32(v)
    return log_weights_from_logits(torch.logit(v, eps=torch.finfo(v.dtype).eps))


def entropy(log_weights: Float[Tensor, "*batch components"]) -> Float[Tensor, "*batch"]:
    """Entropy of the weights in nats, between 0 and log K."""
    weights = torch.exp(log_weights)
    # A weight that has underflowed contributes nothing, not 0 · -inf.
    return -torch.where(weights > 0, weights * log_weights, 0.0).sum(-1)


def effective_components(log_weights: Float[Tensor, "*batch components"]) -> Float[Tensor, "*batch"]:
    """exp(entropy): how many equally used components would be as varied as these, between 1 and K."""
    return torch.exp(entropy(log_weights))
