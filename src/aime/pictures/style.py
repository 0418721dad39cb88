"""One look for all pictures: colours that colour-blind readers can tell apart, one font, quiet axes.

A role keeps its colour everywhere: the dream is blue, the truth is ink, the ceiling green, in strips as in plots.
"""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import ImageFont

PAPER = "#ffffff"
INK = "#1b1f24"
MUTED = "#6b7280"
FAINT = "#e5e7eb"

# Okabe and Ito's palette (2008), without its yellow, which vanishes on white.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#b1518d", "#e69f00", "#56b4e9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)

DREAM = BLUE
"""Colour of dreams, and of the mark where one begins."""

DPI = 150


def colour(index: int) -> str:
    """The index-th of a row of colours; after the palette's six come lighter shades of the same."""
    shade, position = divmod(index, len(PALETTE))
    base = np.array(rgb(PALETTE[position]), dtype=float)
    lighter = base + (255 - base) * min(0.8, 0.45 * shade)
    return "#{:02x}{:02x}{:02x}".format(*lighter.round().astype(int))


def rgb(hexadecimal: str) -> tuple[int, int, int]:
    """``#0072b2`` as (0, 114, 178)."""
    return int(hexadecimal[1:3], 16), int(hexadecimal[3:5], 16), int(hexadecimal[5:7], 16)


@functools.cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of the plots, which comes with matplotlib, for text in images; `size` in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def new_figure(rows: int, columns: int, *, panel: tuple[float, float] = (4.2, 3.0)) -> tuple[Figure, list[Axes]]:
    """A figure of rows × columns panels of `panel` inches each, and its axes row by row; no global state is touched."""
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), dpi=DPI, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [quiet(axis) for axis in axes.flat]


def quiet(axis: Axes) -> Axes:
    """Plain axes: no frame at the top and the right, thin lines, a faint grid behind."""
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(MUTED)
        axis.spines[side].set_linewidth(0.8)
    axis.tick_params(colors=INK, labelsize=9, width=0.8, color=MUTED)
    axis.grid(True, color=FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    return axis


def label(axis: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Title at the left, axis labels."""
    if title:
        axis.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axis.set_xlabel(x, fontsize=9.5, color=INK)
    axis.set_ylabel(y, fontsize=9.5, color=INK)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure (the suffix says the format) and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor=PAPER)
    return path
