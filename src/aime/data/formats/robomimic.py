"""robomimic's HDF5: ``data/demo_k`` with ``actions``, ``rewards``, ``obs/<camera>_image`` and the other observations;
``mask/train`` and ``mask/valid`` name the demonstrations of a split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.formats.episode import Columns, Episode, Reader, ReadOptions, SourceInfo, Writer
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
from aime.data.formats.passport import PASSPORT, episode_passport, from_passport, info_passport, read_passport
from aime.data.index import StoreInfo
from aime.errors import DataError

CAMERA = "camera"
_SPLITS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}
_GYM = 2
"""robomimic's number for environments of that kind, the nearest to none."""


class RobomimicReader(Reader):
    """See the module."""

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        with open_hdf5(source) as file:
            data = file.get("data")
            demos = [name for name in data if name.startswith("demo")] if isinstance(data, h5py.Group) else []
            if not demos:
                raise DataError(f"{source} is foreign: it has no data/demo_0, so robomimic did not write it")
            self._demos = sorted(demos, key=lambda name: (len(name), name))
            seen = _observations(data[self._demos[0]])
            pictures = [name.removesuffix("_image") for name in seen if _is_image(seen, name)]
            asked = options.camera.removesuffix("_image") if options.camera is not None else None
            self._camera = choose_camera(f"{source}: data/{self._demos[0]}/obs", pictures, asked)
            self._splits = {
                demo.decode() if isinstance(demo, bytes) else str(demo): split
                for name, split in _SPLITS.items()
                if isinstance(file.get(f"mask/{name}"), h5py.Dataset)
                for demo in file[f"mask/{name}"][()].tolist()
            }
            environment = read_passport(data.attrs.get("env_args"))
            said = read_passport(data.attrs.get(PASSPORT))
        self._foreign = not said
        self.info = SourceInfo.from_passport(said, task=environment.get("env_name"))

    @property
    def total(self) -> int | None:
        return len(self._demos)

    def episodes(self, *, pixels: bool = True) -> Iterator[Episode]:
        with open_hdf5(self.source) as file:
            for name in self._demos:
                yield self._read(file[f"data/{name}"], pixels)

    def _read(self, demo: h5py.Group, pixels: bool) -> Episode:
        where = f"{self.source}: {demo.name}"
        columns = {"action": read(find(demo, "actions"))}
        frames = len(columns["action"])
        if "rewards" in demo:
            columns["reward"] = read(find(demo, "rewards"))
        name = demo.name.rsplit("/", 1)[-1]
        origin, _ = from_passport(
            read_passport(demo.attrs.get(PASSPORT)), policy="demonstration", split=self._splits.get(name)
        )
        if pixels:
            seen = _observations(demo)
            image = find(demo["obs"], self._image(seen))
            if len(image) != frames:
                raise DataError(f"{where}: {len(image)} frames in obs/{self._image(seen)} and {frames} actions")
            extra = {
                key: read(seen[key]) for key in seen if is_extra(key, seen[key], frames) and not _is_image(seen, key)
            }
            if self._foreign and extra:
                state, parts = join_state(extra)
                extra = {"state": state.astype(np.float32)}
                self.info.details.setdefault("state", parts)
            columns |= extra
            columns["pixels"] = self.options.fit.stack(frames_of(image, 0, frames), f"{where}, key {image.name}")
        return Episode(where, frames, columns, origin)

    def _image(self, seen: Mapping[str, h5py.Dataset]) -> str:
        return f"{self._camera}_image" if f"{self._camera}_image" in seen else self._camera


def _observations(demo: h5py.Group) -> dict[str, h5py.Dataset]:
    seen = demo.get("obs")
    if not isinstance(seen, h5py.Group):
        raise DataError(
            f"{demo.file.filename}: {demo.name} has no obs: extract the observations first (robomimic's "
            "dataset_states_to_obs.py does it)"
        )
    return {name: seen[name] for name in seen if isinstance(seen[name], h5py.Dataset)}


def _is_image(seen: Mapping[str, h5py.Dataset], name: str) -> bool:
    return name != "segmentation" and is_picture(seen[name])


class RobomimicWriter(Writer):
    """Writes what robomimic reads: frames as ``obs/camera_image``, other columns under ``obs`` by their own names."""

    def __init__(self, path: Path, info: StoreInfo, columns: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(path, info, columns)
        self._file = NewFile(path)
        self._data = self._file.h5.create_group("data")
        self._data.attrs["env_args"] = json.dumps({"env_name": info.task, "type": _GYM, "env_kwargs": {}})
        self._data.attrs[PASSPORT] = json.dumps(info_passport(info))
        self._total = 0
        self._splits: dict[str, list[str]] = {}

    def add(self, columns: Columns, record: EpisodeRecord) -> None:
        name = f"demo_{len(self._data)}"
        demo = self._data.create_group(name)
        demo.attrs["num_samples"] = record.length
        demo.attrs[PASSPORT] = json.dumps(episode_passport(record))
        self._file.put(demo, "actions", columns["action"])
        self._file.put(demo, "rewards", columns["reward"])
        self._file.put(demo, "dones", (np.arange(record.length) == record.length - 1).astype(np.int64))
        seen = demo.create_group("obs")
        self._file.put(seen, f"{CAMERA}_image", columns["pixels"])
        for key, array in columns.items():
            if key not in ("pixels", "action", "reward", "is_first"):
                self._file.put(seen, key, array)
        if record.split is not None:
            self._splits.setdefault(record.split, []).append(name)
        self._total += record.length
        self._file.check()

    def close(self) -> None:
        self._data.attrs["total"] = self._total
        for split, demos in self._splits.items():
            key = {"validation": "valid"}.get(split, split)
            self._file.h5[f"mask/{key}"] = np.array(demos, dtype="S")
        self._file.close()

    def discard(self) -> None:
        self._file.discard()
