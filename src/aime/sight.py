"""What frames show by themselves and in their order, before anything is believed.

Encoder, tokenizer, Perceiver and slots meet here, as prior and core do in `aime.transition`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from aime.attention import SlotAttention, Slots
from aime.lesson import Lesson, placed
from aime.perception import (
    CausalPerceiver,
    FrameEncoder,
    FrameFeatures,
    PerceiverCache,
    PerceiverOutput,
    TokenizerOutput,
    VQTokenizer,
)


@dataclass(frozen=True)
class Look:
    """Codes, context and slots of clips that learn from them all, or of clips that do not."""

    rows: slice
    """Which clips of the batch."""
    indices: Int64[Tensor, "clips time p p"]
    """The codes' indices."""
    tokens: TokenizerOutput | None
    """None where the tokenizer was not to learn."""
    perceived: PerceiverOutput
    slots: Slots

    @property
    def learns(self) -> bool:
        """Whether these clips are studied."""
        return self.tokens is not None


@dataclass(frozen=True)
class Sights:
    """What was seen of a batch of clips."""

    features: FrameFeatures
    """Of all frames, in order."""
    looks: tuple[Look, ...]
    """At the clips that are studied, and at the others if there are any."""

    @property
    def studied(self) -> Look:
        """At the clips from which perception and attention learn: it has a graph of its own, so that differentiating it
        costs no more than them."""
        return self.looks[0]

    @cached_property
    def context(self) -> Float[Tensor, "batch time context"]:
        """The Perceiver's, whether or not it is to be heard."""
        return torch.cat([look.perceived.context for look in self.looks])

    @property
    def read(self) -> Float[Tensor, "batch time latents dim"]:
        """What the Perceiver read of each frame by itself."""
        return torch.cat([look.perceived.read for look in self.looks])

    @property
    def indices(self) -> Int64[Tensor, "batch time p p"]:
        """The indices of all codes."""
        return torch.cat([look.indices for look in self.looks])

    @cached_property
    def slots(self) -> Slots:
        """Those of all frames, in order."""
        return reduce(Slots.followed_by, (look.slots for look in self.looks))

    @property
    def cache(self) -> PerceiverCache | None:
        """What the Perceiver goes on from; None after a lesson that studies some clips only."""
        return self.looks[0].perceived.cache if len(self.looks) == 1 else None


@dataclass(frozen=True)
class Sight:
    """A model's way from frames to what is seen of them."""

    encoder: FrameEncoder
    tokenizer: VQTokenizer
    perceiver: CausalPerceiver
    slot_attention: SlotAttention

    def __call__(
        self,
        frames: Float[Tensor, "batch time 3 height width"],
        is_first: Bool[Tensor, "batch time"],
        cache: PerceiverCache | None = None,
        lesson: Lesson | None = None,
    ) -> Sights:
        """Look at clips, all frames at once.

        Args:
            is_first: where an episode starts; the Perceiver does not look back over it.
            cache: of the frames before; None if there were none.
            lesson: what is learned from, where that is not everything; the rest has no graph.
        """
        features = self._features(frames, lesson)
        grid = features.grid.unflatten(0, frames.shape[:2])
        looks = []
        for rows, learns in _portions(len(frames), lesson):
            with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
                past = None if cache is None else cache[rows]
                indices, tokens, perceived = self.read(frames[rows], is_first[rows], past, learns=learns)
                looks.append(Look(rows, indices, tokens, perceived, self.slot_attention(grid[rows].flatten(0, 1))))
        return Sights(features, tuple(looks))

    def read(
        self,
        frames: Float[Tensor, "clips time 3 height width"],
        is_first: Bool[Tensor, "clips time"],
        cache: PerceiverCache | None = None,
        *,
        learns: bool = True,
    ) -> tuple[Int64[Tensor, "clips time p p"], TokenizerOutput | None, PerceiverOutput]:
        """Codes and context: their indices, the tokenizer's output where it learns, and the Perceiver's."""
        flat = frames.flatten(0, 1)
        tokens = self.tokenizer(flat) if learns else None
        indices = self.tokenizer.encode(flat) if tokens is None else tokens.indices
        # The Perceiver reads the codes; it does not bend them: codes that are easy to predict would say little.
        codes = self.tokenizer.codes(indices) if tokens is None else tokens.codes.detach()
        perceived = self.perceiver(codes.flatten(1, 2).unflatten(0, is_first.shape), is_first, cache)
        return indices.unflatten(0, is_first.shape), tokens, perceived

    def _features(self, frames: Tensor, lesson: Lesson | None) -> FrameFeatures:
        """What the encoder makes of all frames, with a graph for those that teach it."""
        flat = frames.flatten(0, 1)
        if lesson is None or not torch.is_grad_enabled():
            return self.encoder(flat)
        teaches = torch.zeros(frames.shape[:2], dtype=torch.bool)
        teaches[: lesson.studied] = True
        teaches[:, lesson.decoded] = True
        order = (~teaches.flatten()).sort(stable=True).indices
        back = placed(order.argsort(), frames)
        learned, watched = placed(order, frames).split([int(teaches.sum()), int((~teaches).sum())])
        features = self.encoder(flat[learned])
        if len(watched):
            with torch.no_grad():
                others = self.encoder(flat[watched])
            features = features.followed_by(others)
        return features[back]


def _portions(batch: int, lesson: Lesson | None) -> list[tuple[slice, bool]]:
    """The rows of a batch that are studied and the rest of them, if any; and which of the two are studied."""
    if lesson is None or lesson.studied >= batch:
        return [(slice(0, batch), True)]
    return [(slice(0, lesson.studied), True), (slice(lesson.studied, batch), False)]
