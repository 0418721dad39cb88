"""Minari's HDF5: ``data/main_data.hdf5`` with a group for each episode, beside ``metadata.json``. Read and written
without Minari; frames stay as they are.

An episode of Minari has one observation more than it has actions. What a store knows beyond that (its last action) is
kept in the attributes of the episode's group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.formats.episode import (
    PASSPORT,
    Columns,
    Episode,
    Reader,
    ReadOptions,
    SourceInfo,
    Tail,
    Writer,
    episode_passport,
    from_passport,
    info_passport,
    read_json,
    read_passport,
)
from aime.data.formats.frames import decode_image
from aime.data.formats.hdf5 import (
    NewFile,
    choose_camera,
    find,
    frames_of,
    is_extra,
    is_picture,
    join_state,
    open_hdf5,
    read,
)
from aime.data.index import StoreInfo
from aime.errors import DataError

MAIN = "main_data.hdf5"
METADATA = "metadata.json"
_USUAL = ("pixels", "image", "rgb", "observations")


def locate(source: Path) -> Path | None:
    """The main file of a Minari dataset, given its folder, the folder's ``data`` or the file itself; None if none."""
    places = (source, source / MAIN, source / "data" / MAIN)
    return next((place for place in places if place.name == MAIN and place.is_file()), None)


class MinariReader(Reader):
    """See the module."""

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        main = locate(source)
        if main is None:
            raise DataError(f"{source} has no data/{MAIN}; of Minari's formats AIME reads hdf5 alone")
        self._main = main
        places = (main.parent / METADATA, main.parent.parent / METADATA)
        metadata = next((read_json(place) for place in places if place.is_file()), None)
        if metadata is None:
            raise DataError(f"{main.parent} has no {METADATA}")
        with open_hdf5(main) as file:
            groups = [name for name in file if re.fullmatch(r"episode_\d+", name)]
            if not groups:
                raise DataError(f"{main} is foreign: it has no episode_0, so Minari did not write it")
            self._groups = sorted(groups, key=lambda name: int(name.split("_")[1]))
            seen = _observations(file[self._groups[0]])
            pictures = [name for name in seen if _is_image(seen[name])]
            self._camera = choose_camera(f"{main}: {self._groups[0]}/observations", pictures, options.camera, _USUAL)
            said = read_passport(file.attrs.get(PASSPORT))
        self._foreign = not said
        self.info = SourceInfo.from_passport(said, task=metadata.get("dataset_id"), bounds=_bounds(metadata))

    @property
    def total(self) -> int | None:
        return len(self._groups)

    def episodes(self, *, pixels: bool = True) -> Iterator[Episode]:
        with open_hdf5(self._main) as file:
            for name in self._groups:
                yield self._read(file[name], pixels)

    def _read(self, group: h5py.Group, pixels: bool) -> Episode:
        where = f"{self._main}: {group.name.strip('/')}"
        columns = {"action": read(find(group, "actions"))}
        frames = len(columns["action"]) + 1
        if "rewards" in group:
            columns["reward"] = read(find(group, "rewards"))
        said = read_passport(group.attrs.get(PASSPORT))
        origin, tail = from_passport(said, seed=int(group.attrs["seed"]) if "seed" in group.attrs else 0)
        if pixels:
            seen = _observations(group)
            image = seen.get(self._camera)
            if image is None or len(image) != frames:
                raise DataError(
                    f"{where}: {frames - 1} actions need {frames} frames in {self._camera}, found "
                    f"{0 if image is None else len(image)}"
                )
            numbers = {
                key: read(seen[key])
                for key in seen
                if key != self._camera and not _is_image(seen[key]) and is_extra(key, seen[key], frames)
            }
            if self._foreign and numbers:
                state, parts = join_state(numbers)
                numbers = {"state": state.astype(np.float32)}
                self.info.details.setdefault("state", parts)
            columns |= numbers
            key = f"{where}, key {self._camera}"
            columns["pixels"] = self.options.fit.stack(_images(image, frames, key), key)
        return Episode(where, frames, columns, origin, tail)


def _images(image: h5py.Dataset, frames: int, where: str) -> Iterator[np.ndarray]:
    if not _is_packed(image):
        return frames_of(image, 0, frames)
    return (decode_image(np.asarray(image[number], np.uint8).tobytes(), where) for number in range(frames))


