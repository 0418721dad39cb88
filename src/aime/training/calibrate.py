"""How far guesses are to be believed: measured, when training ends, on episodes that nothing was learned from.

Dynamics comes to know the episodes that it learns from, and a decoder that meets its guesses on those alone believes
them too far elsewhere. So the last thing a run does is to guess at clips of the validation split. How a guess differs
from the mean frame is then scaled by how much of that came true there, by the guess's doubt: a few numbers, fitted as a
classifier's temperature is (Guo et al., 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from aime.data.dataset import WindowDataset, fixed_clips
from aime.data.store import EpisodeStore
from aime.errors import DataError
from aime.inputs import to_unit_frames
from aime.observation import moving_pixels
from aime.perception import full_trust, trust_weights
from aime.world_model import WorldModel

log = logging.getLogger("aime")

CLIPS = 128
"""Clips to guess at, at most."""
FRAMES = 16
"""Frames of each that are compared, at most, spread over the guess."""
WATCHED = 6
"""One frame in so many of a clip is watched, the rest is guessed at."""
AT_A_TIME = 8
"""Clips that are guessed at together."""
FAITH = 0.002
"""Share of the weight of all frames that full trust has beforehand at each knot: a few frames alone do not undo it."""


def calibrate(model: WorldModel, store: EpisodeStore, length: int) -> None:
    """Set the decoder's trust in guesses by clips of `length` frames of the validation split, and the mean frame.

    Where that split has none, or a clip is a single frame, guesses are trusted in full.
    """
    model.decoder.trust.copy_(full_trust())
    try:
        if length < 2:
            raise DataError("a clip is a single frame, and there is nothing to guess at")
        clips = fixed_clips(store, "validation", length, min(CLIPS, _places(store, length)))
    except DataError as error:
        log.info("guesses are believed in full: %s", error)
        return
    model.decoder.mean_frame.copy_(torch.from_numpy(store.mean_frame()))
    training = model.training
    model.eval()
    try:
        guesses = _guess(model, clips)
    finally:
        model.train(training)
    model.decoder.trust.copy_(fitted_trust(*guesses))
    shares = ", ".join(f"{share:.0%}" for share in model.decoder.trust.tolist())
    log.info("guesses are believed to %s, from those that know all of the latent to those that know nothing", shares)


def fitted_trust(
    square: Float[Tensor, " n"], product: Float[Tensor, " n"], doubt: Float[Tensor, "n latent"]
) -> Float[Tensor, " knots"]:
    """The trust, from 0 to 1 at each knot, by which guesses would have missed least.

    Of each guessed frame, what was said and what was missing are the differences of the guess and of the truth from the
    mean frame. Trust is linear between its knots, and the frame linear in trust, so this is a problem of least squares.
    A guess of more doubt is then trusted no more than one of less.

    Args:
        square: mean square of what was said of a frame. product: mean of what was said times what was missing.
        doubt: of each guess (`DPGMMPrior.doubt`).
    """
    near = trust_weights(doubt).double()
    normal = near.T @ (square.double()[:, None] * near)
    faith = FAITH * (normal.trace() + 1e-12) * torch.eye(len(normal)).to(normal)
    trust = torch.linalg.solve(normal + faith, near.T @ product.double() + faith.sum(dim=1))
    return trust.clamp(0, 1).cummin(dim=0).values.float()


def _places(store: EpisodeStore, length: int) -> int:
    dataset = WindowDataset(store, "validation", length)
    return int((dataset.lengths - length + 1).sum())


@torch.no_grad()
def _guess(model: WorldModel, clips: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Over the pixels of each guessed frame that have moved since the last one watched, what `fitted_trust` asks for.

    Elsewhere a guess that is the mean frame is right, and says nothing of what guesses are worth.
    """
    time = clips["actions"].shape[1]
    watched = max(1, time // WATCHED)
    at = torch.linspace(0, time - watched - 1, min(FRAMES, time - watched)).round().long()
    found = []
    for rows in torch.arange(len(clips["actions"])).split(AT_A_TIME):
        frames, actions = (clips[name][rows].to(model.device) for name in ("observations", "actions"))
        frames = to_unit_frames(frames)
        belief = model.observe(frames[:, :watched], actions[:, :watched], clips["is_first"][rows, :watched])
        guess = model.foresee(belief, actions[:, watched:])
        assert guess.doubt is not None
        latents, before, doubt = (x[:, at.to(x.device)] for x in (guess.latents, guess.before, guess.doubt))
        truth, mean = frames[:, (watched + at).to(frames.device)], model.decoder.mean_frame
        said = model.decode(latents, model.expect_attention(before, latents), doubt) - mean
        moved = moving_pixels(truth, frames[:, watched - 1])[:, :, None]
        pixels = moved.sum(dim=(-3, -2, -1)).clamp_min(1)
        square, product = ((moved * said * x).sum(dim=(-3, -2, -1)) / pixels for x in (said, truth - mean))
        found.append(tuple(x.flatten(0, 1) for x in (square, product, doubt)))
    square, product, doubt = (torch.cat(parts) for parts in zip(*found, strict=True))
    return square, product, doubt
