"""What of a batch training learns from in one step: which clips, which frames, and after which frames it dreams."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from aime.config import LossConfig


def rollout_length(time: int, settings: LossConfig) -> int:
    """Open-loop steps in a clip: a quarter of it, and at least one frame, is left to be watched first."""
    return min(settings.rollout_steps, time - max(1, time // 4))


def studied_clips(batch: int, settings: LossConfig) -> int:
    """How many clips of a batch, the first ones, all four objectives learn from."""
    return max(1, round(settings.study_share * batch))


def spread_out(time: int, settings: LossConfig) -> Int64[Tensor, " decoded"]:
    """Frames of a clip, one of every `decode_every`, from a random one on; of clips of one length always as many."""
    stride = min(settings.decode_every, time)
    last = time // stride * stride - stride
    return torch.arange(0, last + 1, stride) + int(torch.randint(time - last, ()))


def placed(index: Int64[Tensor, "*n"], like: Tensor) -> Int64[Tensor, "*n"]:
    """An index that was reckoned with on the host, where `like` is: indexing with one elsewhere waits for a GPU."""
    return index.to(like.device, non_blocking=True)


@dataclass(frozen=True)
class Lesson:
    """What of a batch is learned from in one step: neighbouring frames are much alike, and most of them need only be
    watched. The same for all clips, so that everything stays rectangular."""

    studied: int
    """Clips, the first ones, that all four objectives learn from whole; the others teach belief and dynamics alone."""
    decoded: Int64[Tensor, " decoded"]
    """Frames of each clip that are decoded; of the clips that are not studied the encoder learns from these alone. On
    the host, where it is reckoned with: a GPU need not be waited for."""
    starts: list[int]
    """Frames after which training dreams, in order."""

    @classmethod
    def draw(cls, batch: int, time: int, settings: LossConfig) -> Lesson:
        """A lesson at random."""
        steps = rollout_length(time, settings)
        count = min(settings.rollout_starts, time - steps) if steps else 0
        return cls(
            studied=studied_clips(batch, settings),
            decoded=spread_out(time, settings),
            starts=torch.randperm(time - steps)[:count].sort().values.tolist(),
        )

    @classmethod
    def whole(cls, batch: int, time: int, settings: LossConfig) -> Lesson:
        """All clips and frames: where nothing is learned, and all is to be measured."""
        starts = cls.draw(batch, time, settings).starts
        return cls(studied=batch, decoded=torch.arange(time), starts=starts)