def _is_image(dataset: h5py.Dataset) -> bool:
    return not dataset.name.endswith("/segmentation") and (is_picture(dataset) or _is_packed(dataset))


def _is_packed(dataset: h5py.Dataset) -> bool:
    """Whether each row is a JPEG file, which is what Minari makes of frames unless told otherwise."""
    if len(dataset) == 0 or not (dataset.ndim == 1 and h5py.check_vlen_dtype(dataset.dtype) or dataset.ndim == 2):
        return False
    first = dataset[0]
    return first.dtype == np.uint8 and first[:2].tobytes() == b"\xff\xd8"


def _observations(group: h5py.Group) -> dict[str, h5py.Dataset]:
    seen = group.get("observations")
    if isinstance(seen, h5py.Dataset):
        return {"observations": seen}
    if not isinstance(seen, h5py.Group):
        raise DataError(f"{group.file.filename}: {group.name} has no observations")
    found: dict[str, h5py.Dataset] = {}
    seen.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def _bounds(metadata: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Bounds of the action space, where they are finite."""
    space = read_passport(metadata.get("action_space"))
    if space.get("type") != "Box" or not {"low", "high"} <= space.keys():
        return None
    low, high = (np.atleast_1d(np.asarray(space[name], np.float64)).ravel() for name in ("low", "high"))
    return (low, high) if np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all() else None


class MinariWriter(Writer):
    """Writes a folder that Minari loads by its path: frames and other columns as a dictionary of observations."""

    def __init__(self, path: Path, info: StoreInfo, columns: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(path, info, columns)
        self._file = NewFile(path / "data" / MAIN, track_order=True)
        self._file.h5.attrs[PASSPORT] = json.dumps(info_passport(info))
        self._steps = 0

    def add(self, columns: Columns, record: EpisodeRecord) -> None:
        number = len(self._file.h5)
        group = self._file.h5.create_group(f"episode_{number}")
        steps = record.length - 1
        tail = Tail(columns["action"][-1], float(columns["reward"][-1]))
        group.attrs.update({"id": number, "total_steps": steps, "seed": record.seed})
        group.attrs[PASSPORT] = json.dumps(episode_passport(record, tail))
        seen = group.create_group("observations")
        for name, array in columns.items():
            if name not in ("action", "reward", "is_first"):
                self._file.put(seen, name, array)
        self._file.put(group, "actions", columns["action"][:-1])
        self._file.put(group, "rewards", columns["reward"][:-1])
        self._file.put(group, "terminations", np.zeros(steps, bool))
        self._file.put(group, "truncations", np.arange(steps) == steps - 1)
        self._steps += steps
        self._file.check()

    def close(self) -> None:
        episodes = len(self._file.h5)
        self._file.close()
        kept = {name: column for name, column in self.columns.items() if name not in ("action", "reward", "is_first")}
        metadata = {
            "dataset_id": f"{re.sub(r'[^0-9A-Za-z_.-]', '-', self.info.task)}-v0",
            "minari_version": ">=0.5",
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": episodes,
            "total_steps": self._steps,
            "dataset_size": round(self._file.path.stat().st_size / 1e6, 1),
            "observation_space": json.dumps(
                {"type": "Dict", "subspaces": {name: _box(**column) for name, column in kept.items()}}
            ),
            "action_space": json.dumps(_box("float32", self.columns["action"]["shape"], -1.0, 1.0)),
        }
        (self._file.path.parent / METADATA).write_text(json.dumps(metadata, indent=1), encoding="utf-8")

    def discard(self) -> None:
        self._file.discard()


def _box(dtype: str, shape: list[int], low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """Gymnasium's Box as Minari writes it."""
    kind = np.dtype(dtype)
    if low is None or high is None:
        info = np.iinfo(kind) if kind.kind in "iu" else None
        low, high = (info.min, info.max) if info else (-np.inf, np.inf) if kind.kind == "f" else (0, 1)
    full = [np.full(shape, bound).tolist() for bound in (low, high)]
    return {"type": "Box", "dtype": dtype, "shape": list(shape), "low": full[0], "high": full[1]}
