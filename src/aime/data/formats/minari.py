"""Minari's HDF5: ``data/main_data.hdf5`` with a group for each episode, beside ``metadata.json``. Read and written
without Minari; frames stay as they are.

An episode of Minari has one observation more than it has actions. What a store knows beyond that (its last action) is
kept in the attributes of the episode's group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aime.data.formats.episode import Episode, Reader, ReadOptions, SourceInfo
from aime.data.formats.frames import decode_image
from aime.data.formats.hdf5 import (
    choose_camera,
    find,
    frames_of,
    is_extra,
    is_picture,
    join_state,
    open_hdf5,
    read,
)
from aime.data.formats.passport import (
    PASSPORT,
    from_passport,
    read_json,
    read_passport,
)
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
    if dataset.ndim != (2 if h5py.check_vlen_dtype(dataset.dtype) is None else 1) or len(dataset) == 0:
        return False
    first = np.asarray(dataset[0])
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
