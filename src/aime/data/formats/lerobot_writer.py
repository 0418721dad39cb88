"""Writes LeRobot v3 (see `aime.data.formats.lerobot`): actions, states and rewards exactly, frames as H.264."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.formats.episode import Columns, Writer
from aime.data.formats.lerobot import ACTION, INFO, REWARD, STATE, parquet
from aime.data.formats.lerobot_meta import Moments, number_features, video_feature, write_tasks
from aime.data.formats.mp4 import VideoWriter
from aime.data.formats.passport import PASSPORT, episode_passport, info_passport
from aime.data.index import StoreInfo

log = logging.getLogger("aime")

CAMERA = "observation.images.camera"
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODES = "meta/episodes/chunk-000/file-000.parquet"
_FILES_IN_CHUNK = 1000
_DATA_MB, _VIDEO_MB = 100, 200


class LeRobotWriter(Writer):
    """Writes a folder that LeRobot opens by its path. Columns other than state and reward have no place in it."""

    lossless: ClassVar[bool] = False

    def __init__(self, path: Path, info: StoreInfo, columns: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(path, info, columns)
        self._parquet = parquet()
        self._arrow = importlib.import_module("pyarrow")
        path.mkdir(parents=True)
        self._fps = max(1, round(1 / info.time_step))
        if abs(self._fps * info.time_step - 1) > 1e-3:
            log.info("LeRobot counts whole frames a second: %d, for a frame every %.4g s", self._fps, info.time_step)
        left = sorted(set(columns) - {"pixels", "action", "reward", "is_first", "state"})
        if left:
            log.info("LeRobot has no place for %s: left out", ", ".join(left))
        self._video: VideoWriter | None = None
        self._table: Any = None
        self._files = {"data": 0, "video": 0}
        self._frames = 0
        self._places: list[dict[str, Any]] = []
        self._origins: list[dict[str, Any]] = []
        self._moments: dict[str, Moments] = {}
        self._codec: tuple[str, str] = ("", "")

    def add(self, columns: Columns, record: EpisodeRecord) -> None:
        frames, number = record.length, len(self._places)
        video, start = self._write_video(columns["pixels"])
        data = self._write_rows(columns, frames, number)
        self._places.append(
            {
                "episode_index": number,
                "tasks": [self.info.task],
                "length": frames,
                "data/chunk_index": data // _FILES_IN_CHUNK,
                "data/file_index": data % _FILES_IN_CHUNK,
                "dataset_from_index": self._frames,
                "dataset_to_index": self._frames + frames,
                f"videos/{CAMERA}/chunk_index": video // _FILES_IN_CHUNK,
                f"videos/{CAMERA}/file_index": video % _FILES_IN_CHUNK,
                f"videos/{CAMERA}/from_timestamp": start / self._fps,
                f"videos/{CAMERA}/to_timestamp": (start + frames) / self._fps,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        self._origins.append(episode_passport(record))
        self._frames += frames

    def _write_video(self, pixels: np.ndarray) -> tuple[int, int]:
        """Number of the file, and the frame of it at which the episode begins."""
        if self._video is not None and self._video.bytes > _VIDEO_MB * 1e6:
            self._video.close()
            self._video = None
            self._files["video"] += 1
        if self._video is None:
            path = self.path / self._name(_VIDEO, "video")
            self._video = VideoWriter(path, pixels.shape[1], Fraction(self._fps))
            self._codec = self._video.codec, self._video.pixel_format
        start = self._video.frames
        self._video.write(pixels)
        for first in range(0, len(pixels), 16):
            some = pixels[first : first + 16]
            self._measure(CAMERA, some.reshape(-1, 3) / 255.0, len(some))
        return self._files["video"], start

    def _write_rows(self, columns: Columns, frames: int, number: int) -> int:
        at = np.arange(frames)
        rows: dict[str, np.ndarray] = {ACTION: columns["action"]}
        if "state" in columns:
            rows[STATE] = columns["state"].reshape(frames, -1)
        rows |= {
            REWARD: columns["reward"],
            "next.done": at == frames - 1,
            "timestamp": (at / self._fps).astype(np.float32),
            "frame_index": at,
            "episode_index": np.full(frames, number),
            "index": at + self._frames,
            "task_index": np.zeros(frames, np.int64),
        }
        for name, values in rows.items():
            self._measure(name, values.reshape(frames, -1), frames)
        table = self._arrow.table({name: self._array(values) for name, values in rows.items()})
        if self._table is not None and Path(self._table.where).stat().st_size > _DATA_MB * 1e6:
            self._table.close()
            self._table = None
            self._files["data"] += 1
        if self._table is None:
            path = self.path / self._name(_DATA, "data")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._table = self._parquet.ParquetWriter(str(path), table.schema)
        self._table.write_table(table)
        return self._files["data"]

    def _array(self, values: np.ndarray) -> Any:
        if values.ndim == 1:
            return self._arrow.array(values)
        return self._arrow.FixedSizeListArray.from_arrays(self._arrow.array(values.ravel()), values.shape[1])

    def _measure(self, name: str, values: np.ndarray, frames: int) -> None:
        self._moments.setdefault(name, Moments(values.shape[1], values.dtype.name)).add(values, frames)

    def _name(self, template: str, kind: str) -> str:
        chunk, file = divmod(self._files[kind], _FILES_IN_CHUNK)
        return template.format(video_key=CAMERA, chunk_index=chunk, file_index=file)

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
        if self._table is not None:
            self._table.close()
        episodes = self.path / _EPISODES
        episodes.parent.mkdir(parents=True, exist_ok=True)
        self._parquet.write_table(self._arrow.Table.from_pylist(self._places), str(episodes))
        write_tasks(self.path / "meta/tasks.parquet", [self.info.task])
        stats = {
            name: moments.summary((3, 1, 1) if name == CAMERA else None) for name, moments in self._moments.items()
        }
        passport = {"info": info_passport(self.info), "episodes": self._origins}
        for place, content in (
            (INFO, self._describe()),
            (Path("meta/stats.json"), stats),
            (Path("meta") / f"{PASSPORT}.json", passport),
        ):
            (self.path / place).write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _describe(self) -> dict[str, Any]:
        shapes = {name: (moments.dtype, [moments.size]) for name, moments in self._moments.items() if name != CAMERA}
        size = int(self.columns["pixels"]["shape"][0])
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self._places),
            "total_frames": self._frames,
            "total_tasks": 1,
            "chunks_size": _FILES_IN_CHUNK,
            "data_files_size_in_mb": _DATA_MB,
            "video_files_size_in_mb": _VIDEO_MB,
            "fps": self._fps,
            "splits": {"train": f"0:{len(self._places)}"},
            "data_path": _DATA,
            "video_path": _VIDEO,
            "features": {CAMERA: video_feature(size, *self._codec, self._fps), **number_features(shapes)},
        }

    def discard(self) -> None:
        if self._video is not None:
            self._video.discard()
        if self._table is not None:
            self._table.close()
