"""What LeRobot v3 wants to know beside the data: features, tasks and statistics."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aime.data.formats.lerobot import parquet


def video_feature(size: int, codec: str, pixel_format: str, fps: int) -> dict[str, Any]:
    """The feature of a camera in ``info.json``."""
    said = {
        "video.height": size,
        "video.width": size,
        "video.channels": 3,
        "video.codec": codec,
        "video.pix_fmt": pixel_format,
        "video.fps": fps,
        "video.is_depth_map": False,
        "has_audio": False,
    }
    return {"dtype": "video", "shape": [size, size, 3], "names": ["height", "width", "channels"], "info": said}


def number_features(shapes: Mapping[str, tuple[str, list[int]]]) -> dict[str, Any]:
    """The features of columns of numbers, from their types and shapes."""
    return {name: {"dtype": dtype, "shape": shape, "names": None} for name, (dtype, shape) in shapes.items()}


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """The names of the tasks, with what pandas needs to take them for the index, as LeRobot expects."""
    table = importlib.import_module("pyarrow").table({"task_index": list(range(len(tasks))), "task": list(tasks)})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    said = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    parquet().write_table(table.replace_schema_metadata({b"pandas": json.dumps(said).encode()}), str(path))


class Moments:
    """Least, greatest, mean and spread of rows of `size` numbers that come in pieces.

    Args:
        size: numbers in a row.
        dtype: what they are stored as.
    """

    def __init__(self, size: int, dtype: str) -> None:
        self.size = size
        self.dtype = dtype
        self._rows = self._frames = 0
        self._mean, self._squares = np.zeros(size), np.zeros(size)
        self._low, self._high = np.full(size, np.inf), np.full(size, -np.inf)

    def add(self, values: np.ndarray, frames: int) -> None:
        """Adds rows (N, size) that belong to a number of frames (Chan's update of mean and squared deviations)."""
        values = values.astype(np.float64)
        rows, mean = len(values), values.mean(axis=0)
        moved, total = mean - self._mean, self._rows + rows
        self._squares += ((values - mean) ** 2).sum(axis=0) + moved**2 * self._rows * rows / total
        self._mean += moved * rows / total
        self._rows, self._frames = total, self._frames + frames
        self._low = np.minimum(self._low, values.min(axis=0))
        self._high = np.maximum(self._high, values.max(axis=0))

    def summary(self, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
        """min, max, mean, std (each of `shape`) and count, for JSON."""
        shape = shape or (self.size,)
        parts = {"min": self._low, "max": self._high, "mean": self._mean, "std": np.sqrt(self._squares / self._rows)}
        return {**{name: part.reshape(shape).tolist() for name, part in parts.items()}, "count": [self._frames]}
