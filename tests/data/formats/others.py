"""Small sources in the formats of others, written as those others write them."""

from __future__ import annotations

import csv
import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from aime.data.formats.mp4 import VideoWriter
from tests.data.formats.scenes import smooth_frames

T, A = 12, 3
"""Frames and actions of each episode."""


def some_actions(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-scale, scale, (T, A))


def write_video(path: Path, pixels: np.ndarray, fps: int = 25) -> None:
    writer = VideoWriter(path, pixels.shape[1], Fraction(fps))
    writer.write(pixels)
    writer.close()


def write_npz(folder: Path, name: str = "20240101T000000-a-11.npz", **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    action = np.concatenate([np.zeros((1, A)), some_actions()[:-1]])
    content = {
        "image": smooth_frames(T, 64),
        "action": action.astype(np.float32),
        "reward": np.arange(T, dtype=np.float32),
        "discount": np.ones(T, np.float32),
        "is_first": np.arange(T) == 0,
        "is_terminal": np.zeros(T, bool),
    } | changes
    np.savez_compressed(folder / name, **{key: value for key, value in content.items() if value is not None})
    return folder


def write_robomimic(path: Path, *, cameras: tuple[str, ...] = ("agentview", "eye_in_hand"), demos: int = 11) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for number in range(demos):
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = some_actions(number)
            demo["rewards"] = np.zeros(T)
            demo["dones"] = np.zeros(T, np.int64)
            demo["states"] = np.zeros((T, 32))
            for camera in cameras:
                demo[f"obs/{camera}_image"] = np.full((T, 84, 84, 3), number, np.uint8)
            demo["obs/robot0_eef_pos"] = np.full((T, 3), 1.0)
            demo["obs/object"] = np.full((T, 2), 2.0)
        file["mask/train"] = np.array([f"demo_{number}" for number in range(demos - 1)], dtype="S")
        file["mask/valid"] = np.array([f"demo_{demos - 1}"], dtype="S")
    return path


def write_minari(folder: Path, *, packed: bool = False, high: float = 0.5) -> Path:
    (folder / "data").mkdir(parents=True)
    pixels = smooth_frames(T + 1, 64)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number in (0, 1, 10, 2):
            group = file.create_group(f"episode_{number}")
            group.attrs["seed"] = number
            if packed:
                rows = group.create_dataset("observations/image", T + 1, h5py.vlen_dtype(np.uint8))
                for t, frame in enumerate(pixels):
                    jpeg = io.BytesIO()
                    Image.fromarray(frame).save(jpeg, "JPEG", quality=95)
                    rows[t] = np.frombuffer(jpeg.getvalue(), np.uint8)
            else:
                group["observations/image"] = pixels
            group["observations/goal/place"] = np.ones((T + 1, 2))
            group["actions"] = some_actions(number, high)
            group["rewards"] = np.ones(T)
    box = {"type": "Box", "dtype": "float32", "shape": [A], "low": [-high] * A, "high": [high] * A}
    metadata = {"dataset_id": "arm/reach-v0", "data_format": "hdf5", "action_space": json.dumps(box)}
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def write_lerobot(folder: Path, kind: str = "video") -> Path:
    """Two cameras, three episodes, two of which share a video; written by hand rather than by the export."""
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    cameras = ["observation.images.top", "observation.images.wrist"]
    feature = {"dtype": kind, "shape": [64, 64, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v3.0",
        "fps": 25,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            **dict.fromkeys(cameras, feature),
            "action": {"dtype": "float32", "shape": [A]},
            "observation.state": {"dtype": "float32", "shape": [A]},
        },
    }
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    rows: dict[str, list[Any]] = {"action": [], "observation.state": [], "frame_index": [], "episode_index": []}
    places = []
    for number in range(3):
        rows["action"] += some_actions(number).astype(np.float32).tolist()
        rows["observation.state"] += np.full((T, A), number, np.float32).tolist()
        rows["frame_index"] += range(T)
        rows["episode_index"] += [number] * T
        place = {"episode_index": number, "length": T, "tasks": ["stack"], "data/chunk_index": 0, "data/file_index": 0}
        for camera in cameras:
            place |= {
                f"videos/{camera}/chunk_index": 0,
                f"videos/{camera}/file_index": number // 2,
                f"videos/{camera}/from_timestamp": (number % 2) * T / 25,
            }
        places.append(place)
    for k, camera in enumerate(cameras):
        frames = [smooth_frames(T, 64, 10 * k + number) for number in range(3)]
        if kind == "image":
            files = [io.BytesIO() for _ in range(3 * T)]
            for file, frame in zip(files, np.concatenate(frames), strict=True):
                Image.fromarray(frame).save(file, "PNG")
            rows[camera] = [{"bytes": file.getvalue(), "path": None} for file in files]
        else:
            write_video(folder / f"videos/{camera}/chunk-000/file-000.mp4", np.concatenate(frames[:2]))
            write_video(folder / f"videos/{camera}/chunk-000/file-001.mp4", frames[2])
    (folder / "data/chunk-000").mkdir(parents=True)
    parquet.write_table(arrow.table(rows), folder / "data/chunk-000/file-000.parquet")
    parquet.write_table(arrow.Table.from_pylist(places), folder / "meta/episodes/chunk-000/file-000.parquet")
    return folder


def write_clips(folder: Path, *, rows: int = T, header: bool = True, scale: float = 30.0) -> Path:
    folder.mkdir()
    for number in range(2):
        pixels = smooth_frames(T, 64, number)
        write_video(folder / f"clip{number}.mp4", np.concatenate([pixels, pixels], axis=2)[:, :, :64])
        with (folder / f"clip{number}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            if header:
                table.writerow(["frame", "left", "right", "Reward"])
            for t, (left, right, _) in enumerate(some_actions(number, scale)[:rows]):
                table.writerow([t, left, right, t / 2] if header else [left, right])
    return folder
