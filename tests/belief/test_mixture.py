"""Properties of the mixture: weights, draws, gradients, reports; and that it uses as many components as modes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aime.belief import DPGMMPrior, MixturePrior, compute_kl_divergence_mc
from aime.belief.stick_breaking import log_stick_weights
from aime.errors import ShapeError


def make(components: int = 6, latent: int = 3) -> DPGMMPrior:
    torch.manual_seed(0)
    return DPGMMPrior(condition_dim=4, latent_dim=latent, max_components=components, hidden_dim=16)


def test_sticks_sum_to_one_at_every_length():
    for sticks in (0, 1, 5, 30):
        v = torch.rand(7, sticks)
        weights = log_stick_weights(v).exp()
        assert weights.shape == (7, sticks + 1)
        torch.testing.assert_close(weights.sum(-1), torch.ones(7))
    torch.testing.assert_close(log_stick_weights(torch.tensor([0.5, 0.5])).exp(), torch.tensor([0.5, 0.25, 0.25]))


@pytest.mark.parametrize("training", [True, False])
def test_weights_and_responsibilities_sum_to_one(training: bool):
    mixture = make().train(training)(torch.randn(2, 5, 4) * 3)
    torch.testing.assert_close(mixture.weights.sum(-1), torch.ones(2, 5))
    torch.testing.assert_close(mixture.responsibilities(torch.randn(2, 5, 3)).sum(-1), torch.ones(2, 5))
    assert float(mixture.effective_components().detach().max()) <= 6 + 1e-4
    assert float(mixture.effective_components().detach().min()) >= 1 - 1e-4


def test_one_batch_element_never_changes_another():
    prior, condition = make().eval(), torch.randn(4, 4)
    changed = condition.clone()
    changed[2] += 1
    before, after = prior(condition), prior(changed)
    for name in ("log_weights", "means", "log_vars", "stick_a", "alpha_rate"):
        assert torch.equal(getattr(before, name)[[0, 1, 3]], getattr(after, name)[[0, 1, 3]]), name


def test_eval_is_deterministic_and_training_draws_its_sticks():
    prior, condition = make(), torch.randn(3, 4)
    assert torch.equal(prior.eval()(condition).log_weights, prior.eval()(condition).log_weights)
    assert not torch.equal(prior.train()(condition).log_weights, prior.train()(condition).log_weights)


def test_log_prob_is_the_mixture_density():
    mixture, z = make().eval()(torch.randn(5, 4)), torch.randn(5, 3)
    normal = torch.distributions.Normal(mixture.means, torch.exp(0.5 * mixture.log_vars))
    expected = torch.logsumexp(mixture.log_weights + normal.log_prob(z[:, None]).sum(-1), dim=-1)
    torch.testing.assert_close(mixture.log_prob(z), expected)
    torch.testing.assert_close(mixture.surprise(z), -expected)


def test_draws_have_the_mixtures_mean_and_deviation_and_repeat_with_their_generator():
    mixture = make().eval()(torch.randn(1, 4))[[0] * 40000].detach()
    torch.manual_seed(5)
    torch.testing.assert_close(mixture.sample().mean(0), mixture.mean()[0], atol=0.05, rtol=0)
    torch.testing.assert_close(mixture.sample().std(0), mixture.deviation()[0], atol=0.05, rtol=0)
    again = [mixture.sample(torch.Generator().manual_seed(9)) for _ in range(2)]
    assert torch.equal(*again)


def test_rsample_reaches_weights_means_and_scales():
    """Towards the side of larger z the gradient of E[z] moves the means by the weights, as it must."""
    prior = make(components=2, latent=1).eval()
    mixture = prior(torch.randn(1, 4))[[0] * 20000]
    torch.manual_seed(1)
    weights, means = torch.autograd.grad(mixture.rsample().sum(), (mixture.log_weights, mixture.means))
    torch.testing.assert_close(means.sum((0, 2)) / 20000, mixture.weights[0].detach(), atol=0.02, rtol=0)
    assert float(weights.abs().sum()) > 0
    scales = torch.autograd.grad(mixture.rsample().square().sum(), mixture.log_vars)[0]
    assert float(scales.sum()) > 0  # a broader component has a larger E[z²]


def test_wrong_condition_is_refused():
    with pytest.raises(ShapeError, match="size 4"):
        make()(torch.randn(2, 5))


SIGMA = 0.15


def separate_modes(count: int, latent: int, generator: torch.Generator) -> Tensor:
    """Centres at least eight standard deviations apart."""
    box = 1.5
    while True:
        centres: list[Tensor] = []
        for _ in range(2000):
            centre = (torch.rand(latent, generator=generator) * 2 - 1) * box
            if all(float((centre - other).norm()) > 8 * SIGMA for other in centres):
                centres.append(centre)
            if len(centres) == count:
                return torch.stack(centres)
        box *= 1.1


@pytest.mark.parametrize("modes", range(1, 13))
def test_as_many_components_matter_as_the_data_have_modes(modes: int):
    """Fitted by its own bound to M separate modes, with K = 15 at hand, it ends with M components, one to a mode."""
    latent, clips, batch, steps = 3, 8, 128, 500
    generator = torch.Generator().manual_seed(modes)
    torch.manual_seed(100 + modes)
    centres = separate_modes(modes, latent, generator)
    prior = DPGMMPrior(condition_dim=4, latent_dim=latent, max_components=15, hidden_dim=32)
    condition = torch.randn(4).expand(clips, 4)
    rows = torch.arange(batch) % clips
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.02, betas=(0.9, 0.99))
    narrow = torch.full((batch, latent), 2 * math.log(SIGMA / 2))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * min(1.0, (steps - step) / (0.4 * steps))
        x = centres[torch.randint(modes, (batch,))] + SIGMA * math.sqrt(0.75) * torch.randn(batch, latent)
        z = x + SIGMA / 2 * torch.randn(batch, latent)
        mixture = prior(condition)
        kl = compute_kl_divergence_mc(x, narrow, z, mixture[rows]).mean()
        loss = kl + (mixture.kl_sticks() + mixture.kl_alpha()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            prior.relocate(z, mixture[rows].detach(), decay=0.9)
    owner = torch.arange(modes).repeat_interleave(200)
    z = centres[owner] + SIGMA * torch.randn(len(owner), latent)
    with torch.no_grad():
        responsibilities = prior.eval()(condition[:1])[[0] * len(z)].responsibilities(z)
    assert int((responsibilities.mean(0) >= 1 / (4 * modes)).sum()) == modes
    by_mode = torch.stack([responsibilities[owner == m].mean(0) for m in range(modes)])
    assert len(set(by_mode.argmax(-1).tolist())) == modes
    assert float(by_mode.max(-1).values.min()) > 0.75


def test_no_component_moves_where_that_is_forbidden():
    torch.manual_seed(0)
    prior = DPGMMPrior(condition_dim=4, latent_dim=3, max_components=5, hidden_dim=16)
    mixture = prior(torch.randn(1, 4).expand(256, 4)).detach()
    far = mixture.means[:, 0] + 8.0 * torch.tensor([1.0, -1.0]).repeat(128)[:, None]
    before = {name: value.clone() for name, value in prior.named_parameters()}
    assert not prior.relocate(far, mixture, unless=torch.tensor(True))
    assert all(torch.equal(value, before[name]) for name, value in prior.named_parameters())
    assert prior.relocate(far, mixture, unless=torch.tensor(False))
    assert any(not torch.equal(value, before[name]) for name, value in prior.named_parameters())


def test_a_prior_speaks_in_the_units_of_the_latents_it_follows():
    prior = make()
    latents = torch.tensor([0.01, 5.0, 100.0]) * torch.randn(4, 500, 3) + torch.tensor([0.0, -3.0, 40.0])
    for _ in range(400):
        prior.follow(latents)
    standard = prior.standardised(latents).flatten(0, 1)
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(standard.std(0), torch.ones(3), atol=0.05, rtol=0)
    fresh = make()(torch.zeros(7, 4))  # the same network, in units of one
    mixture = prior(torch.zeros(7, 4))
    torch.testing.assert_close(mixture.means, prior.offset + prior.scale * fresh.means)
    moved = fresh.moved(prior.offset, prior.scale)
    z = prior.offset + prior.scale * torch.randn(7, 3)
    there = fresh.log_prob(prior.standardised(z)) - prior.scale.log().sum()
    torch.testing.assert_close(moved.log_prob(z), there, msg="a change of units changes no probability")


def test_latents_that_are_not_finite_leave_the_units_as_they_are():
    prior = make()
    prior.follow(torch.full((2, 3), torch.nan))
    assert torch.equal(prior.offset, torch.zeros(3)) and torch.equal(prior.scale, torch.ones(3))


def test_stacked_mixtures_are_those_that_were_stacked():
    mixtures = [make()(torch.randn(2, 4)) for _ in range(3)]
    stacked = MixturePrior.stack(mixtures, 1)
    assert stacked.batch_shape == (2, 3)
    z = torch.randn(2, 3)
    for k, mixture in enumerate(mixtures):
        torch.testing.assert_close(stacked[:, k].log_prob(z), mixture.log_prob(z))
