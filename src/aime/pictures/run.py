"""All pictures of a model on one clip: what it saw, reconstructed and dreamed, attended to and believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aime.errors import ShapeError
from aime.pictures.frames import to_images
from aime.pictures.overlays import draw_attention, draw_slots
from aime.pictures.plots import draw_mixture
from aime.pictures.strips import draw_strip
from aime.pictures.videos import draw_dream_video


def write_run_pictures(
    model: Any,
    observations: Tensor,
    actions: Tensor,
    is_first: Tensor | None,
    folder: Path,
    *,
    context_frames: int = 8,
) -> list[Path]:
    """Show the model a clip, let it dream the rest, and draw both.

    Args:
        model: an `aime.WorldModel` (or anything with its `forward_sequence`, `observe` and `imagine`). Its mode and the
            random state are left as they were.
        observations: (B, T, 3, H, W), uint8 or float in [0, 1]; the first clip is drawn.
        actions: (B, T, A).
        is_first: (B, T) or None. The model dreams as if no episode started after the context.
        folder: where the pictures go; made if it does not exist.
        context_frames: frames watched before the dream; halved for clips too short for it.

    Returns:
        The files written: a strip, an mp4, and, of AIME, the attention and slot overlays and the mixture weights.

    Raises:
        ShapeError: if the clip has fewer than two frames.
    """
    clip, moves = observations[:1], actions[:1]
    first = None if is_first is None else is_first[:1]
    length = clip.shape[1]
    if length < 2:
        raise ShapeError(f"pictures need a clip of at least 2 frames, not {length}")
    watched = context_frames if 1 <= context_frames < length else length // 2
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model.forward_sequence(clip, moves, first)
            start = None if first is None else first[:, :watched]
            belief = model.observe(clip[:, :watched], moves[:, :watched], start)
            dream = model.imagine(belief, moves[:, watched:], sample=False)
    finally:
        model.train(training)

    truth = to_images(clip[0]).transpose(0, 3, 1, 2)
    rows = {"truth": truth, "reconstruction": output.reconstructions[0], "dream": dream.observations[0]}
    drawn = [
        draw_strip(rows, folder / "strip.png", context_frames=watched),
        draw_dream_video(rows, folder / "dream.mp4", context_frames=watched),
    ]
    if not hasattr(output, "attention_map"):  # a peer has neither attention nor a mixture to show
        return drawn
    return [
        *drawn,
        draw_attention(truth, output.attention_map[0], folder / "attention.png", expected=output.attention_prior[0]),
        draw_slots(truth, output.slot_maps[0], folder / "slots.png"),
        draw_mixture(
            output.dpgmm_weights[0],
            folder / "mixture.png",
            dreamed=dream.dpgmm_weights[0],
            surprise=output.surprise[0],
        ),
    ]
