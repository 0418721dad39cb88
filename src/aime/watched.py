"""What watching and dreaming leave behind before anything is decoded: between `aime.world_model` and `aime.losses`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from aime.belief import MixturePrior
from aime.outputs import Belief
from aime.sight import Sights


@dataclass(frozen=True)
class Watched:
    """What watching a clip left behind, before anything is decoded."""

    sights: Sights
    latent_mean: Float[Tensor, "batch time latent"]
    latent_log_var: Float[Tensor, "batch time latent"]
    latents: Float[Tensor, "batch time latent"]
    hidden: Float[Tensor, "batch time hidden"]
    hidden_before: Float[Tensor, "batch time hidden"]
    """h[t-1], zero where an episode starts."""
    expect: Callable[[], MixturePrior]
    expected: Float[Tensor, "batch time grid grid"]
    attention: Float[Tensor, "batch time grid grid"]
    belief: Belief
    paused: tuple[Belief, ...]
    """Beliefs at the frames after which training dreams; no gradient is cut."""

    @cached_property
    def prior(self) -> MixturePrior:
        """What h[t-1] expected of each frame; made when first asked for, since a stream that is only watched never
        does."""
        return self.expect()


@dataclass(frozen=True)
class Imagined:
    """Latent steps of a dream, before anything is decoded."""

    prior: MixturePrior
    """What was expected of each step, with batch shape (B, K)."""
    latents: Float[Tensor, "batch k latent"]
    context: Float[Tensor, "batch k context"]
    before: Float[Tensor, "batch k hidden"]
    """h before each step, from which it was expected …"""
    hidden: Float[Tensor, "batch k hidden"]
    """… and after it and its action."""
    doubt: Float[Tensor, "batch k latent"] | None
    """How unsure the latents are that were guessed; None for draws, of which each is one thing that may be."""
    belief: Belief
