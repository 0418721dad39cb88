"""What comes out: typed results of watching, believing and dreaming.

Time: `o[t]` is a frame and `a[t]` the action taken after seeing it; the pair leads to `o[t+1]`.
Letters: B batch, T frames watched, K frames dreamed, G attention grid, P token grid, S slots, C mixture components.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aime.belief import MixturePrior
from aime.dynamics import RecurrentState
from aime.inputs import check_repeats
from aime.perception import PerceiverCache, PerceiverOutput

if TYPE_CHECKING:
    from aime.world_model import WorldModel


@dataclass(frozen=True)
class Belief:
    """What the model holds after a frame and the action taken on it: all it needs to predict the next frame.

    A belief is a value: `step` returns a new one and leaves this one as it was. `belief[rows]` and `belief.repeat(n)`
    select and multiply batch elements, to dream many futures from one present.
    """

    model: WorldModel
    recurrent: RecurrentState
    hidden: Float[Tensor, "batch hidden"]
    """h[t], layer-normed."""
    context: Float[Tensor, "batch context"]
    """c[t]: what the Perceiver has understood of the frames so far; in a dream what is expected in its place."""
    attention_map: Float[Tensor, "batch grid grid"]
    """A[t], summing to 1."""
    latents: Float[Tensor, "batch latent"]
    """z[t]: the posterior's mean; in a dream the draw, or the best guess."""
    perceiver: PerceiverCache | None
    """Keys and values of the last frames watched; None once the belief has dreamed, since a dream has no frames."""

    def step(
        self,
        observation: Tensor,
        action: Tensor,
        is_first: Tensor | None = None,
    ) -> Belief:
        """Watch one more frame (B, 3, H, W) and the action (B, A) taken after it, at the same cost forever.

        `is_first` (B,) is true for batch elements whose episode starts with this frame.
        """
        first = None if is_first is None else is_first[:, None]
        return self.model.observe(observation[:, None], action[:, None], first, belief=self)

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Belief:
        """The belief of some batch elements."""
        index = torch.arange(len(self), device=self.hidden.device)[rows]
        if index.ndim == 0:
            index = index[None]
        return self._map(lambda x: x.index_select(0, index), lambda x: x.index_select(1, index), index)

    def repeat(self, n: int) -> Belief:
        """Each batch element n times in a row: n futures can be dreamed from each.

        Raises:
            ShapeError: n is below zero, or no whole number.
        """
        check_repeats(n)
        index = torch.arange(len(self), device=self.hidden.device).repeat_interleave(n)
        return self[index]

    def _map(self, on_rows: Any, on_columns: Any, index: Tensor) -> Belief:
        changes = {f.name: on_rows(value) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        recurrent = RecurrentState(on_columns(self.recurrent.hidden), on_columns(self.recurrent.cell))
        perceiver = None if self.perceiver is None else self.perceiver[index]
        return replace(self, recurrent=recurrent, perceiver=perceiver, **changes)


@dataclass(frozen=True)
class Dream:
    """Frames that were never seen: o[t+1] … o[t+K] after a belief at t, each from the belief alone."""

    observations: Float[Tensor, "batch k 3 height width"]
    """Mean of p(o | z, A), in [0, 1]."""
    attention_map: Float[Tensor, "batch k grid grid"]
    dpgmm_weights: Float[Tensor, "batch k components"]
    context: Float[Tensor, "batch k context"]
    latents: Float[Tensor, "batch k latent"]
    hidden: Float[Tensor, "batch k hidden"]
    """h after each dreamed frame and its action."""
    belief: Belief
    """The belief after the last dreamed frame and action: dream on from here."""


@dataclass(frozen=True)
class Judged:
    """What the adversary was shown in a step."""

    real: Float[Tensor, "clips frames 3 height width"]
    made: Float[Tensor, "clips frames 3 height width"]
    """Reconstructions of the same frames, with dreamed ones in the place of some."""


@dataclass(frozen=True)
class SequenceOutput:
    """All that the model makes of a clip."""

    context: Float[Tensor, "batch time context"]
    latents: Float[Tensor, "batch time latent"]
    latent_mean: Float[Tensor, "batch time latent"]
    latent_log_var: Float[Tensor, "batch time latent"]
    hidden: Float[Tensor, "batch time hidden"]
    """h[t], after frame t and action t."""
    prior: MixturePrior
    """p(z[t] | h[t-1]) with batch shape (B, T): the prediction made before frame t was seen."""
    attention_map: Float[Tensor, "batch time grid grid"]
    """A[t]: what the slots see, fused with what the schema expected."""
    attention_prior: Float[Tensor, "batch time grid grid"]
    """What the schema expected."""
    attention_seen: Float[Tensor, "batch time grid grid"]
    """What the slots see."""
    slot_maps: Float[Tensor, "batch time slots grid grid"]
    tokens: Int[Tensor, "batch time p p"]
    perceived: tuple[PerceiverOutput, ...]
    """What the Perceiver made of the clips, in one or more portions of the batch."""
    belief: Belief
    """The belief after the last frame."""
    judged: Judged | None = None
    """After `compute_total_loss`, where there is an adversary."""

    @cached_property
    def next_token_logits(self) -> Float[Tensor, "batch time tokens codebook"]:
        """Logits of the tokens of frame t+1, read out after frame t. Computed when first asked for."""
        return torch.cat([portion.next_token_logits for portion in self.perceived])

    @cached_property
    def reconstruction_mean(self) -> Float[Tensor, "batch time 3 height width"]:
        """Mean of p(o[t] | z[t], A[t]), unclamped, as the likelihood uses it. Decoded when first asked for."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.latents.requires_grad):
            return self.belief.model.decode(self.latents, self.attention_prior)

    @property
    def reconstructions(self) -> Float[Tensor, "batch time 3 height width"]:
        """The reconstructed frames, in [0, 1]."""
        return self.reconstruction_mean.float().clamp(0, 1)

    @property
    def dpgmm_weights(self) -> Float[Tensor, "batch time components"]:
        """π[t]: weights of the mixture that predicts z[t]; they sum to 1."""
        return self.prior.weights

    @property
    def responsibilities(self) -> Float[Tensor, "batch time components"]:
        """Posterior probability of each component, given z[t]."""
        return self.prior.responsibilities(self.latents)

    @property
    def surprise(self) -> Float[Tensor, "batch time"]:
        """−log p(z[t] | h[t-1]) in nats: how unexpected each frame was."""
        return self.prior.surprise(self.latents)
