"""How a belief goes from frame to frame, with open eyes and with closed ones.

Prior and core meet here, in latent space: no frame is looked at, and none is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from aime.belief import DPGMMPrior, MixturePrior
from aime.dynamics import RecurrentCore, RecurrentState, changes_of
from aime.outputs import Belief


@dataclass(frozen=True)
class Foreseen:
    """The best guess at each of the next k frames, before anything is decoded."""

    before: Float[Tensor, "batch k hidden"]
    """h before each frame, from which it is expected …"""
    hidden: Float[Tensor, "batch k hidden"]
    """… and after it and its action."""
    prior: MixturePrior
    """What is expected, with batch shape (B, k)."""
    state: RecurrentState
    """The core's, at the end."""


@dataclass(frozen=True)
class Transition:
    """A model's way from one frame to the next.

    Latents that come in are in the posterior's units.
    """

    prior: DPGMMPrior
    core: RecurrentCore
    hears: bool
    """Whether the context is heard; else it is zeros to dynamics."""

    def heeded(self, context: Tensor) -> Tensor:
        """The context as dynamics is given it."""
        return context if self.hears else torch.zeros_like(context)

    # ------------------------------------------------------------------ open eyes

    def carry(
        self,
        latents: Float[Tensor, "batch time latent"],
        last: Float[Tensor, "batch latent"] | None,
        context: Float[Tensor, "batch time context"],
        actions: Float[Tensor, "batch time action"],
        state: RecurrentState,
        is_first: Bool[Tensor, "batch time"] | None,
        stops: Sequence[int],
    ) -> tuple[Float[Tensor, "batch time hidden"], list[RecurrentState]]:
        """h after each frame of a clip, and the core's state after each of those in `stops` (the last ends the clip).

        `last` is the latent of the frame before the first; None if there was none.
        """
        latents = self.prior.standardised(latents)
        changes = changes_of(latents, None if last is None else self.prior.standardised(last), is_first)
        outputs, states, start = [], [], 0
        for stop in stops:
            piece = slice(start, stop + 1)
            first = None if is_first is None else is_first[:, piece]
            inputs = (x[:, piece] for x in (latents, changes, context, actions))
            output, state = self.core(*inputs, state, first)
            outputs.append(output)
            states.append(state)
            start = stop + 1
        return torch.cat(outputs, dim=1), states

    @torch.no_grad()
    def reread(
        self,
        belief: Belief,
        latents: Float[Tensor, "batch k latent"],
        context: Float[Tensor, "batch k context"],
        actions: Float[Tensor, "batch k action"],
    ) -> Float[Tensor, "batch k hidden"]:
        """h after each of k frames that follow a belief, had these latents and contexts been seen of them."""
        stops = [latents.shape[1] - 1]
        return self.carry(latents, belief.latents, context, actions, belief.recurrent, None, stops)[0]

    # ------------------------------------------------------------------ closed eyes

    def foresee(self, belief: Belief, actions: Float[Tensor, "batch k action"]) -> Foreseen:
        """What is expected of the k frames after a belief by the actions alone, all of them at once."""
        before, hidden, state = self._onward(belief.hidden, belief.recurrent, actions)
        return Foreseen(before, hidden, self.prior(before), state)

    def conditions(
        self,
        latents: Float[Tensor, "batch time latent"],
        context: Float[Tensor, "batch time context"],
        actions: Float[Tensor, "batch time action"],
        is_first: Bool[Tensor, "batch time"],
        start: int,
        steps: int,
    ) -> Float[Tensor, "batch frames hidden"]:
        """The h from which the prior expects clips that were watched, with open eyes up to frame `start`, with closed
        ones for `steps` more: just before each of these `start` + 1 + `steps` frames."""
        seen, batch = slice(0, start + 1), len(latents)
        hidden, states = self.carry(
            latents[:, seen],
            None,
            self.heeded(context[:, seen]),
            actions[:, seen],
            self.core.initial(batch),
            is_first[:, seen],
            [start],
        )
        watching = shifted(hidden, None, started(is_first[:, seen]))
        if not steps:
            return watching
        dreaming, _, _ = self._onward(hidden[:, start], states[0], actions[:, start + 1 : start + 1 + steps])
        return torch.cat([watching, dreaming], dim=1)

    def _onward(self, hidden: Tensor, state: RecurrentState, actions: Tensor) -> tuple[Tensor, Tensor, RecurrentState]:
        """h before and after each of the next frames, and the core's state at the end."""
        after, state = self.core.onward(actions, state)
        return torch.cat([hidden[:, None].to(after.dtype), after[:, :-1]], dim=1), after, state


def started(is_first: Bool[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """Where episodes start in clips that go on from nothing: at their first frame, too."""
    return torch.cat([torch.ones_like(is_first[:, :1]), is_first[:, 1:]], dim=1)


def shifted(
    values: Float[Tensor, "batch time ..."],
    before: Float[Tensor, "batch ..."] | None,
    is_first: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time ..."]:
    """values[:, t-1] at t; `before` (or zero) at the first frame, and zero wherever an episode starts."""
    start = torch.zeros_like(values[:, :1]) if before is None else before[:, None].to(values.dtype)
    moved = torch.cat([start, values[:, :-1]], dim=1)
    return moved * (~is_first).to(moved.dtype).reshape(*is_first.shape, *([1] * (values.ndim - 2)))
