"""Frames of any size and kind as square 8-bit RGB of one size: area averaging, one frame at a time."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable

import numpy as np
from PIL import Image

from aime.errors import DataError

log = logging.getLogger("aime")

MULTIPLE = 16
"""The models halve a frame four times, so its side must be a multiple of this."""
DEFAULT_SIZE = 64


class FrameFit:
    """Brings frames to (size, size, 3) uint8.

    Without a size the first frame decides: its own size where that is square and a multiple of 16, else 64. All frames
    that come later get the same. What is resized is said aloud, once for each size found.

    Args:
        size: height and width to make, a multiple of 16.
        crop: cut the middle square out of a frame that is not square; otherwise it is squeezed.
    """

    def __init__(self, size: int | None = None, *, crop: bool = False) -> None:
        self.size = size
        self.crop = crop
        self._said: set[tuple[int, int]] = set()

    def stack(self, frames: Iterable[np.ndarray], where: str) -> np.ndarray:
        """All the frames as (T, size, size, 3) uint8; `where` is what a message calls them.

        Raises:
            DataError: there is none, or they are no pictures.
        """
        fitted = [self(frame, where) for frame in frames]
        if not fitted:
            raise DataError(f"{where} has no frames")
        return np.stack(fitted)

    def __call__(self, frame: np.ndarray, where: str) -> np.ndarray:
        """One frame as (size, size, 3) uint8."""
        frame = to_rgb(frame, where)
        height, width = frame.shape[:2]
        if self.size is None:
            self.size = height if height == width and height % MULTIPLE == 0 else DEFAULT_SIZE
        if (height, width) == (self.size, self.size):
            return frame
        if (height, width) not in self._said:
            self._said.add((height, width))
            how = "cropped and resized" if self.crop and height != width else "resized"
            log.info("frames of %d×%d pixels are %s to %d×%d", height, width, how, self.size, self.size)
        return area_resize(self._square(frame), self.size)

    def mask(self, masks: np.ndarray) -> np.ndarray:
        """Masks (T, H, W) that go with the frames, as (T, size, size): each pixel the nearest one's."""
        size = self.size or masks.shape[1]
        if masks.shape[1:] == (size, size):
            return masks
        masks = np.moveaxis(self._square(np.moveaxis(masks, 0, -1)), -1, 0)
        rows, columns = ((np.arange(size) + 0.5) / size * side for side in masks.shape[1:])
        return masks[:, rows.astype(int)][:, :, columns.astype(int)]

    def _square(self, frame: np.ndarray) -> np.ndarray:
        if not self.crop:
            return frame
        side = min(frame.shape[:2])
        top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
        return frame[top : top + side, left : left + side]


def to_rgb(frame: np.ndarray, where: str) -> np.ndarray:
    """A frame (H, W), (H, W, 1 | 3 | 4) or (1 | 3 | 4, H, W), uint8 or float in [0, 1], as uint8 (H, W, 3).

    Raises:
        DataError: it is none of these.
    """
    shape = frame.shape
    if frame.ndim == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        frame = np.moveaxis(frame, 0, -1)
    if frame.ndim == 2:
        frame = frame[..., None]
    if frame.ndim != 3 or frame.shape[2] not in (1, 3, 4) or 0 in frame.shape:
        raise DataError(f"{where} holds no frames: (height, width, 3) is needed, found {shape}")
    if frame.dtype.kind == "f":
        if not (frame.min() >= 0.0 and frame.max() <= 1.0):
            raise DataError(
                f"{where} has frames of {frame.dtype} from {frame.min():.4g} to {frame.max():.4g}; uint8 is needed, or "
                "floats in [0, 1]"
            )
        frame = np.floor(frame * 255.0 + 0.5).astype(np.uint8)
    if frame.dtype != np.uint8:
        raise DataError(f"{where} has frames of {frame.dtype}; uint8 is needed, or floats in [0, 1]")
    if frame.shape[2] == 1:
        frame = frame.repeat(3, axis=2)
    return frame[..., :3]


def area_resize(frame: np.ndarray, size: int) -> np.ndarray:
    """A frame (H, W, C) uint8 as (size, size, C): each new pixel is the mean of the area that it covers."""
    height, width, channels = frame.shape
    rows = _cover(height, size) @ frame.reshape(height, -1).astype(np.float32)
    both = _cover(width, size) @ rows.reshape(size, width, channels)
    return np.floor(both + 0.5).clip(0, 255).astype(np.uint8)


def _cover(old: int, new: int) -> np.ndarray:
    """(new, old): which part of each new pixel lies on each old one; the rows sum to one."""
    edges = np.arange(new + 1) * (old / new)
    low, high = edges[:-1, None], edges[1:, None]
    place = np.arange(old)
    overlap = np.clip(np.minimum(high, place + 1) - np.maximum(low, place), 0.0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def decode_image(data: bytes, where: str) -> np.ndarray:
    """A PNG, JPEG or other image file's bytes as uint8 (H, W, 3).

    Raises:
        DataError: they are no picture, or half a one.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{where} holds a picture that cannot be read ({error}); it was left as it is") from error
