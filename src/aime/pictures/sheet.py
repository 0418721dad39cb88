"""A sheet of small images in labelled rows and columns: strips and overlays are sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from aime.pictures import style
from aime.pictures.frames import Image

_GAP = 4
_BREAK = 26
_MARGIN = 18
_TEXT = 20
_SMALL = 17
_LINE = 28


@dataclass(frozen=True)
class Row:
    """One row of a sheet: its name, and its images (H, W, 3), None where it has none."""

    label: str
    images: Sequence[Image | None]
    note: str = ""
    """Said in the empty stretch at the start of the row."""
    swatch: str = ""
    """A colour to show beside the name, as a legend does."""


def draw_sheet(
    rows: Sequence[Row],
    columns: Sequence[str],
    path: Path,
    *,
    title: str = "",
    begins: int | None = None,
    before: str = "",
    after: str = "",
) -> Path:
    """Draw rows of images under column labels.

    Args:
        rows: each with one image (all of one size) or None per column.
        columns: what stands over each column.
        title: a line over everything.
        begins: the column before which a break and a coloured line are drawn, such as where a dream begins.
        before, after: what the columns left and right of it are.
    """
    size = next(image.shape[:2] for row in rows for image in row.images if image is not None)
    text, small, bold = style.font(_TEXT), style.font(_SMALL), style.font(_TEXT, bold=True)
    left = _MARGIN + 16 + max(int(text.getlength(row.label)) + (28 if row.swatch else 0) for row in rows)
    break_width = _BREAK if begins else 0
    xs = [
        left + index * (size[1] + _GAP) + (break_width if begins is not None and index >= begins else 0)
        for index in range(len(columns))
    ]
    top = _MARGIN + (_LINE + 8 if title else 0) + (_LINE if before or after else 0) + _LINE
    width, height = xs[-1] + size[1] + _MARGIN, top + len(rows) * (size[0] + _GAP) - _GAP + _MARGIN
    if title:
        width = max(width, int(bold.getlength(title)) + 2 * _MARGIN)

    sheet = Pillow.new("RGB", (width, height), style.PAPER)
    draw = ImageDraw.Draw(sheet)
    y = _MARGIN
    if title:
        draw.text((_MARGIN, y), title, style.INK, bold)
        y += _LINE + 8
    if before or after:
        # A heading wider than its columns starts at the margin rather than run into the other.
        if begins:
            draw.text(
                (max(_MARGIN, min(xs[0], xs[begins] - _BREAK - text.getlength(before))), y), before, style.MUTED, text
            )
        draw.text((xs[begins or 0], y), after, style.DREAM, text)
        y += _LINE
    for x, column in zip(xs, columns, strict=True):
        draw.text((x + (size[1] - small.getlength(column)) / 2, y), column, style.MUTED, small)

    for index, row in enumerate(rows):
        y = top + index * (size[0] + _GAP)
        middle = y + size[0] / 2
        if row.swatch:
            draw.rounded_rectangle((_MARGIN, middle - 9, _MARGIN + 18, middle + 9), 4, row.swatch)
        draw.text((_MARGIN + (28 if row.swatch else 0), middle), row.label, style.INK, text, anchor="lm")
        for x, image in zip(xs, row.images, strict=True):
            if image is not None:
                sheet.paste(Pillow.fromarray(np.ascontiguousarray(image)), (x, y))
        if row.note:
            empty = next((i for i, image in enumerate(row.images) if image is not None), len(columns))
            right = xs[empty] - _GAP - (_BREAK if empty == begins else 0) if empty < len(columns) else width - _MARGIN
            _note(draw, row.note, (xs[0], y, right, y + size[0]))
    if begins:
        x = xs[begins] - _BREAK / 2 - _GAP / 2
        draw.line((x, top - _LINE * 2 if before or after else top - _LINE, x, height - _MARGIN), style.DREAM, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _note(draw: ImageDraw.ImageDraw, text: str, box: tuple[int, int, int, int]) -> None:
    """A few muted words in the middle of a box, broken into the lines that fit."""
    small = style.font(_SMALL)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if small.getlength(longer) > box[2] - box[0] - 20 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    if max(small.getlength(line) for line in lines) > box[2] - box[0]:
        return
    draw.rounded_rectangle(box, 6, "#f6f7f9")
    y = (box[1] + box[3]) / 2 - (len(lines) - 1) * 11
    for line in lines:
        draw.text(((box[0] + box[2]) / 2, y), line, style.MUTED, small, anchor="mm")
        y += 22
