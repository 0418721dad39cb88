"""Components that coincide count as one: divergences by their definition, and who gets whose weight."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence

from aime.belief.coalescence import KEPT, coalesce, divergences, handover


def components(*means: float, sigma: float = 1.0, latent: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    m = torch.tensor(means)[:, None].expand(-1, latent).clone()
    return m, torch.full_like(m, sigma).log() * 2


def test_divergences_are_the_mean_of_both_kls() -> None:
    torch.manual_seed(0)
    means, log_vars = 2 * torch.randn(4, 5, 6), torch.randn(4, 5, 6)
    one, other = (Normal(means.unsqueeze(d).double(), (0.5 * log_vars).exp().unsqueeze(d).double()) for d in (-2, -3))
    both = (kl_divergence(one, other) + kl_divergence(other, one)).sum(-1) / 2
    torch.testing.assert_close(divergences(means, log_vars).double(), both, atol=1e-3, rtol=1e-5)


def test_divergences_of_narrow_components_far_from_zero_do_not_cancel() -> None:
    means, log_vars = components(30.0, 30.0, 30.03, 29.0, sigma=0.03)
    found = divergences(means, log_vars)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, 1.5, 1666.7]), atol=0.05, rtol=1e-3)
    torch.testing.assert_close(found, found.mT)


def test_gradients_of_divergences_do_not_depend_on_where_zero_is() -> None:
    torch.manual_seed(0)
    means, log_vars, weights = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.randn(4, 4)

    def gradient(at: torch.Tensor) -> torch.Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad((divergences(at, log_vars) * weights).sum(), at)[0]

    torch.testing.assert_close(gradient(means), gradient(means + 3.0))
    assert gradient(means).norm() > 0.1


def test_of_duplicates_the_first_gets_all_and_what_is_apart_keeps_its_own() -> None:
    shares = handover(*components(0.0, 20.0, 0.0, 0.0))
    torch.testing.assert_close(shares.sum(-1), torch.ones(4))
    expected = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    torch.testing.assert_close(shares, expected, atol=2 * KEPT, rtol=0)
    log_weights = coalesce(torch.tensor([0.1, 0.4, 0.2, 0.3]).log(), shares)
    torch.testing.assert_close(log_weights.exp(), torch.tensor([0.6, 0.4, 0, 0]), atol=2 * KEPT, rtol=0)
    assert log_weights.isfinite().all()
