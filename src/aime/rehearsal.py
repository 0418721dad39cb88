"""What is learned again from memory, between two looks at whole clips.

Most of a step goes into watching: every frame of every clip. Dynamics and prior can learn many times from the latents
of a clip that was watched once, and encoder and decoder from its single frames, at a tenth of the price each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aime.attention import gaussian_nll_of, weighted_error
from aime.belief import compute_kl_divergence_mc
from aime.config import LossConfig
from aime.inputs import to_unit_frames
from aime.lesson import placed, rollout_length
from aime.losses import context_nll, frame_nll, guess_loss, guessed_frames
from aime.observation import veil

if TYPE_CHECKING:
    from aime.world_model import WorldModel

WHOLE = (1,)
"""Rollouts of dynamics as long as they may be …"""
WHOLE_HALF_QUARTER = (1, 2, 4)
"""… or of several lengths, each as often as the next. What comes soon after closing one's eyes is where a dream begins,
and in long rollouts it is a few steps of many; short ones cost less, too."""

JUDGED_EVERY = 4
"""So many frames apart are the expectations that are judged: a mixture costs more than the step to it, and neighbours
tell much the same."""


@dataclass(frozen=True)
class Recollection:
    """Clips as they were watched, without their frames; no gradient reaches back to what watched them."""

    mean: Float[Tensor, "clips time latent"]
    log_var: Float[Tensor, "clips time latent"]
    context: Float[Tensor, "clips time context"]
    actions: Float[Tensor, "clips time action"]
    is_first: Bool[Tensor, "clips time"]

    def clip(self, start: int, stop: int) -> Recollection:
        """A stretch of each."""
        return Recollection(*(getattr(self, f.name)[:, start:stop] for f in fields(self)))

    @classmethod
    def together(cls, several: Sequence[Recollection]) -> Recollection:
        """The clips of several, of one length, as one."""
        return cls(*(torch.cat([getattr(one, f.name) for one in several]) for f in fields(cls)))


@dataclass(frozen=True)
class Glimpses:
    """Single frames that were watched."""

    frames: Tensor
    """(n, 3, H, W), uint8, or float in [0, 1]."""


def rehearse_dynamics(
    model: WorldModel, seen: Recollection, settings: LossConfig, parts: Sequence[int] = WHOLE
) -> Tensor:
    """What dynamics and prior can learn without looking: to expect what was seen, with open eyes and with closed ones.

    These are the terms of `losses.elbo` and `losses.dreamed` that move prior and dynamics, on remembered latents, and
    the one that keeps the head which foretells the context up with them.

    Args:
        parts: of the longest rollout, one of which is drawn: 2 is half of it.
    """
    time = seen.mean.shape[1]
    longest = rollout_length(time, settings)
    start = int(torch.randint(time - longest, ())) if longest else time - 1
    steps = min(longest, max(1, longest // parts[int(torch.randint(len(parts), ()))]))
    conditions = model.transition.conditions(seen.mean, seen.context, seen.actions, seen.is_first, start, steps)
    count = start + 1 + steps
    judged = torch.arange(int(torch.randint(min(JUDGED_EVERY, count), ())), count, JUDGED_EVERY)
    at = placed(judged, seen.mean)
    mean, log_var = seen.mean[:, at], seen.log_var[:, at]
    latents = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
    prior = model.prior(conditions[:, at])
    unexpected = compute_kl_divergence_mc(mean, log_var, latents, prior)
    unexpected = unexpected + settings.lambda_guess * guess_loss(model, mean, prior)
    seen_before = int((judged <= start).sum())
    watched, dreamed = unexpected[:, :seen_before], unexpected[:, seen_before:]
    loss = unexpected.new_zeros(())
    for part, weight in ((watched, 1.0), (dreamed, settings.lambda_rollout)):
        if part.numel():
            loss = loss + weight * part.mean()
    loss = settings.beta * settings.kl_dynamics * loss
    if model.config.perceiver_context:
        loss = loss + settings.lambda_context * context_nll(model, conditions[:, at], latents, seen.context[:, at])
    return loss


def rehearse_perception(model: WorldModel, seen: Glimpses, settings: LossConfig) -> Tensor:
    """What encoder, posterior and decoder can learn from frames by themselves: −log p(o | z), in nats per frame.

    Attention is even: the latent must carry the whole frame. The KL, which asks what the latents of a clip have to do
    with each other, is left to the steps that watch clips.
    """
    frames = to_unit_frames(seen.frames)
    mean, log_var = model.glance(frames)
    latents = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
    decoded = model.decoder(latents, None)
    even = torch.ones_like(frames[:, 0])
    error = weighted_error(frames, decoded, even)
    return gaussian_nll_of(error, model.noise.taught("frame", settings.sigma_floor)[0], even, frames.shape[1]).mean()


def rehearse_decoder(
    model: WorldModel, seen: Recollection, look: Callable[[Tensor], Tensor], settings: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the decoder can learn by itself: −log p(o | z), in nats per frame, of frames from what was seen of them and
    from what dynamics guesses; and its parts, detached.

    The better dynamics guesses, the more of a guess the decoder may believe.

    Args:
        look: the frames of the clips at some places (n,), as (clips, n, 3, H, W).
    """
    time = seen.mean.shape[1]
    steps = rollout_length(time, settings)
    start = int(torch.randint(time - steps, ()))
    ahead = steps if steps and settings.lambda_dream else 0
    choice = start + 1 + torch.randperm(steps) if ahead else torch.randperm(time)
    chosen = choice[: settings.rollout_frames].sort().values
    frames, at = to_unit_frames(look(chosen).to(seen.mean.device)), placed(chosen, seen.mean)
    mean, log_var = seen.mean[:, at], seen.log_var[:, at]
    watched = seen.mean, seen.context, seen.actions, seen.is_first
    with torch.no_grad():
        latents = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        before = model.transition.conditions(*watched, time - 1, 0)
        shown = veil(model.expect_attention(before[:, at], latents))
    nll = frame_nll(model, "frame", frames, model.decode(latents, shown.maps), shown, settings).mean()
    loss, parts = settings.lambda_recon * nll, {"recon_nll": nll.detach()}
    if ahead:
        with torch.no_grad():
            before = model.transition.conditions(*watched, start, steps)
            expected = model.prior(before[:, at])
        guessed = guessed_frames(model, frames, expected, before[:, at], settings)
        loss = loss + settings.lambda_rollout * settings.beta * settings.lambda_dream * guessed.nll
        parts |= {"rollout_nll": guessed.nll.detach(), "dream_psnr": guessed.psnr}
    return loss, parts
