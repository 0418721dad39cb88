"""How beliefs go from frame to frame: watching, foreseeing and rereading agree, and motion leads as it was watched."""

from __future__ import annotations

import pytest
import torch

from aime.transition import shifted, started
from aime.world_model import WorldModel
from tests.helpers import random_clip, small_model


def test_nothing_is_shifted_over_the_start_of_an_episode():
    starts = torch.tensor([[False, False, True, False], [True, False, False, False]])
    values = torch.arange(1.0, 17.0).reshape(2, 4, 2)
    before = torch.full((2, 2), 99.0)
    moved = shifted(values, before, starts)
    assert moved[..., 0].tolist() == [[99, 1, 0, 5], [0, 9, 11, 13]]
    assert shifted(values, None, starts)[0, 0].tolist() == [0, 0]
    assert started(starts).tolist() == [[True, False, True, False], [True, False, False, False]]


@pytest.mark.parametrize("hears", [True, False])
def test_remembered_latents_lead_to_what_was_watched_and_to_what_is_foreseen(hears: bool):
    model = small_model(perceiver_context=hears).eval()
    frames, actions = random_clip(batch=2, time=8)
    starts = torch.zeros(2, 8, dtype=torch.bool)
    starts[1, 2] = True
    with torch.no_grad():
        watched = model.watch(frames.float() / 255, actions, starts)
        remembered = (watched.latent_mean, watched.perceived_context, actions, starts)
        before, hidden = model.transition.conditions(*remembered, start=4, steps=3)
        only, _ = model.transition.conditions(*remembered, start=7, steps=0)
        belief = model.observe(frames[:, :5], actions[:, :5], starts[:, :5])
        ahead = model.transition.foresee(belief, actions[:, 5:])
        again = model.transition.reread(
            belief, watched.latent_mean[:, 5:], watched.perceived_context[:, 5:] * hears, actions[:, 5:]
        )
    torch.testing.assert_close(before[:, :5], watched.hidden_before[:, :5])
    torch.testing.assert_close(hidden, watched.hidden[:, :5])
    torch.testing.assert_close(before[:, 5:], ahead.before)
    torch.testing.assert_close(only, watched.hidden_before)
    torch.testing.assert_close(again, watched.hidden[:, 5:])
    assert not torch.allclose(before[:, 6:], watched.hidden_before[:, 6:])  # closed eyes saw nothing of frame 5


def moving_model() -> WorldModel:
    """A model whose poses change fast, and whose prior heeds where they lead."""
    model = small_model(pose_dim=4).eval()
    assert model.kinematics is not None
    torch.nn.init.normal_(model.kinematics.force[-1].weight)
    torch.nn.init.normal_(model.prior.trust.weight)
    return model


def test_what_is_foreseen_of_the_next_frame_is_what_watching_expects_of_it():
    model = moving_model()
    frames, actions = random_clip(batch=2, time=7)
    with torch.no_grad():
        expected = model.forward_sequence(frames, actions).prior
    belief = model.observe(frames[:, :6], actions[:, :6])
    for dream in (
        model.foresee(belief, actions[:, 6:]),
        model.dream(belief, actions[:, 6:], lambda prior: prior.mean()),
    ):
        torch.testing.assert_close(dream.prior.means[:, 0], expected.means[:, 6])
        torch.testing.assert_close(dream.prior.log_vars[:, 0], expected.log_vars[:, 6])


def test_motion_moves_what_is_expected_but_not_over_the_start_of_an_episode():
    model, still = moving_model(), moving_model()
    still.load_state_dict(model.state_dict())
    torch.nn.init.zeros_(still.kinematics.force[-1].weight)
    frames, actions = random_clip(batch=2, time=6)
    starts = torch.zeros(2, 6, dtype=torch.bool)
    starts[:, 3] = True

    def expected(model: WorldModel) -> torch.Tensor:
        with torch.no_grad():
            return model.forward_sequence(frames, actions, starts).prior.means

    same = [
        bool(torch.allclose(a, b)) for a, b in zip(expected(model).unbind(1), expected(still).unbind(1), strict=True)
    ]
    assert same == [True, False, False, True, False, False]


def test_motion_learns_from_what_comes_true_and_the_prior_does_not_bend_it():
    model = small_model(pose_dim=4).train()
    losses, output = model.compute_total_loss(*random_clip(batch=2, time=8))
    parts = list(model.kinematics.parameters())
    assert all(torch.autograd.grad(losses["total_vae_loss"], p, retain_graph=True)[0].abs().sum() > 0 for p in parts)
    surprise = output.prior.log_prob(output.latents).sum()
    assert all(g is None for g in torch.autograd.grad(surprise, parts, allow_unused=True))


def test_motion_streams_as_it_is_watched():
    model = moving_model()
    frames, actions = random_clip(batch=2, time=9)
    starts = torch.zeros(2, 9, dtype=torch.bool)
    starts[1, 4] = True
    whole = model.observe(frames, actions, starts)
    belief = model.observe(frames[:, :1], actions[:, :1], starts[:, :1])
    for t in range(1, 9):
        belief = belief.step(frames[:, t], actions[:, t], starts[:, t])
    torch.testing.assert_close(belief.motion.pose, whole.motion.pose)
    torch.testing.assert_close(belief.motion.velocity, whole.motion.velocity)
    guesses = [model.transition.led_on(b, actions)[0] for b in (whole, whole.repeat(2)[::2], belief)]
    for guess in guesses[1:]:
        torch.testing.assert_close(guess, guesses[0])


def test_without_kinematics_the_recurrent_state_alone_expects():
    model = small_model(pose_dim=0).eval()
    frames, actions = random_clip()
    belief = model.observe(frames, actions)
    assert model.kinematics is None and model.prior.trust is None and belief.motion is None
    assert "kinematics_loss" not in model.train().compute_total_loss(frames, actions)[0]
