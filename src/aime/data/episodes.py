"""What an episode is: its columns, their checks and checksum, and the records that a store keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aime.errors import DataError

REQUIRED_COLUMNS = ("pixels", "action", "reward", "is_first")
"""Columns that every episode has; ``state``, ``segmentation`` and any other are optional."""


@dataclass(frozen=True)
class StoreInfo:
    """What all the episodes of a store have in common."""

    task: str
    """Where they come from, such as humanoid-walk."""
    time_step: float
    """Seconds from one frame to the next."""
    action_repeat: int
    """Control steps of the environment per frame."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that made them."""
    details: dict[str, Any] = field(default_factory=dict)
    """Anything else worth keeping, such as the names of the numbers in a state."""


@dataclass(frozen=True)
class EpisodeRecord:
    """What a store knows about one episode."""

    id: int
    """Its number, unique in the store."""
    length: int
    """Frames."""
    policy: str
    """What chose the actions."""
    seed: int
    """Seed of the collection; the episode's own random stream follows from the pair (seed, id)."""
    renderer: str
    """What drew the frames."""
    sha256: str
    """Checksum of the episode's arrays, however they are stored."""
    shard: str
    """File that holds it."""
    offset: int
    """Its first frame in the shard."""
    split: str | None = None
    """train, validation or test where the source decides it; None leaves it to the store."""
    details: dict[str, Any] = field(default_factory=dict)
    """Anything else worth keeping: the policy's gains, the sum of the rewards, …"""


@dataclass(frozen=True)
class ShardRecord:
    """What a store knows about one of its files."""

    file: str
    frames: int
    episodes: int
    bytes: int
    sha256: str


def describe_columns(columns: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dtype and shape of one frame's row of each column."""
    return {name: {"dtype": str(array.dtype), "shape": list(array.shape[1:])} for name, array in columns.items()}


def episode_digest(columns: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of an episode's columns: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        array = np.ascontiguousarray(columns[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_episode(columns: Mapping[str, np.ndarray]) -> int:
    """The number of frames of an episode.

    Raises:
        DataError: a required column is missing or has the wrong type, shape or range; the columns differ in length.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise DataError(f"an episode needs the columns {', '.join(REQUIRED_COLUMNS)}; {', '.join(missing)} missing")
    pixels, action = columns["pixels"], columns["action"]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise DataError(f"pixels must be uint8 (frames, size, size, 3), found {pixels.dtype} {pixels.shape}")
    if action.dtype != np.float32 or action.ndim != 2 or action.shape[1] < 1:
        raise DataError(f"action must be float32 (frames, numbers), found {action.dtype} {action.shape}")
    if not np.isfinite(action).all() or np.abs(action).max(initial=0.0) > 1.0:
        raise DataError(
            f"actions must be finite and in [-1, 1], found {action.min():.4g} to {action.max():.4g}; scale them by the "
            "environment's own bounds"
        )
    if "segmentation" in columns:
        mask = columns["segmentation"]
        if mask.dtype != np.uint8 or mask.shape != pixels.shape[:3]:
            raise DataError(f"segmentation must be uint8 {pixels.shape[:3]}, found {mask.dtype} {mask.shape}")
    frames = len(pixels)
    uneven = {name: len(array) for name, array in columns.items() if len(array) != frames}
    if uneven or frames == 0:
        raise DataError(
            f"an episode of {frames} frames has columns of another length: {uneven}"
            if uneven
            else "an episode without frames"
        )
    first = columns["is_first"]
    if first.dtype != np.bool_ or first.shape != (frames,) or not first[0] or first[1:].any():
        raise DataError("is_first must be a bool for each frame, true for the first frame of the episode and no other")
    return frames
