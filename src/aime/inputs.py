"""What may come in: frames and actions, checked at the door, so that a wrong one is named and not propagated."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from aime.config import ModelConfig
from aime.errors import ShapeError


def check_clip(
    config: ModelConfig, observations: Tensor, actions: Tensor | None, is_first: Tensor | None, *, ranges: bool = True
) -> None:
    """Refuse a clip that the model cannot mean anything by.

    Args:
        observations: (B, T, 3, H, W), uint8, or float in [0, 1].
        actions: (B, T, A), float in [-1, 1]; None where none are needed.
        is_first: (B, T), bool; None where no episode starts inside the clip.
        ranges: look at the values too; on a GPU that waits for them, so training leaves it to the data set.

    Raises:
        ShapeError: with what was expected and what was found.
    """
    size = config.input_dim
    expected = f"(batch, time, 3, {size}, {size})"
    if observations.ndim != 5 or observations.shape[2:] != (3, size, size):
        hint = ""
        if observations.ndim == 5 and observations.shape[-1] == 3:
            hint = "; the channels seem to come last: use .permute(0, 1, 4, 2, 3)"
        elif observations.ndim == 4:
            hint = "; the batch dimension seems to be missing: use .unsqueeze(0)"
        raise ShapeError(f"observations must have shape {expected}, not {tuple(observations.shape)}{hint}")
    if 0 in observations.shape[:2]:
        raise ShapeError(f"observations are empty: {tuple(observations.shape)}")
    check_frames(observations, ranges=ranges)
    if actions is not None:
        batch, time = observations.shape[:2]
        if actions.ndim != 3 or actions.shape[:2] != (batch, time):
            raise ShapeError(
                f"actions must have shape ({batch}, {time}, {config.action_dim}) to go with these observations, "
                f"not {tuple(actions.shape)}"
            )
        check_actions(config, actions, ranges=ranges)
    if is_first is not None and (is_first.dtype != torch.bool or is_first.shape != observations.shape[:2]):
        raise ShapeError(
            f"is_first must be bool with shape {tuple(observations.shape[:2])}, "
            f"not {_name(is_first.dtype)} with shape {tuple(is_first.shape)}"
        )


def check_frames(frames: Tensor, *, ranges: bool = True) -> None:
    """Refuse frames that are neither uint8 nor float in [0, 1]."""
    if frames.dtype == torch.uint8:
        return
    if not frames.is_floating_point():
        raise ShapeError(f"observations must be uint8, or float in [0, 1], not {_name(frames.dtype)}")
    if ranges:
        low, high = (float(v) for v in frames.detach().aminmax())
        if not (low >= 0.0 and high <= 1.0):
            hint = "; divide by 255, or pass uint8" if high > 1.5 else ""
            raise ShapeError(f"float observations must lie in [0, 1], but these span [{low:.4g}, {high:.4g}]{hint}")


def check_actions(config: ModelConfig, actions: Tensor, *, ranges: bool = True) -> None:
    """Refuse actions of another size than the model's, or outside [-1, 1]."""
    if actions.ndim != 3 or actions.shape[-1] != config.action_dim:
        found = actions.shape[-1] if actions.ndim == 3 else f"shape {tuple(actions.shape)}"
        raise ShapeError(
            f"this model takes actions of size {config.action_dim}, as (batch, time, {config.action_dim}), "
            f"but these have {found}; use the data it was trained on, or train a model on this data"
        )
    if not actions.is_floating_point():
        raise ShapeError(f"actions must be float in [-1, 1], not {_name(actions.dtype)}")
    if ranges and actions.numel():
        low, high = (float(v) for v in actions.detach().aminmax())
        if not (low >= -1.001 and high <= 1.001):
            raise ShapeError(
                f"actions must lie in [-1, 1], but these span [{low:.4g}, {high:.4g}]; "
                "scale them by the environment's bounds"
            )


def to_unit_frames(frames: Tensor) -> Tensor:
    """Frames as float in [0, 1]."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_dream(config: ModelConfig, actions: Tensor, beliefs: int) -> None:
    """Refuse actions that the dream of so many beliefs cannot follow.

    Raises:
        ShapeError: their size, range or number does not fit, or there are none.
    """
    check_actions(config, actions)
    check_count(beliefs, actions.shape[0], "actions")
    if actions.shape[1] == 0:
        raise ShapeError("a dream needs at least one action: its length is the number of actions")


def check_count(beliefs: int, batch: int, of: str) -> None:
    """Refuse what goes on from beliefs if it is for another number of batch elements.

    Args:
        of: what is for `batch` of them, in words.

    Raises:
        ShapeError: with both numbers.
    """
    if beliefs != batch:
        raise ShapeError(f"the belief holds {beliefs} batch elements, but the {of} are for {batch}")


def check_repeats(n: Any) -> None:
    """Refuse to repeat a belief less than no times, or a part of a time.

    Raises:
        ShapeError: with the number.
    """
    try:
        times = operator.index(n)
    except TypeError:
        raise ShapeError(f"a belief can be repeated a whole number of times, not {n!r}") from None
    if times < 0:
        raise ShapeError(f"a belief can be repeated 0 times or more, not {n}")
