"""The distributions behind the mixture's weights: Kumaraswamy sticks, their Beta prior, and a Gamma concentration.

A stick v ~ Kumaraswamy(a, b) has the density a b v^(a-1) (1 - v^a)^(b-1) on (0, 1). It looks like a Beta, but its
quantile function is closed, so that its samples carry exact gradients (Kumaraswamy 1980; Nalisnick & Smyth 2017). Two
things make it hard in float32, and both are dealt with here once: v rounds to 0 or 1 long before its logit is large, so
sampling returns the logit; and E[log(1 - v)], on which its divergence from a Beta hangs, has no closed form, so it is
integrated (see `expected_log_rest`). All functions are elementwise, broadcast, and compute in at least float32,
whatever autocast says.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Nodes of the trapezoidal rule in the logit of v^a. On [0.05, 50]² they leave an error of 1.1e-5 in E[log(1 - v)].
_LOWEST_LOGIT, _HIGHEST_LOGIT, _NODES = -17.0, 15.0, 48
_EULER_GAMMA = 0.57721566490153286
# Beyond this many nats exp(-x) no longer changes 1 - exp(-x) in float32, and its square still does not underflow.
_FAR = 30.0


def at_least_float32(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """`x`, raised to float32 if it is narrower: densities and divergences are not computed in bfloat16."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def log1mexp(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """log(1 - exp(-x)) for x > 0, accurate at both ends (Mächler 2012), with finite gradients throughout."""
    small = x < math.log(2.0)
    # Each branch sees a harmless argument where the other is taken, so that no infinity leaks into the gradient.
    near = torch.log(-torch.expm1(-torch.where(small, x, 1.0)))
    far = torch.log1p(-torch.exp(-torch.where(small, 1.0, x)))
    return torch.where(small, near, far)


def kumaraswamy_log_prob(
    v: Float[Tensor, "*#shape"], a: Float[Tensor, "*#shape"], b: Float[Tensor, "*#shape"]
) -> Float[Tensor, ...]:
    """Log density of Kumaraswamy(a, b) at v in (0, 1), in nats."""
    log_v = torch.log(at_least_float32(v))
    a, b = at_least_float32(a), at_least_float32(b)
    return torch.log(a) + torch.log(b) + (a - 1) * log_v + (b - 1) * log1mexp(-a * log_v)


def sample_logit(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    """log v - log(1 - v) of a reparameterised draw v ~ Kumaraswamy(a, b); the gradient reaches a and b.

    The logit keeps what v itself would lose: at a = 50, b = 0.05 most draws round to v = 1, at a = 0.05 to v = 0.
    One uniform number is used per element, so that no element's draw depends on another's parameters.
    """
    a, b = at_least_float32(a), at_least_float32(b)
    u = torch.rand(a.shape, dtype=a.dtype, device=a.device, generator=generator)
    # 1 - v^a = u^(1/b) = exp(-x). Half a step away from 0 and 1 keeps x finite and positive.
    half = torch.finfo(a.dtype).eps / 4
    x = -torch.log(u.clamp(half, 1 - half)) / b
    log_v = log1mexp(x) / a
    # log(1 - v) = log(1 - v^a) + log((1 - v) / (1 - v^a)); the ratio lies between 1 and 1/a and never degenerates.
    y = torch.exp(-x.clamp(max=_FAR))
    ratio = -torch.expm1(log1mexp(x.clamp(max=_FAR)) / a) / y
    return log_v + x - torch.log(ratio)


def sample(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    """A reparameterised draw v ~ Kumaraswamy(a, b) in [0, 1]. Prefer `sample_logit` wherever logarithms follow."""
    return torch.sigmoid(sample_logit(a, b, generator))


def kumaraswamy_mean(a: Float[Tensor, "*#shape"], b: Float[Tensor, "*#shape"]) -> Float[Tensor, ...]:
    """E[v] = b B(1 + 1/a, b), strictly inside (0, 1) in floating point too."""
    a, b = at_least_float32(a), at_least_float32(b)
    log_mean = torch.log(b) + torch.lgamma(1 + 1 / a) + torch.lgamma(b) - torch.lgamma(1 + 1 / a + b)
    eps = torch.finfo(log_mean.dtype).eps
    return torch.exp(log_mean).clamp(eps, 1 - eps)


def expected_log_stick(a: Float[Tensor, "*#shape"], b: Float[Tensor, "*#shape"]) -> Float[Tensor, ...]:
    """E[log v] = (ψ(1) - ψ(b + 1)) / a for v ~ Kumaraswamy(a, b)."""
    a, b = at_least_float32(a), at_least_float32(b)
    return (-torch.digamma(b + 1) - _EULER_GAMMA) / a


def expected_log_rest(a: Float[Tensor, "*#shape"], b: Float[Tensor, "*#shape"]) -> Float[Tensor, ...]:
    """E[log(1 - v)] for v ~ Kumaraswamy(a, b), within 2e-5 for a, b in [0.05, 50], differentiable in both.

    The usual series -Σ b/m B(m/a, b) converges so slowly that ten terms are off by whole nats. Instead let w = v^a,
    so that 1 - w is a power of a uniform variable, and split off what diverges:

        log(1 - v) = log(1 - w) + log((1 - v) / (1 - w)),    E[log(1 - w)] = -1/b,

    where the second term lies between 0 and -log a. Its expectation, taken over s = logit(w) and measured from its
    limit -log a, is the integral of a function that is analytic in a strip and decays exponentially at both ends, for
    which the trapezoidal rule converges geometrically. The integrand is a product of a function of a and one of b at
    fixed nodes.
    """
    a, b = at_least_float32(a), at_least_float32(b)
    a, b = torch.broadcast_tensors(a, b)
    s = torch.linspace(_LOWEST_LOGIT, _HIGHEST_LOGIT, _NODES, dtype=a.dtype, device=a.device)
    step = (_HIGHEST_LOGIT - _LOWEST_LOGIT) / (_NODES - 1)
    log_w, log_rest = F.logsigmoid(s), F.logsigmoid(-s)
    inverse_rest, weight = 1 + torch.exp(s), torch.sigmoid(s) * step
    over_limit = torch.log(-torch.expm1(log_w / a[..., None]) * (inverse_rest * a[..., None]))
    density = torch.exp(log_rest * b[..., None]) * weight
    return b * (density * over_limit).sum(-1) - 1 / b - torch.log(a)


def kumaraswamy_neg_entropy(a: Float[Tensor, "*#shape"], b: Float[Tensor, "*#shape"]) -> Float[Tensor, ...]:
    """E[log q(v)] under q = Kumaraswamy(a, b) itself, in nats: closed form."""
    a, b = at_least_float32(a), at_least_float32(b)
    return torch.log(a) + torch.log(b) + (a - 1) * expected_log_stick(a, b) - (b - 1) / b


def kl_kumaraswamy_beta(
    a: Float[Tensor, "*#shape"],
    b: Float[Tensor, "*#shape"],
    alpha: Float[Tensor, "*#shape"],
    beta: Float[Tensor, "*#shape"],
) -> Float[Tensor, ...]:
    """KL(Kumaraswamy(a, b) ‖ Beta(alpha, beta)) in nats, elementwise.

    Within 1e-3 · max(1, KL) of the integral for a, b, alpha, beta in [0.05, 50] in float32; gradients reach all four.
    The prior of a Dirichlet process's sticks is alpha = 1 and beta = its concentration.
    """
    alpha, beta = at_least_float32(alpha), at_least_float32(beta)
    log_normaliser = torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
    cross = (alpha - 1) * expected_log_stick(a, b) + (beta - 1) * expected_log_rest(a, b)
    return kumaraswamy_neg_entropy(a, b) - cross + log_normaliser


def kl_kumaraswamy_beta_gamma(
    a: Float[Tensor, "*#shape"],
    b: Float[Tensor, "*#shape"],
    shape: Float[Tensor, "*#shape"],
    rate: Float[Tensor, "*#shape"],
) -> Float[Tensor, ...]:
    """E[KL(Kumaraswamy(a, b) ‖ Beta(1, α))] over α ~ Gamma(shape, rate), in nats, elementwise.

    -log Beta(v; 1, α) = -log α - (α - 1) log(1 - v) is linear in α and log α, whose means are shape/rate and
    ψ(shape) - log(rate): nothing is sampled.
    """
    shape, rate = at_least_float32(shape), at_least_float32(rate)
    mean_log_alpha = torch.digamma(shape) - torch.log(rate)
    return kumaraswamy_neg_entropy(a, b) - mean_log_alpha - (shape / rate - 1) * expected_log_rest(a, b)


def kl_gamma_gamma(
    shape: Float[Tensor, "*#shape"],
    rate: Float[Tensor, "*#shape"],
    prior_shape: Float[Tensor, "*#shape"],
    prior_rate: Float[Tensor, "*#shape"],
) -> Float[Tensor, ...]:
    """KL(Gamma(shape, rate) ‖ Gamma(prior_shape, prior_rate)) in nats, elementwise, in closed form."""
    shape, rate = at_least_float32(shape), at_least_float32(rate)
    prior_shape, prior_rate = at_least_float32(prior_shape), at_least_float32(prior_rate)
    return (
        (shape - prior_shape) * torch.digamma(shape)
        - torch.lgamma(shape)
        + torch.lgamma(prior_shape)
        + prior_shape * (torch.log(rate) - torch.log(prior_rate))
        + shape * (prior_rate / rate - 1)
    )
