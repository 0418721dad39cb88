"""stable-worldmodel's HDF5: one file, each column a flat dataset over all frames, episodes marked by ``ep_offset`` and
``ep_len``. A shard of a store has the same shape."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.formats.episode import Columns, Episode, Reader, ReadOptions, SourceInfo, Writer
from aime.data.formats.hdf5 import NewFile, choose_camera, find, frames_of, is_extra, is_picture, open_hdf5, read
from aime.data.formats.passport import PASSPORT, episode_passport, from_passport, info_passport, read_passport
from aime.data.index import StoreInfo
from aime.data.shards import CHUNK_FRAMES
from aime.errors import DataError

_MARKS = ("ep_offset", "ep_len", "is_first", "records")


class SwmReader(Reader):
    """See the module. An action stands with the frame after which it was taken."""

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        with open_hdf5(source) as file:
            offset, length = read(find(file, "ep_offset")), read(find(file, "ep_len"))
            action = find(file, "action")
            pictures = [name for name in file if is_picture(file[name]) and name != "segmentation"]
            self._camera = choose_camera(str(source), pictures, options.camera, usual=("pixels",))
            rows = min(len(action), len(file[self._camera]))
            if offset.shape != length.shape or offset.ndim != 1 or length.dtype.kind not in "iu" or not len(length):
                raise DataError(f"{source}: ep_offset {offset.shape} and ep_len {length.shape} do not mark episodes")
            if length.min() < 1 or offset.min() < 0 or int((offset + length).max()) > rows:
                raise DataError(
                    f"{source} is truncated: ep_offset and ep_len go to frame {int((offset + length).max())}, but "
                    f"action and {self._camera} end at {rows}"
                )
            self._places = list(zip(offset.tolist(), length.tolist(), strict=True))
            self._extra = [
                name
                for name in file
                if name not in (*_MARKS, self._camera, "action", "reward")
                and isinstance(file[name], h5py.Dataset)
                and is_extra(name, file[name], len(action))
            ]
            said = read_passport(file.attrs.get(PASSPORT))
        self._said: list[dict[str, Any]] = said.get("episodes", [{}] * len(self._places))
        self.info = SourceInfo.from_passport(said.get("info", {}))

    @property
    def total(self) -> int | None:
        return len(self._places)

    def episodes(self, *, pixels: bool = True) -> Iterator[Episode]:
        with open_hdf5(self.source) as file:
            for number, (start, frames) in enumerate(self._places):
                where = f"{self.source}: episode {number}"
                columns = {"action": read(file["action"], start, start + frames)}
                if "reward" in file:
                    columns["reward"] = read(find(file, "reward"), start, start + frames)
                if pixels:
                    for name in self._extra:
                        columns[name] = read(file[name], start, start + frames)
                    images = frames_of(file[self._camera], start, start + frames)
                    columns["pixels"] = self.options.fit.stack(images, f"{where}, key {self._camera}")
                origin, _ = from_passport(self._said[number] if number < len(self._said) else {})
                yield Episode(where, frames, columns, origin)


class SwmWriter(Writer):
    """Writes all the episodes into one file, every column as the store has it."""

    def __init__(self, path: Path, info: StoreInfo, columns: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(path, info, columns)
        # The latest layout may be opened for reading while it is written, which is how stable-worldmodel opens it.
        self._file = NewFile(path, libver="latest")
        self._places: list[tuple[int, int]] = []
        self._said: list[dict[str, Any]] = []
        for name, column in columns.items():
            shape, picture = tuple(column["shape"]), name in ("pixels", "segmentation")
            self._file.h5.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                dtype=column["dtype"],
                chunks=(CHUNK_FRAMES if picture else 256, *shape),
                compression="gzip" if picture else None,
                compression_opts=4 if picture else None,
            )

    def add(self, columns: Columns, record: EpisodeRecord) -> None:
        start = sum(self._places[-1]) if self._places else 0
        for name, array in columns.items():
            dataset = self._file.h5[name]
            dataset.resize(start + record.length, axis=0)
            dataset[start:] = array
        self._places.append((start, record.length))
        self._said.append(episode_passport(record))
        self._file.check()

    def close(self) -> None:
        file = self._file.h5
        file["ep_offset"] = np.array([start for start, _ in self._places], np.int64)
        file["ep_len"] = np.array([frames for _, frames in self._places], np.int32)
        file.attrs[PASSPORT] = json.dumps({"info": info_passport(self.info), "episodes": self._said})
        self._file.close()

    def discard(self) -> None:
        self._file.discard()
