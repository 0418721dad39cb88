"""Strips: what was true, what was reconstructed and what was dreamed, frame under frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aime.errors import ShapeError
from aime.pictures.frames import Frames, enlarge, factor_for, to_images
from aime.pictures.sheet import Row, draw_sheet


def draw_strip(
    rows: Mapping[str, Frames],
    path: Path,
    *,
    context_frames: int,
    title: str = "",
    columns: int = 12,
    frame_size: int = 128,
) -> Path:
    """Draw rows of frames of one clip under each other, with a mark where the dream begins.

    Args:
        rows: name to frames (T, 3, H, W). A row with fewer frames than the longest ends with it: a dream of K frames is
            drawn under the last K.
        context_frames: frames that were watched; frame `context_frames` is the first dreamed one, at horizon +1.
        columns: frames shown, picked evenly, the last watched and the first dreamed always among them.
        frame_size: about how large a frame is drawn, in pixels.
    """
    images = {name: to_images(frames) for name, frames in rows.items()}
    length = max(len(i) for i in images.values())
    if not 1 <= context_frames < length:
        raise ShapeError(f"a strip of {length} frames cannot begin to dream after {context_frames}")
    shown = pick_frames(length, context_frames, columns)
    factor = factor_for(next(iter(images.values())).shape[1], frame_size)
    sheet = []
    for name, frames in images.items():
        offset = length - len(frames)
        cells = [enlarge(frames[t - offset], factor) if t >= offset else None for t in shown]
        note = "watches, then dreams from the actions alone" if offset == context_frames else ""
        sheet.append(Row(name, cells, note=note))
    return draw_sheet(
        sheet,
        [horizon_label(t, context_frames) for t in shown],
        path,
        title=title,
        begins=sum(t < context_frames for t in shown),
        before="watched",
        after="dreamed",
    )


def pick_frames(length: int, context_frames: int, columns: int) -> list[int]:
    """Which frames of a clip to show: about a quarter of the columns watched, the rest dreamed, evenly spaced."""
    dreamed = length - context_frames
    watched_columns = min(context_frames, max(1, round(columns / 4)))
    dreamed_columns = min(dreamed, max(1, columns - watched_columns))
    watched = np.linspace(0, context_frames - 1, watched_columns + 1)[1:] if watched_columns < context_frames else None
    before = range(context_frames) if watched is None else watched.round().astype(int).tolist()
    after = np.linspace(context_frames, length - 1, dreamed_columns).round().astype(int).tolist()
    return [*before, *after]


def horizon_label(t: int, context_frames: int) -> str:
    """The last watched frame is 0, the first dreamed one +1."""
    horizon = t - context_frames + 1
    return f"+{horizon}" if horizon > 0 else f"{horizon}".replace("-", "−")
