"""The formats by name, and which one a source is in."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aime.data.formats.episode import Reader, ReadOptions, Writer
from aime.data.formats.hdf5 import SUFFIXES as HDF5_SUFFIXES
from aime.data.formats.hdf5 import open_hdf5
from aime.data.index import INDEX_NAME, StoreInfo
from aime.errors import ConfigError, DataError, unknown

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm")


@dataclass(frozen=True)
class Format:
    """A format. Its module is imported when it is used, so that none needs what only another one needs."""

    summary: str
    reader: str
    """Module and class that read it."""
    writer: str | None = None
    """Module and class that write it; None where AIME only reads it."""
    suffix: str = ""
    """Suffix of the file that is written; empty for a folder."""


FORMATS: dict[str, Format] = {
    "rlds": Format("DMC-VB and other RLDS TFRecord files", "rlds.RldsReader"),
    "lerobot": Format("LeRobot v3 folder", "lerobot.LeRobotReader", "lerobot_writer.LeRobotWriter"),
    "minari": Format("Minari dataset (HDF5)", "minari.MinariReader", "minari_writer.MinariWriter"),
    "swm": Format("stable-worldmodel HDF5 file", "swm.SwmReader", "swm.SwmWriter", ".h5"),
    "npz": Format("folder of .npz episodes, as Dreamer keeps them", "npz.NpzReader", "npz.NpzWriter"),
    "video": Format("folder of videos with a CSV of actions each", "video.VideoReader", "video.VideoFolderWriter"),
    "robomimic": Format("robomimic HDF5 file", "robomimic.RobomimicReader", "robomimic.RobomimicWriter", ".hdf5"),
}


def find_format(name: str) -> Format:
    """A format by its name.

    Raises:
        ConfigError: there is none of that name; the nearest are given.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def open_reader(name: str, source: Path, options: ReadOptions | None = None) -> Reader:
    """A reader of a source in a format.

    Raises:
        ConfigError: no such format.
        DataError: the source is missing, truncated or foreign.
    """
    format = find_format(name)
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    reader: Reader = _load(format.reader)(source, options or ReadOptions())
    return reader


def open_writer(name: str, path: Path, info: StoreInfo, columns: Mapping[str, Mapping[str, Any]]) -> Writer:
    """A writer of a format, to a path that does not exist yet.

    Raises:
        ConfigError: no such format, or one that AIME only reads.
    """
    place = find_format(name).writer
    if place is None:
        raise ConfigError(f"AIME reads {name} but does not write it; it writes {', '.join(writable())}")
    writer: Writer = _load(place)(path, info, columns)
    return writer


def writable() -> list[str]:
    """Names of the formats that AIME writes."""
    return [name for name, format in FORMATS.items() if format.writer is not None]


def _load(place: str) -> Any:
    module, name = place.split(".")
    return getattr(importlib.import_module(f"aime.data.formats.{module}"), name)


def guess_format(source: Path) -> str:
    """The name of the format that a source is in, from what lies in it.

    Raises:
        DataError: it is missing, a store already, or in no format that AIME knows.
    """
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    found = _of_folder(source) if source.is_dir() else _of_file(source)
    if found is None:
        raise DataError(
            f"{source} is in no format that AIME knows by sight; say which with --format: {', '.join(FORMATS)}"
        )
    return found


def _of_folder(source: Path) -> str | None:
    if (source / INDEX_NAME).is_file():
        raise DataError(f"{source} is a store of AIME already: aime train --data-dir {source}")
    if (source / "meta" / "info.json").is_file():
        return "lerobot"
    if any((place / "main_data.hdf5").is_file() for place in (source, source / "data")):
        return "minari"
    names = [path.name.lower() for path in source.iterdir()]
    if any(name.endswith(".npz") for name in names):
        return "npz"
    if any(name.endswith(VIDEO_SUFFIXES) for name in names):
        return "video"
    return "rlds" if next(source.rglob("*.tfrecord*"), None) is not None else None


def _of_file(source: Path) -> str | None:
    name = source.name.lower()
    if ".tfrecord" in name:
        return "rlds"
    if name.endswith(".npz"):
        return "npz"
    if name.endswith(VIDEO_SUFFIXES):
        return "video"
    if not name.endswith(HDF5_SUFFIXES):
        return None
    with open_hdf5(source) as file:
        if "ep_offset" in file:
            return "swm"
        if "episode_0" in file:
            return "minari"
        return "robomimic" if "data" in file else None
