"""How beliefs go from frame to frame: watching, foreseeing and rereading agree."""

from __future__ import annotations

import pytest
import torch

from aime.transition import shifted, started
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
        remembered = (watched.latent_mean, watched.sights.context, actions, starts)
        before = model.transition.conditions(*remembered, start=4, steps=3)
        only = model.transition.conditions(*remembered, start=7, steps=0)
        belief = model.observe(frames[:, :5], actions[:, :5], starts[:, :5])
        ahead = model.transition.foresee(belief, actions[:, 5:])
        again = model.transition.reread(
            belief, watched.latent_mean[:, 5:], watched.sights.context[:, 5:] * hears, actions[:, 5:]
        )
    torch.testing.assert_close(before[:, :5], watched.hidden_before[:, :5])
    torch.testing.assert_close(before[:, 5:], ahead.before)
    torch.testing.assert_close(only, watched.hidden_before)
    torch.testing.assert_close(again, watched.hidden[:, 5:])
    assert not torch.allclose(before[:, 6:], watched.hidden_before[:, 6:])  # closed eyes saw nothing of frame 5


def test_what_is_foreseen_of_the_next_frame_is_what_watching_expects_of_it():
    model = small_model().eval()
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
