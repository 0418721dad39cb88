"""Episodes as Dreamer keeps them: a folder of ``.npz`` files, one or more episodes in each.

Keys: ``image`` (T, H, W, C), ``action`` (T, A), ``reward`` (T,), ``is_first`` (T,), … A row's action is the one that
led to its image, so the first is zeros. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.formats.episode import Columns, Episode, Leads, Reader, ReadOptions, SourceInfo, Writer
from aime.data.formats.hdf5 import is_extra
from aime.data.formats.passport import PASSPORT, Tail, episode_passport, from_passport, info_passport, read_json
from aime.data.index import StoreInfo
from aime.errors import DataError

_IMAGES = ("image", "pixels", "observation", "rgb")
_DAMAGED = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile raise on reading bytes that are not what they should be."""
_MARKS = ("is_first", "is_last", "is_terminal", "discount", "stepid", "consec")
"""Keys that Dreamer keeps for itself; a store derives what it needs of them."""


class NpzReader(Reader):
    """See the module."""

    action_leads: ClassVar[Leads] = "before"

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self._files = [source] if source.is_file() else sorted(source.glob("*.npz"))
        if not self._files:
            raise DataError(f"{source} has no .npz files")
        passport = source / f"{PASSPORT}.json"
        said = read_json(passport) if passport.is_file() else {}
        self._said: dict[str, Any] = said.get("episodes", {})
        self.info = SourceInfo.from_passport(said.get("info", {}))

    @property
    def total(self) -> int | None:
        return len(self._files)

    def episodes(self, *, pixels: bool = True) -> Iterator[Episode]:
        for path in self._files:
            yield from self._read(path, pixels)

    def _read(self, path: Path, pixels: bool) -> Iterator[Episode]:
        try:
            with np.load(path, allow_pickle=False) as file:
                camera = self._camera(path, file.files)
                if "action" not in file.files:
                    raise DataError(f"{path} has no key 'action'; it has {', '.join(file.files)}")
                action = _load(path, file, "action")
                frames = len(action)
                first = _load(path, file, "is_first") if "is_first" in file.files else np.zeros(frames, bool)
                if first.shape != (frames,):
                    raise DataError(f"{path}: key is_first has shape {first.shape}; ({frames},) is needed")
                columns = {"action": action}
                if pixels:
                    columns = {name: _load(path, file, name) for name in file.files if name not in (camera, *_MARKS)}
                    columns = {
                        name: array
                        for name, array in columns.items()
                        if name in ("action", "reward") or is_extra(name, array, frames)
                    }
                    image = _load(path, file, camera)
                    if image.ndim < 3:
                        raise DataError(f"{path}: key {camera} holds no frames: its shape is {image.shape}")
                    if len(image) != frames:
                        raise DataError(f"{path}: {len(image)} rows of {camera} and {frames} of action")
                    columns["pixels"] = self.options.fit.stack(image, f"{path}: key {camera}")
        except _DAMAGED as error:
            raise DataError(f"{path} is truncated or foreign: it cannot be read as .npz ({error})") from error
        said = self._said.get(path.name, {})
        starts = sorted({0, *np.flatnonzero(first).tolist()})
        for start, stop in zip(starts, [*starts[1:], frames], strict=True):
            name = str(path) if len(starts) == 1 else f"{path}, rows {start} to {stop}"
            rows = {key: array[start:stop] for key, array in columns.items()}
            origin, tail = from_passport(said)
            yield Episode(name, stop - start, rows, origin, tail)

    def _camera(self, path: Path, keys: list[str]) -> str:
        wanted = (self.options.camera,) if self.options.camera is not None else _IMAGES
        for name in wanted:
            if name in keys:
                return name
        raise DataError(f"{path} has no frames under {' or '.join(wanted)}; it has {', '.join(keys)}; choose --camera")


def _load(path: Path, file: Any, key: str) -> np.ndarray:
    try:
        array = file[key]
    except _DAMAGED as error:
        raise DataError(f"{path}: key {key} cannot be read ({error}); it was left as it is") from error
    if array.ndim == 0 and not key.startswith("log_"):
        raise DataError(f"{path}: key {key} holds one value; a row for each frame is needed")
    return array


class NpzWriter(Writer):
    """Writes a folder that Dreamer's loaders read, and `aime.json` with what they have no place for."""

    def __init__(self, path: Path, info: StoreInfo, columns: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(path, info, columns)
        path.mkdir(parents=True)
        self._episodes: dict[str, Any] = {}

    def add(self, columns: Columns, record: EpisodeRecord) -> None:
        frames = record.length
        # Dreamer takes the number of steps from the name, and the order of the episodes, too.
        name = f"episode-{record.id:06d}-{frames - 1}.npz"
        last = np.arange(frames) == frames - 1
        content = {key: array for key, array in columns.items() if key not in ("pixels", "action", "reward")}
        content |= {
            "image": columns["pixels"],
            "action": np.concatenate([np.zeros_like(columns["action"][:1]), columns["action"][:-1]]),
            "reward": np.append(np.zeros(1, columns["reward"].dtype), columns["reward"][:-1]),
            "is_last": last,
            "is_terminal": np.zeros(frames, bool),
            "discount": np.ones(frames, np.float32),
        }
        np.savez_compressed(self.path / name, **content)  # type: ignore[arg-type]
        tail = Tail(columns["action"][-1], float(columns["reward"][-1]))
        self._episodes[name] = episode_passport(record, tail)

    def close(self) -> None:
        passport = {"info": info_passport(self.info), "episodes": self._episodes}
        (self.path / f"{PASSPORT}.json").write_text(json.dumps(passport, indent=1), encoding="utf-8")
