"""A look at episodes that are not trained on: how good are reconstructions, and dreams against copying the last frame?

It is small and always the same, for the curves; `aime.evaluation` is the protocol to publish from.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from aime.data.dataset import fixed_clips
from aime.data.store import EpisodeStore
from aime.errors import DataError

log = logging.getLogger("aime")


def heldout_clips(store: EpisodeStore, length: int, count: int) -> dict[str, Tensor] | None:
    """The same clips of the validation split every time; None, with a line in the log, where it has none so long."""
    try:
        return fixed_clips(store, "validation", length, count)
    except DataError as error:
        log.info("no look at held-out episodes while training: %s", error)
        return None


@torch.no_grad()
def look(model: Any, clips: dict[str, Tensor]) -> dict[str, float]:
    """Watch the first half of each clip, dream the second, and compare.

    Args:
        clips: observations (N, T, 3, H, W), actions (N, T, A) and is_first (N, T), T ≥ 2.

    Returns:
        In dB of PSNR, means over clips and frames: ``validation/psnr`` of the reconstructions,
        ``validation/dream_psnr``, ``validation/copy_last_psnr`` (the last frame seen, repeated) and
        ``validation/dream_gain``, by which dreams beat that.
    """
    observations, actions = clips["observations"].to(model.device), clips["actions"].to(model.device)
    watched = observations.shape[1] // 2
    training = model.training
    model.eval()
    try:
        rebuilt = model.forward_sequence(observations, actions, sample=False).reconstructions
        belief = model.observe(observations[:, :watched], actions[:, :watched])
        # o[t+1] follows from a[t], which the belief has in it; the actions of the dream begin one frame later.
        dream = model.imagine(belief, actions[:, watched:], sample=False).observations
    finally:
        model.train(training)
    truth = observations.float() / 255 if observations.dtype == torch.uint8 else observations
    ahead = truth[:, watched:]
    dreamed, copied = psnr(dream, ahead), psnr(truth[:, watched - 1 : watched].expand_as(ahead), ahead)
    figures = {
        "validation/psnr": psnr(rebuilt, truth),
        "validation/dream_psnr": dreamed,
        "validation/copy_last_psnr": copied,
        "validation/dream_gain": dreamed - copied,
    }
    return {name: float(value) for name, value in figures.items()}


def psnr(frames: Float[Tensor, "*batch 3 h w"], truth: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, ""]:
    """Mean over frames of 10 log10(1 / mean squared error), in dB; frames in [0, 1], a perfect one counts as 60 dB."""
    error = (frames.float() - truth.float()).square().mean(dim=(-3, -2, -1))
    return (-10 * error.clamp_min(1e-6).log10()).mean()


def picture_clip(store: EpisodeStore, length: int) -> dict[str, Any] | None:
    """One clip to draw: held out if there is one, three times as long as a training clip if there is one."""
    for split in ("validation", "train"):
        for frames in (3 * length, length):
            try:
                return fixed_clips(store, split, frames, 1)
            except DataError:
                continue
    return None
