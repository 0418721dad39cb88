"""Dreaming the rest of a clip, as the protocol does it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aime.evaluation.clips import Clips


def dream_after(
    model: Any, clips: Clips, context: int, *, actions: Tensor | None = None, generator: torch.Generator | None = None
) -> Any:
    """Watch the first `context` frames of clips, and dream the rest: a draw with a generator, else the best guess.

    Args:
        actions: taken instead of the recorded ones, (clips, time, action).
    """
    actions = clips.actions if actions is None else actions
    belief = model.observe(clips.observations[:, :context], actions[:, :context], clips.is_first[:, :context])
    return model.imagine(belief, actions[:, context:], sample=generator is not None, generator=generator)
