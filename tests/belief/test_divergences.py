"""Every divergence of the belief against numerical quadrature or a closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from aime.belief import DPGMMPrior, MixturePrior, compute_kl_divergence_mc
from aime.belief.kumaraswamy import kl_gamma_gamma, kl_kumaraswamy_beta, kl_kumaraswamy_beta_gamma

CORNERS = [0.05, 0.3, 1.0, 4.0, 50.0]


def kumaraswamy_beta_by_quadrature(a: float, b: float, alpha: float, beta: float) -> float:
    """The integral over the logit s of v^a, where the density has no poles: v = sigmoid(s)^(1/a)."""

    def integrand(s: float) -> float:
        log_w, log_rest_w = -float(np.logaddexp(0, -s)), -float(np.logaddexp(0, s))
        log_v = log_w / a
        log_rest = math.log(-math.expm1(log_v)) if log_v < -1e-300 else -math.inf
        if not math.isfinite(log_rest):
            return 0.0
        density = b * math.exp(log_w + b * log_rest_w)  # of s: q(w) dw/ds with w ~ Kumaraswamy(1, b)
        log_q = math.log(a * b) + (a - 1) * log_v + (b - 1) * log_rest_w
        log_p = (alpha - 1) * log_v + (beta - 1) * log_rest - special.betaln(alpha, beta)
        return density * (log_q - log_p)

    reach = 40.0 + 40.0 / min(b, 1.0)
    points = [-40.0, -10.0, -3.0, 0.0, 3.0, 10.0, 40.0]
    edges = [-40.0, *points[1:], *([reach] if reach > 40 else [])]
    return sum(integrate.quad(integrand, x, y, limit=400)[0] for x, y in itertools.pairwise(edges))


@pytest.mark.parametrize("beta", [0.5, 1.0, 5.0])
def test_kumaraswamy_to_beta(beta: float):
    """Within 1e-3 · max(1, KL) over a, b in [0.05, 50]."""
    for a in CORNERS:
        for b in CORNERS:
            expected = kumaraswamy_beta_by_quadrature(a, b, 1.0, beta)
            found = float(kl_kumaraswamy_beta(*(torch.tensor(x) for x in (a, b, 1.0, beta))))
            assert abs(found - expected) <= 1e-3 * max(1.0, expected), (a, b, found, expected)


def test_kumaraswamy_that_is_the_beta_diverges_by_nothing():
    a, one = torch.tensor([0.2, 1.0, 7.0]), torch.ones(3)
    torch.testing.assert_close(kl_kumaraswamy_beta(a, one, a, one), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(kl_kumaraswamy_beta(one, a, one, a), torch.zeros(3), atol=1e-4, rtol=0)


def test_expectation_over_the_concentration_is_exact():
    a, b, shape, rate = (torch.tensor(x, dtype=torch.float64) for x in (1.3, 2.1, 3.0, 0.7))
    gamma = stats.gamma(float(shape), scale=1 / float(rate))
    expected = integrate.quad(
        lambda x: gamma.pdf(x) * float(kl_kumaraswamy_beta(a, b, torch.ones_like(a), torch.tensor(x).to(a))), 0, 60
    )[0]
    assert float(kl_kumaraswamy_beta_gamma(a, b, shape, rate)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("shape", "rate"), [(0.5, 0.3), (2.0, 1.0), (20.0, 4.0)])
def test_gamma_to_gamma(shape: float, rate: float):
    q, p = stats.gamma(shape, scale=1 / rate), stats.gamma(1.0, scale=1 / 0.2)
    expected = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), 0, q.ppf(1 - 1e-12), limit=400)[0]
    found = kl_gamma_gamma(*(torch.tensor(x) for x in (shape, rate, 1.0, 0.2)))
    assert float(found) == pytest.approx(expected, abs=1e-3)


def mixture(components: int, latent: int = 2, batch: int = 5) -> MixturePrior:
    torch.manual_seed(3)
    prior = DPGMMPrior(condition_dim=4, latent_dim=latent, max_components=components, hidden_dim=16).eval()
    with torch.no_grad():
        prior.means.weight.normal_(std=1.0)
        return prior(torch.randn(batch, 4))


def test_mixture_kl_is_the_gaussian_one_at_one_component():
    """Exactly, at every draw: nothing is left to estimate."""
    one = mixture(1)
    mean, log_var = torch.randn(5, 2), torch.randn(5, 2)
    p = torch.distributions.Normal(one.means[:, 0], torch.exp(0.5 * one.log_vars[:, 0]))
    q = torch.distributions.Normal(mean, torch.exp(0.5 * log_var))
    expected = torch.distributions.kl_divergence(q, p).sum(-1)
    for _ in range(3):
        torch.testing.assert_close(compute_kl_divergence_mc(mean, log_var, q.sample(), one), expected)


def test_mixture_kl_is_unbiased():
    """Its mean over many draws is the integral, on one latent dimension and four components."""
    many = mixture(4, latent=1, batch=1)
    mean, log_var = torch.tensor([[0.4]]), torch.tensor([[-0.5]])
    q = torch.distributions.Normal(mean, torch.exp(0.5 * log_var))
    grid = torch.linspace(-12, 12, 20001)[:, None]
    density = q.log_prob(grid).squeeze(-1)
    log_p = many[[0] * len(grid)].log_prob(grid)
    expected = float((density.exp() * (density - log_p)).sum() * (grid[1] - grid[0]))
    draws = 20000
    z = q.sample((draws,)).squeeze(1)
    estimates = compute_kl_divergence_mc(mean.expand(draws, 1), log_var.expand(draws, 1), z, many[[0] * draws])
    assert float(estimates.mean()) == pytest.approx(expected, abs=4 * float(estimates.std()) / draws**0.5 + 1e-4)


def test_gradients_of_the_stick_divergence():
    a, b, alpha, beta = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.7, 2.3, 1.1, 3.0))
    assert torch.autograd.gradcheck(kl_kumaraswamy_beta, (a, b, alpha, beta), atol=1e-4, rtol=1e-3)
