"""A folder of videos, each beside a CSV of its actions: ``walk.mp4`` and ``walk.csv``.

The CSV has a row for each frame, the action taken after it (the last frame needs none). A line of names may come first;
then ``reward`` is the reward, columns that number the frames or tell the time are left out, and the rest is the action,
as it is without a line of names.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.formats.episode import Columns, Episode, Reader, ReadOptions, SourceInfo, Writer
from aime.data.formats.mp4 import VideoWriter, decode, frame_rate, whole_rate
from aime.data.formats.passport import PASSPORT, episode_passport, from_passport, info_passport, read_json
from aime.data.formats.registry import VIDEO_SUFFIXES
from aime.data.index import StoreInfo
from aime.errors import DataError

log = logging.getLogger("aime")

_CLOCKS = ("frame", "frame_index", "index", "step", "t", "time", "timestamp")


def video_files(source: Path) -> list[Path]:
    """The videos of a folder, or the one that is named."""
    if source.is_file():
        return [source]
    return sorted(path for path in source.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)


class VideoReader(Reader):
    """See the module."""

    measures: ClassVar[bool] = True

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self._files = video_files(source)
        if not self._files:
            raise DataError(f"{source} has no videos ({', '.join(VIDEO_SUFFIXES)})")
        lonely = [path.name for path in self._files if not path.with_suffix(".csv").is_file()]
        if lonely:
            raise DataError(
                f"{', '.join(lonely[:5])}{' …' if len(lonely) > 5 else ''} in {source} without a CSV of actions: "
                f"{Path(lonely[0]).with_suffix('.csv')} should hold a row of numbers for each frame"
            )
        passport = source / f"{PASSPORT}.json"
        said = read_json(passport) if passport.is_file() else {}
        self._said: dict[str, Any] = said.get("episodes", {})
        rate = frame_rate(self._files[0])
        self.info = SourceInfo.from_passport(said.get("info", {}), time_step=1 / rate if rate else None)

    @property
    def total(self) -> int | None:
        return len(self._files)

    def episodes(self, *, pixels: bool = True) -> Iterator[Episode]:
        for path in self._files:
            columns = _read_csv(path.with_suffix(".csv"))
            frames = len(columns["action"])
            if pixels:
                columns["pixels"] = self.options.fit.stack(decode(path), str(path))
                frames = len(columns["pixels"])
                if frames - len(columns["action"]) not in (0, 1):
                    raise DataError(
                        f"{path} has {frames} frames, but {path.with_suffix('.csv').name} has "
                        f"{len(columns['action'])} rows of actions: one for each frame is needed (the last may lack)"
                    )
            origin, _ = from_passport(self._said.get(path.name, {}))
            yield Episode(str(path), frames, columns, origin)


def _read_csv(path: Path) -> Columns:
    """Actions (T, A), and rewards (T,) where there are any."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
    names = [cell.strip() for cell in rows[0]] if rows and not _is_number(rows[0][0]) else None
    numbers: list[list[float]] = []
    for line, row in enumerate(rows[1:] if names else rows, start=2 if names else 1):
        if len(row) != len(rows[0]):
            raise DataError(f"{path}, line {line}: {len(row)} values where the first line has {len(rows[0])}")
        try:
            numbers.append([float(cell) for cell in row])
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}") from None
    if not numbers:
        raise DataError(f"{path} holds no actions")
    table = np.array(numbers)
    if names is None:
        return {"action": table}
    keep = [place for place, name in enumerate(names) if name.lower() not in (*_CLOCKS, "reward")]
    columns = {"action": table[:, keep]}
    if "reward" in (name.lower() for name in names):
        columns["reward"] = table[:, [name.lower() for name in names].index("reward")]
    return columns


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


class VideoFolderWriter(Writer):
    """Writes ``episode-000000.mp4`` (lossy) and ``.csv`` (exact) for each episode. Other columns are left out."""

    lossless: ClassVar[bool] = False

    def __init__(self, path: Path, info: StoreInfo, columns: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(path, info, columns)
        path.mkdir(parents=True)
        left = sorted(set(columns) - {"pixels", "action", "reward", "is_first"})
        if left:
            log.info("a video has no place for %s: left out", ", ".join(left))
        self._video: VideoWriter | None = None
        self._episodes: dict[str, Any] = {}

    def add(self, columns: Columns, record: EpisodeRecord) -> None:
        file = self.path / f"episode-{record.id:06d}.mp4"
        self._video = VideoWriter(file, columns["pixels"].shape[1], whole_rate(self.info.time_step))
        self._video.write(columns["pixels"])
        self._video.close()
        self._video = None
        with file.with_suffix(".csv").open("w", newline="", encoding="utf-8") as table:
            rows = csv.writer(table)
            rows.writerow([*(f"action_{number}" for number in range(columns["action"].shape[1])), "reward"])
            # repr of a float is exact.
            rows.writerows(np.column_stack([columns["action"], columns["reward"]]).astype(float).tolist())
        self._episodes[file.name] = episode_passport(record)

    def close(self) -> None:
        passport = {"info": info_passport(self.info), "episodes": self._episodes}
        (self.path / f"{PASSPORT}.json").write_text(json.dumps(passport, indent=1), encoding="utf-8")

    def discard(self) -> None:
        if self._video is not None:
            self._video.discard()
