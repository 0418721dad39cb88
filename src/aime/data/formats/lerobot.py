"""LeRobot v3: numbers in Parquet files, frames in videos (or as pictures in the Parquet), many episodes in each file.

    meta/info.json                          features, frames a second, where the files are
    meta/episodes/chunk-000/file-000.parquet    for each episode: its length, its files and its place in the videos
    data/chunk-000/file-000.parquet         a row for each frame: action, observation.state, next.reward, episode_index
    videos/<camera>/chunk-000/file-000.mp4  one episode after another

Needs pyarrow: ``pip install 'aime[formats]'``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aime.data.formats.episode import Columns, Episode, Reader, ReadOptions, SourceInfo
from aime.data.formats.frames import decode_image
from aime.data.formats.hdf5 import choose_camera
from aime.data.formats.mp4 import decode
from aime.data.formats.passport import PASSPORT, from_passport, read_json
from aime.errors import DataError

ACTION, STATE, REWARD = "action", "observation.state", "next.reward"
INFO = Path("meta/info.json")


def parquet() -> Any:
    """pyarrow's Parquet module.

    Raises:
        DataError: pyarrow is not installed.
    """
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            "LeRobot's format needs pyarrow, which is not installed: pip install 'aime[formats]'"
        ) from error


class LeRobotReader(Reader):
    """See the module."""

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self._parquet = parquet()
        said = self._said = read_json(source / INFO)
        version = str(said.get("codebase_version", "none"))
        if not version.startswith("v3"):
            raise DataError(
                f"{source / INFO} is of version {version}; AIME reads v3 (LeRobot's own converter brings older data "
                "to it)"
            )
        features = said.get("features", {})
        if ACTION not in features:
            raise DataError(f"{source / INFO}: features has no {ACTION!r}; it has {', '.join(features) or 'none'}")
        cameras = [
            name
            for name, feature in features.items()
            if feature.get("dtype") in ("video", "image") and not _is_depth(feature)
        ]
        asked = options.camera
        if asked is not None and asked not in cameras:
            asked = next((name for name in cameras if name.rsplit(".", 1)[-1] == asked), asked)
        self._camera = choose_camera(str(source), cameras, asked)
        self._is_video = features[self._camera]["dtype"] == "video"
        self._extra = [name for name in (STATE, REWARD) if name in features]
        self._places = self._read_places()
        passport = source / "meta" / f"{PASSPORT}.json"
        export = read_json(passport) if passport.is_file() else {}
        self._origins: list[Any] = export.get("episodes", [])
        fps = said.get("fps")
        self.info = SourceInfo.from_passport(export.get("info", {}), time_step=1 / fps if fps else None)

    @property
    def total(self) -> int | None:
        return len(self._places)

    def episodes(self, *, pixels: bool = True) -> Iterator[Episode]:
        for place in self._places:
            yield self._read(place, pixels)

    def _read_places(self) -> list[dict[str, Any]]:
        files = sorted((self.source / "meta" / "episodes").glob("*/*.parquet"))
        places = [row for file in files for row in self._places_in(file)]
        if not places:
            raise DataError(f"{self.source / 'meta/episodes'} says of no episode where it is")
        return sorted(places, key=lambda place: int(place["episode_index"]))

    def _places_in(self, file: Path) -> list[dict[str, Any]]:
        """Rows of one file, without the many columns of statistics."""
        try:
            names = [name for name in self._parquet.read_schema(file).names if not name.startswith("stats/")]
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is truncated or foreign ({error}); it was left as it is") from error
        rows: list[dict[str, Any]] = self._table(file, names, None).to_pylist()
        missing = {"episode_index", "length"} - set(names)
        if missing:
            raise DataError(f"{file} has no column {sorted(missing)[0]}; it has {', '.join(names[:12])}")
        return rows

    def _read(self, place: dict[str, Any], pixels: bool) -> Episode:
        number, frames = int(place["episode_index"]), int(place["length"])
        path = self._path("data_path", place, "data")
        where = f"{path}: episode {number}"
        names = [ACTION, *self._extra, "frame_index"]
        if pixels and not self._is_video:
            names.append(self._camera)
        table = self._table(path, names, ("episode_index", "=", number))
        if len(table) != frames:
            raise DataError(f"{where} has {len(table)} rows where meta/episodes says {frames}")
        order = np.argsort(table["frame_index"].to_numpy(), kind="stable")
        columns: Columns = {"action": _numbers(table[ACTION], f"{where}, key {ACTION}")[order]}
        if REWARD in self._extra:
            columns["reward"] = _numbers(table[REWARD], f"{where}, key {REWARD}")[order, 0]
        if pixels:
            if STATE in self._extra:
                columns["state"] = _numbers(table[STATE], f"{where}, key {STATE}")[order]
            columns["pixels"] = self._pixels(place, table, order, where)
        tasks = place.get("tasks") or []
        origin, _ = from_passport(
            self._origins[number] if number < len(self._origins) else {},
            policy="demonstration",
            details={"tasks": list(tasks)},
        )
        return Episode(where, frames, columns, origin)

    def _pixels(self, place: dict[str, Any], table: Any, order: np.ndarray, where: str) -> np.ndarray:
        fit = self.options.fit
        if self._is_video:
            path = self._path("video_path", place, f"videos/{self._camera}")
            start = float(place.get(f"videos/{self._camera}/from_timestamp") or 0.0)
            return fit.stack(decode(path, start, len(order)), f"{path}: episode {place['episode_index']}")
        column = table[self._camera]
        images = (self._image(column[int(row)].as_py(), f"{where}, key {self._camera}") for row in order)
        return fit.stack(images, f"{where}, key {self._camera}")

    def _image(self, cell: Any, where: str) -> np.ndarray:
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not data and isinstance(cell, dict) and cell.get("path"):
            path = self.source / cell["path"]
            data = path.read_bytes() if path.is_file() else None
        if not isinstance(data, bytes):
            raise DataError(f"{where} holds no picture")
        return decode_image(data, where)

    def _path(self, template: str, place: dict[str, Any], kind: str) -> Path:
        try:
            name = str(self._said[template]).format(
                video_key=self._camera,
                chunk_index=int(place[f"{kind}/chunk_index"]),
                file_index=int(place[f"{kind}/file_index"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{self.source / INFO} and meta/episodes do not say where episode {place.get('episode_index')} is "
                f"({error} in {template})"
            ) from error
        return self.source / name

    def _table(self, path: Path, columns: list[str], where: tuple[str, str, int] | None) -> Any:
        try:
            filters = None if where is None else [where]
            return self._parquet.read_table(path, columns=columns, filters=filters)
        except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are kinds of these
            raise DataError(f"{path} is missing, truncated or foreign ({error}); it was left as it is") from error


def _is_depth(feature: dict[str, Any]) -> bool:
    said = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(said.get("is_depth_map") or said.get("video.is_depth_map"))


def _numbers(column: Any, where: str) -> np.ndarray:
    """A Parquet column of numbers, or of lists of them, as (T, N)."""
    try:
        array = np.asarray(column.to_pylist())
    except ValueError as error:
        raise DataError(f"{where} has rows of different lengths") from error
    if array.dtype.kind not in "fiub" or array.ndim not in (1, 2):
        raise DataError(f"{where} must hold numbers, found {array.dtype} {array.shape}")
    kind = np.float32 if "float" in str(column.type) and "double" not in str(column.type) else array.dtype
    return array.reshape(len(array), -1).astype(kind)
