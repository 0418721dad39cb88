"""From whatever holds frames to 8-bit images: tensors or arrays, floats or bytes, channels first."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from aime.errors import ShapeError

Frames = torch.Tensor | NDArray[np.generic]
"""Frames with channels first, (…, 3, H, W): uint8, or float in [0, 1]."""
Image = NDArray[np.uint8]
"""Frames with channels last, (…, H, W, 3)."""
Maps = torch.Tensor | NDArray[np.generic]
"""Maps over a frame, (…, G, G), not negative."""


def to_array(values: torch.Tensor | NDArray[np.generic]) -> NDArray[np.generic]:
    """A tensor as an array on the CPU; an array as it is."""
    return values.detach().float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def to_images(frames: Frames) -> Image:
    """Frames (…, 3, H, W), uint8 or float in [0, 1], as uint8 (…, H, W, 3)."""
    array = frames.detach().cpu().numpy() if isinstance(frames, torch.Tensor) else np.asarray(frames)
    if array.ndim < 3 or array.shape[-3] != 3:
        raise ShapeError(f"frames must have shape (…, 3, height, width), not {array.shape}")
    if array.dtype != np.uint8:
        array = (np.clip(array.astype(np.float32), 0.0, 1.0) * 255.0).round()
    return np.moveaxis(array.astype(np.uint8), -3, -1)


def enlarge(images: Image, factor: int) -> Image:
    """Each pixel as a square of factor × factor pixels: nothing is blurred, what was predicted is what is seen."""
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)


def factor_for(size: int, wanted: int) -> int:
    """The whole factor that brings a frame of `size` pixels nearest to `wanted`, at least 1."""
    return max(1, round(wanted / size))


def spread_over(maps: Maps, height: int, width: int) -> NDArray[np.float32]:
    """Maps (N, G, G) brought smoothly to (N, height, width)."""
    grid = torch.as_tensor(np.array(to_array(maps), dtype=np.float32))
    big = torch.nn.functional.interpolate(grid[:, None], size=(height, width), mode="bicubic", align_corners=False)
    # Cubic interpolation overshoots beside a peak.
    return big[:, 0].clamp_min(0.0).numpy()
