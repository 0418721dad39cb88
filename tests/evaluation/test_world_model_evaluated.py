"""The protocol on a real world model (small and untrained): everything is measured, and the bound is a bound."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from aime.data.store import EpisodeStore
from aime.evaluation import evaluate, read_health
from aime.evaluation.clips import load_clips
from aime.evaluation.health import RULES
from aime.evaluation.models import nll_bound
from aime.world_model import WorldModel
from tests.evaluation.conftest import SMALL
from tests.helpers import small_config


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(dataclasses.replace(small_config(), action_dim=2)).eval()


def test_everything_is_measured_and_measured_again(model: WorldModel, toy_store: EpisodeStore) -> None:
    first = evaluate(model, toy_store, SMALL)
    assert set(first.not_measured) <= {"lpips"}
    assert first.likelihood is not None and first.readout is not None and first.calibration is not None
    assert first.scores["ceiling"].keys() == first.scores["dream"].keys()
    # The toy data has one policy, so that what components tell of it is not asked.
    unasked = {"policy_information", "lowest_cosine"}
    assert {check.name for check in first.health} == {rule.name for rule in RULES if rule.reading not in unasked}
    torch.manual_seed(123)
    assert evaluate(model, toy_store, SMALL).to_json() == first.to_json()


def test_the_bound_is_likelihood_and_kl_of_one_draw(model: WorldModel, toy_store: EpisodeStore) -> None:
    clips = load_clips(toy_store, "test", 6, 2, seed=0)
    torch.manual_seed(5)
    with torch.no_grad():
        bound = nll_bound(model, clips.observations, clips.actions, clips.is_first)
        torch.manual_seed(5)
        output = model.forward_sequence(clips.observations, clips.actions, clips.is_first, sample=True)
    assert bound is not None
    even = torch.full_like(output.attention_prior, 1 / model.config.attention_grid**2)
    with torch.no_grad():
        mean = model.decode(output.latents, even)
    frames = clips.observations.float() / 255
    sigma = model.noise.log_sigma("frame")[0].exp()
    likelihood = torch.distributions.Normal(mean, sigma).log_prob(frames).sum(dim=(2, 3, 4))
    posterior = torch.distributions.Normal(output.latent_mean, (0.5 * output.latent_log_var).exp())
    kl = posterior.log_prob(output.latents).sum(-1) - output.prior.log_prob(output.latents)
    expected = -likelihood + kl + output.prior.kl_sticks() + output.prior.kl_alpha()
    torch.testing.assert_close(bound, expected, rtol=1e-4, atol=1e-2)


def test_the_bound_of_a_frame_does_not_know_the_frames_after_it(model: WorldModel, toy_store: EpisodeStore) -> None:
    clips = load_clips(toy_store, "test", 6, 2, seed=0)
    changed = clips.observations.clone()
    changed[:, 3:] = 255 - changed[:, 3:]
    bounds = []
    for observations in (clips.observations, changed):
        torch.manual_seed(5)
        with torch.no_grad():
            bound = nll_bound(model, observations, clips.actions, clips.is_first)
        assert bound is not None
        bounds.append(bound)
    torch.testing.assert_close(bounds[0][:, :3], bounds[1][:, :3])
    assert not torch.isclose(bounds[0][:, 3:], bounds[1][:, 3:]).any()


def test_health_is_read_with_and_without_segmentation(model: WorldModel, toy_store: EpisodeStore) -> None:
    clips = load_clips(toy_store, "test", 12, 6, seed=0)
    segmentation = (clips.observations.amin(dim=2) > 230).to(torch.uint8)
    seen = read_health(model, clips.observations, clips.actions, clips.is_first, segmentation)
    guessed = read_health(model, clips.observations, clips.actions, clips.is_first)
    assert seen["attention_density"] > 0 and guessed["attention_density"] > 0
    assert seen["attention_density"] != guessed["attention_density"]
    assert all(isinstance(value, float) for value in seen.values())
