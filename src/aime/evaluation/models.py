"""What an evaluation asks of a model: two verbs, and three things it may also know.

Any module with `observe` and `imagine` is evaluated by the same code. `forward_sequence` adds the ceiling and the
read-out of the physical state, `nll_bound` the likelihood; without them these are reported as not measured.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from aime.attention import gaussian_nll
from aime.inputs import check_clip, to_unit_frames
from aime.world_model import WorldModel


@runtime_checkable
class Dreamer(Protocol):
    """The two verbs.

    `observe(observations, actions, is_first)` watches frames o[0..t] and the actions taken after each, and returns a
    belief; `imagine(belief, actions)` dreams o[t+1..t+K] and returns something with `observations` (B, K, 3, H, W) in
    [0, 1] and, if its states are to be read, `hidden` and `latents` (B, K, …). actions[:, k] is taken after dreamed
    frame k, so that the last one changes no frame. With `sample=False` the dream is the model's best guess, else a
    draw.
    """

    def observe(self, observations: Tensor, actions: Tensor, is_first: Tensor | None = None) -> Any: ...

    def imagine(
        self, belief: Any, actions: Tensor, *, sample: bool = True, generator: torch.Generator | None = None
    ) -> Any: ...


def device_of(model: object) -> torch.device:
    """Where a model lives: the device of its parameters, the CPU if it has none."""
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")


def belief_features(states: Any) -> Float[Tensor, "batch time features"] | None:
    """Hidden and latents side by side, of a dream or of a watched clip; None where the model does not show them."""
    hidden, latents = getattr(states, "hidden", None), getattr(states, "latents", None)
    if not isinstance(hidden, Tensor) or not isinstance(latents, Tensor):
        return None
    return torch.cat([hidden.float(), latents.float()], dim=-1)


def as_if_seen(model: Any, belief: Any, dream: Any, actions: Float[Tensor, "batch k action"]) -> Any:
    """A dream with the hidden states that its own latents would have left behind, had they been seen.

    AIME's best guess goes on with closed eyes, and h is another there: what was fitted on open eyes is not in it.
    Other models' dreams are as they are.
    """
    if not isinstance(model, WorldModel):
        return dream
    return replace(dream, hidden=model.transition.reread(belief, dream.latents, dream.context, actions))


def nll_bound(
    model: Any, observations: Tensor, actions: Tensor, is_first: Tensor | None
) -> Float[Tensor, "batch time"] | None:
    """An upper bound on −log p(o[t] | o[<t], a[<t]) of each frame in nats, or None for a model that has none.

    A model may bring its own as a method `nll_bound(observations, actions, is_first)`.
    """
    own = getattr(model, "nll_bound", None)
    if own is not None:
        bound: Tensor = own(observations, actions, is_first)
        return bound
    if isinstance(model, WorldModel):
        return _world_model_bound(model, observations, actions, is_first)
    return None


def _world_model_bound(
    model: WorldModel, observations: Tensor, actions: Tensor, is_first: Tensor | None
) -> Float[Tensor, "batch time"]:
    """Minus the evidence lower bound: −log p(o | z) + log q(z) − log p(z) at one draw of z, + KL of sticks and α.

    The likelihood is that under an even map. Attention's precision says which errors matter to learning, and it lies
    where the errors are: as a density of them it is upside down. The prior is conditioned on the past alone, and the
    sticks are at their means, as everywhere outside training.
    """
    check_clip(model.config, observations, actions, is_first)
    frames = to_unit_frames(observations)
    watched = model.watch(frames, actions, is_first, sample=True)
    mean, log_sigma = model.decode(watched.latents, None), model.noise.log_sigma("frame")[0]
    even = torch.ones_like(frames[:, :, 0]).flatten(0, 1)
    nll = gaussian_nll(frames.flatten(0, 1), mean.flatten(0, 1), log_sigma, even).unflatten(0, frames.shape[:2])
    posterior = torch.distributions.Normal(watched.latent_mean, torch.exp(0.5 * watched.latent_log_var))
    kl = posterior.log_prob(watched.latents).sum(dim=-1) + watched.prior.surprise(watched.latents)
    return nll + kl + watched.prior.kl_sticks() + watched.prior.kl_alpha()
