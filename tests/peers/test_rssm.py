"""The peer is a fair opponent: as large as AIME, as honest about the future, and it learns."""

from __future__ import annotations

import pytest
import torch

from aime.errors import AimeError
from aime.peers import RSSM
from aime.peers.rssm import GUESSES
from aime.presets import preset_config
from aime.reach import generator_parameters
from aime.world_model import WorldModel
from tests.helpers import ACTIONS, pushed_ball, random_clip, small_config


@pytest.fixture
def peer() -> RSSM:
    torch.manual_seed(0)
    return RSSM(small_config(), sizes=(4, 64)).eval()


@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_it_has_as_many_parameters_as_aime(preset: str) -> None:
    config = preset_config(preset).model.for_actions(6)
    ours = sum(p.numel() for p in generator_parameters(WorldModel(config)))
    theirs = sum(p.numel() for p in RSSM(config).parameters())
    assert abs(theirs / ours - 1) < 0.05


def test_no_peeking(peer: RSSM) -> None:
    """What predicts frame t, h[t] and with it the prior, is unchanged to the bit by frames and actions from t on."""
    frames, actions = random_clip(time=6)
    before = peer.forward_sequence(frames, actions)
    frames[:, 3:], actions[:, 3:] = 255 - frames[:, 3:], -actions[:, 3:]
    after = peer.forward_sequence(frames, actions)
    assert torch.equal(before.hidden[:, :4], after.hidden[:, :4])
    assert not torch.equal(before.hidden[:, 4], after.hidden[:, 4])
    assert not torch.equal(before.latents[:, 3], after.latents[:, 3])


def test_streaming_equals_batch(peer: RSSM) -> None:
    frames, actions = random_clip(time=6)
    whole, belief = peer.observe(frames, actions), None
    for t in range(6):
        belief = peer.observe(frames[:, t : t + 1], actions[:, t : t + 1], belief=belief)
    assert belief is not None
    torch.testing.assert_close(belief.hidden, whole.hidden)
    assert torch.equal(belief.latents, whole.latents) and torch.equal(belief.action, whole.action)


def test_an_episode_start_forgets_what_was_before(peer: RSSM) -> None:
    frames, actions = random_clip(time=6)
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[:, 3] = True
    torch.testing.assert_close(
        peer.observe(frames, actions, first).hidden, peer.observe(frames[:, 3:], actions[:, 3:]).hidden
    )


def test_a_dream_follows_the_actions_and_goes_on_for_any_time(peer: RSSM) -> None:
    frames, actions = random_clip()
    belief = peer.observe(frames, actions)
    future = torch.rand(2, 30, ACTIONS) * 2 - 1
    draws = torch.Generator().manual_seed(0)
    dream = peer.imagine(belief, future, generator=draws)
    assert dream.observations.shape == (2, 30, 3, 32, 32)
    assert dream.observations.min() >= 0 and dream.observations.max() <= 1
    # In two halves it is the same dream, and the action after its last frame changes none of it.
    draws.manual_seed(0)
    half = peer.imagine(belief, future[:, :15], generator=draws)
    rest = peer.imagine(half.belief, future[:, 15:], generator=draws)
    torch.testing.assert_close(torch.cat([half.hidden, rest.hidden], dim=1), dream.hidden)
    future[:, -1] = 0.0
    assert torch.equal(peer.imagine(belief, future, generator=draws.manual_seed(0)).hidden, dream.hidden)
    repeated = peer.imagine(belief.repeat(3), future.repeat_interleave(3, 0), generator=torch.Generator())
    assert len(repeated.belief) == 6


def test_its_best_guess_is_the_mean_of_draws(peer: RSSM) -> None:
    frames, actions = random_clip()
    belief, future = peer.observe(frames, actions), torch.rand(2, 5, ACTIONS) * 2 - 1
    guess = peer.imagine(belief, future, sample=False)
    draws = torch.Generator().manual_seed(0)
    drawn = [peer.imagine(belief, future, generator=draws) for _ in range(GUESSES)]
    mean = torch.stack([draw.observations for draw in drawn]).mean(dim=0)
    torch.testing.assert_close(guess.observations, mean)
    assert torch.equal(guess.observations, peer.imagine(belief, future, sample=False).observations)
    assert torch.equal(guess.belief.latents, drawn[-1].latents[:, -1])
    assert not torch.equal(drawn[0].latents, drawn[1].latents)


def test_the_kl_weighs_nothing_within_its_free_nat(peer: RSSM) -> None:
    """Where posterior and prior are alike, the loss is the squared error and one nat at each of its factors."""
    loss, parts = peer.compute_loss(*random_clip())
    assert parts["kl_latent"] > 1 and loss > parts["squared_error"] + 1.1
    for module in (peer.to_prior[-1], peer.to_posterior[-1]):
        torch.nn.init.zeros_(module.weight)  # type: ignore[arg-type]
        torch.nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    loss, parts = peer.compute_loss(*random_clip())
    assert parts["kl_latent"] == 0
    torch.testing.assert_close(loss.detach(), parts["squared_error"] + 1.1)
    loss.backward()
    assert not peer.to_prior[-1].weight.grad.any(), "the prior learns from the KL alone"  # type: ignore[union-attr]


def test_it_learns_a_ball() -> None:
    torch.manual_seed(0)
    peer = RSSM(small_config(), sizes=(6, 96)).train()
    optimizer = torch.optim.Adam(peer.parameters(), lr=2e-3)
    frames, actions = pushed_ball(64, 8, seed=1)
    for step in range(60):
        rows = torch.arange(8) + 8 * (step % 8)
        loss, parts = peer.compute_loss(frames[rows], actions[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean_image = -10 * (frames.float() / 255).var(dim=(0, 1), unbiased=False).mean().log10()
    assert parts["psnr"] > mean_image - 2.5, "from 7 dB to near the mean image within 60 steps"
    bound = peer.eval().nll_bound(frames[:4], actions[:4])
    assert bound.shape == (4, 8) and torch.isfinite(bound).all()


def test_bad_input_gets_a_sentence(peer: RSSM) -> None:
    frames, actions = random_clip()
    belief = peer.observe(frames, actions)
    with pytest.raises(AimeError, match="holds 2 batch elements, but the actions are for 3"):
        peer.imagine(belief, torch.zeros(3, 4, ACTIONS))
    with pytest.raises(AimeError, match="at least one action"):
        peer.imagine(belief, torch.zeros(2, 0, ACTIONS))
    with pytest.raises(AimeError, match="holds 2 batch elements, but the observations are for 3"):
        peer.observe(*random_clip(batch=3), belief=belief)
    with pytest.raises(AimeError):
        peer.observe(frames, actions[..., :2])
