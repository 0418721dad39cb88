"""What the model attends to, drawn over what it sees: the attention map, and the slots in colours of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from aime.pictures import style
from aime.pictures.frames import Frames, Image, Maps, enlarge, factor_for, spread_over, to_array, to_images
from aime.pictures.sheet import Row, draw_sheet

_HEAT = "inferno"
_FULL = 4.0
"""How many times denser than an even map a place must be, at least, to be drawn at full strength."""


def draw_attention(
    frames: Frames,
    attention: Maps,
    path: Path,
    *,
    expected: Maps | None = None,
    title: str = "",
    columns: int = 10,
    frame_size: int = 128,
) -> Path:
    """Rows: the frames, the attention map over them, and what the schema expected before it saw them, if given.

    Args:
        frames: (T, 3, H, W).
        attention: (T, G, G), each map summing to 1.
        expected: (T, G, G), the attention prior.
        columns: frames shown, picked evenly.
    """
    shown = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    images = to_images(frames)[shown]
    factor = factor_for(images.shape[1], frame_size)
    rows = [
        Row("frame", list(enlarge(images, factor))),
        Row("attention", heat_over(images, to_array(attention)[shown], factor)),
    ]
    if expected is not None:
        rows.append(Row("expected", heat_over(images, to_array(expected)[shown], factor)))
    return draw_sheet(rows, [f"t = {t}" for t in shown], path, title=title)


def draw_slots(
    frames: Frames, slot_maps: Maps, path: Path, *, title: str = "", columns: int = 10, frame_size: int = 128
) -> Path:
    """Rows: the frames, all slots at once in their colours, and each slot by itself.

    Args:
        frames: (T, 3, H, W).
        slot_maps: (T, S, G, G), not negative.
        columns: frames shown, picked evenly.
    """
    shown = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    images = to_images(frames)[shown]
    maps = to_array(slot_maps)[shown].astype(np.float32)
    factor = factor_for(images.shape[1], frame_size)
    slots = maps.shape[1]
    colours = np.array([style.rgb(style.colour(s)) for s in range(slots)], dtype=np.float32)
    rows = [
        Row("frame", list(enlarge(images, factor))),
        Row("all slots", _colours_over(images, maps, colours, factor)),
    ]
    for s in range(slots):
        own = _colours_over(images, maps[:, s : s + 1], colours[s : s + 1], factor)
        rows.append(Row(f"slot {s + 1}", own, swatch=style.colour(s)))
    return draw_sheet(rows, [f"t = {t}" for t in shown], path, title=title)


def heat_over(images: Image, maps: NDArray[np.generic], factor: int) -> list[Image]:
    """Each map as heat over its greyed image: the frame where there is none, brightest where a map peaks."""
    big = enlarge(images, factor)
    strength = _strength(spread_over(maps, *big.shape[1:3]), axis=(1, 2))
    coloured = colormaps[_HEAT](0.2 + 0.8 * strength)[..., :3] * 255
    opacity = 0.85 * np.sqrt(strength)[..., None]
    mixed = (1 - opacity) * 0.75 * _grey(big) + opacity * coloured
    return list(mixed.clip(0, 255).astype(np.uint8))


def _colours_over(images: Image, maps: NDArray[np.float32], colours: NDArray[np.float32], factor: int) -> list[Image]:
    """Maps (N, S, G, G) as tints: the colour is the mixture of the slots there, its strength that of the strongest."""
    big = enlarge(images, factor)
    count, slots = maps.shape[:2]
    grown = spread_over(maps.reshape(-1, *maps.shape[2:]), *big.shape[1:3]).reshape(count, slots, *big.shape[1:3])
    # Against the strongest of all slots, so that a slot which is everywhere does not cover those that are somewhere.
    relative = _strength(grown, axis=(1, 2, 3))
    # Squared, so that the strongest slot sets the colour instead of all of them turning grey together.
    share = np.square(relative)
    tint = np.einsum("nshw,sc->nhwc", share / share.sum(axis=1, keepdims=True).clip(1e-12), colours)
    strength = 0.85 * np.sqrt(relative.max(axis=1))[..., None]
    mixed = (1 - strength) * (0.45 * _grey(big) + 0.55 * 255) + strength * tint
    return list(mixed.clip(0, 255).astype(np.uint8))


def _strength(maps: NDArray[np.float32], axis: tuple[int, ...]) -> NDArray[np.float32]:
    """Maps as 0 to 1: from zero to the maximum, but for maps that are nearly even; those stay faint, as they should."""
    density = maps / maps.mean(axis=(-2, -1), keepdims=True).clip(1e-12)
    return density / density.max(axis=axis, keepdims=True).clip(_FULL)


def _grey(images: Image) -> NDArray[np.float32]:
    return images.astype(np.float32).mean(axis=-1, keepdims=True).repeat(3, axis=-1)
