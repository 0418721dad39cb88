"""HDF5 files of others: opened without touching them, read with file and key in every message, written whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aime.data.shards import CHUNK_FRAMES, ShardFile
from aime.errors import DataError

SUFFIXES = (".h5", ".hdf5", ".hdf")


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read.

    Raises:
        DataError: it is missing, truncated or foreign, or what is read of it in the block is damaged.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path} is truncated or foreign: it cannot be read as HDF5 ({error})") from error
    with file:
        try:
            yield file
        except (OSError, KeyError, RuntimeError) as error:  # any of them may come of damaged bytes
            raise DataError(f"{path} is damaged or foreign ({error}); it was left as it is") from error


def find(group: h5py.Group, key: str) -> h5py.Dataset:
    """A dataset of a group.

    Raises:
        DataError: there is none of that name; the nearest names are given.
    """
    found = group.get(key)
    if isinstance(found, h5py.Dataset):
        return found
    place = f"{group.file.filename}: {group.name}"
    names = sorted(group)
    near = get_close_matches(key, names, n=3) or names[:12]
    raise DataError(f"{place} has no dataset {key!r}; it has {', '.join(near) or 'nothing'}")


def read(dataset: h5py.Dataset, start: int | None = None, stop: int | None = None) -> np.ndarray:
    """Rows start to stop of a dataset.

    Raises:
        DataError: the file is damaged there, or compressed with a filter that is not installed.
    """
    try:
        return np.asarray(dataset[start:stop] if dataset.shape else dataset[()])
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{dataset.file.filename}: {dataset.name} cannot be read ({error}); the file is damaged, or compressed "
            "with a filter that HDF5 does not have here"
        ) from error


def frames_of(dataset: h5py.Dataset, start: int, stop: int) -> Iterator[np.ndarray]:
    """Frames start to stop, one at a time, read in pieces; refused where the dataset holds no pictures."""
    if dataset.ndim < 3:
        raise DataError(f"{dataset.file.filename}: {dataset.name} holds no frames: its shape is {dataset.shape}")
    for first in range(start, stop, CHUNK_FRAMES):
        yield from read(dataset, first, min(first + CHUNK_FRAMES, stop))


def is_picture(dataset: object) -> bool:
    """Whether a dataset looks like frames: (N, H, W, C), (N, C, H, W), or (N, H, W) uint8."""
    if not isinstance(dataset, h5py.Dataset):
        return False
    if dataset.ndim == 4:
        return dataset.dtype.kind in "uf" and bool({dataset.shape[1], dataset.shape[3]} & {1, 3, 4})
    return dataset.ndim == 3 and dataset.dtype == np.uint8 and min(dataset.shape[1:]) >= 16


def choose_camera(where: str, cameras: Iterable[str], asked: str | None, usual: Iterable[str] = ()) -> str:
    """Which of several cameras to read.

    Raises:
        DataError: there is none, not the one asked for, or several and none was asked for.
    """
    names = list(cameras)
    if asked is not None:
        if asked in names:
            return asked
        raise DataError(f"{where} has no camera {asked!r}; it has {', '.join(names) or 'none'}")
    for name in [*usual, *(names if len(names) == 1 else [])]:
        if name in names:
            return name
    if not names:
        raise DataError(f"{where} has no frames: AIME learns from video")
    raise DataError(f"{where} has several cameras: choose one with --camera: {', '.join(names)}")


def is_extra(name: str, array: np.ndarray | h5py.Dataset, frames: int) -> bool:
    """Whether a column beside frames, actions and rewards is worth keeping: numbers, one row per frame."""
    if array.dtype.kind not in "fiub" or array.ndim == 0 or len(array) != frames:
        return False
    return array.ndim <= 2 or (name == "segmentation" and array.ndim == 3 and array.dtype == np.uint8)


def join_state(parts: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Parts of a state (T, …) as one array (T, N) in the order of their names, and how many numbers each has."""
    flat = {name: parts[name].reshape(len(parts[name]), -1) for name in sorted(parts)}
    return np.concatenate(list(flat.values()), axis=1), {name: array.shape[1] for name, array in flat.items()}


class NewFile:
    """An HDF5 file being written. What the disk refuses is found by `check`, to be called after each episode."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._raw = ShardFile(path, "w+")
        self.h5 = h5py.File(self._raw, "w", **options)

    def put(self, group: h5py.Group, name: str, array: np.ndarray) -> None:
        """One dataset; pictures in compressed chunks."""
        picture = array.ndim >= 3 and array.dtype == np.uint8
        packed = {"chunks": (min(CHUNK_FRAMES, len(array)), *array.shape[1:]), "compression": "gzip"} if picture else {}
        group.create_dataset(name, data=array, **packed, **({"compression_opts": 4} if picture else {}))

    def check(self) -> None:
        """Raises OSError if anything could not be written."""
        self.h5.flush()
        if self._raw.failed is not None:
            raise self._raw.failed

    def close(self) -> None:
        """Finishes the file."""
        self.h5.close()
        self._raw.fsync()
        failed = self._raw.failed
        self._raw.close()
        if failed is not None:
            raise failed

    def discard(self) -> None:
        """Closes the file, whatever it holds."""
        self.h5.close()
        self._raw.close()
