"""Sources that AIME did not write, in the shapes that others write them."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from aime.data.formats.exporting import ExportConfig, export_data
from aime.data.formats.importing import ImportConfig, import_data
from aime.data.formats.mp4 import VideoWriter
from aime.data.store import EpisodeStore
from aime.errors import DataError
from tests.data.formats.scenes import psnr, smooth_frames

T, A = 12, 3


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., EpisodeStore]:
    """Import a source, whose format is to be guessed."""

    def bring(source: Path, **options: Any) -> EpisodeStore:
        return import_data(ImportConfig(source, tmp_path / "store", **options))

    return bring


Bring = Callable[..., EpisodeStore]


def some_actions(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-scale, scale, (T, A))


def write_video(path: Path, pixels: np.ndarray, fps: int = 25) -> None:
    writer = VideoWriter(path, pixels.shape[1], Fraction(fps))
    writer.write(pixels)
    writer.close()


# npz: Dreamer


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


def test_dreamers_actions_move_to_the_frame_after_which_they_were_taken(bring: Bring, tmp_path: Path) -> None:
    store = bring(write_npz(tmp_path / "episodes"))
    episode = store.episode(0)
    np.testing.assert_array_equal(episode["action"][:-1], some_actions().astype(np.float32)[:-1])
    np.testing.assert_array_equal(episode["reward"][:-1], np.arange(1, T))
    assert not episode["action"][-1].any() and episode["reward"][-1] == 0
    assert set(store.columns) == {"pixels", "action", "reward", "is_first"}


def test_rows_that_hold_the_action_taken_after_the_frame_are_noticed(bring: Bring, tmp_path: Path) -> None:
    folder = write_npz(tmp_path / "episodes", action=some_actions())
    with pytest.raises(DataError, match=r"does not begin with zeros.*--action-leads after"):
        bring(folder)
    store = bring(folder, action_leads="after")
    np.testing.assert_array_equal(store.episode(0)["action"], some_actions().astype(np.float32))


def test_a_file_with_several_episodes_is_cut_where_they_begin(bring: Bring, tmp_path: Path) -> None:
    first = np.isin(np.arange(T), [0, 5])
    action = np.where(first[:, None], 0, some_actions())
    store = bring(write_npz(tmp_path / "episodes", is_first=first, action=action))
    assert [record.length for record in store.episodes] == [5, 7]
    np.testing.assert_array_equal(store.episode(1)["pixels"], smooth_frames(T, 64)[5:])
    np.testing.assert_array_equal(store.episode(1)["action"][:-1], action[6:].astype(np.float32))


# robomimic


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


def test_robomimic_demonstrations_in_order_with_their_splits_and_state(bring: Bring, tmp_path: Path) -> None:
    store = bring(write_robomimic(tmp_path / "demo.hdf5"), camera="agentview")
    assert store.task == "Lift" and store.image_size == 64
    assert [int(store.episode(id)["pixels"].max()) for id in range(11)] == list(range(11))
    assert store.record(10).split == "validation" and store.record(2).split == "train"
    assert store.episode(0)["state"][0].tolist() == [2, 2, 1, 1, 1]
    assert store.index.info.details["state"] == {"object": 2, "robot0_eef_pos": 3}
    assert store.record(0).policy == "demonstration"


def test_one_of_several_cameras_must_be_chosen(bring: Bring, tmp_path: Path) -> None:
    source = write_robomimic(tmp_path / "demo.hdf5", demos=1)
    with pytest.raises(DataError, match="choose one with --camera: agentview, eye_in_hand"):
        bring(source)
    with pytest.raises(DataError, match="no camera 'top'; it has agentview, eye_in_hand"):
        bring(source, camera="top")


# stable-worldmodel


def test_swm_frames_with_channels_first_and_a_last_action_that_is_none(bring: Bring, tmp_path: Path) -> None:
    actions = some_actions()
    actions[4], actions[-1] = np.nan, np.nan  # the last of each episode
    pixels = smooth_frames(T, 32)
    with h5py.File(tmp_path / "pusht.h5", "w") as file:
        file["pixels"] = np.moveaxis(pixels, -1, 1)
        file["action"] = actions
        file["proprio"] = np.arange(T * 2.0).reshape(T, 2)
        file["language"] = ["push"] * T
        file["ep_len"], file["ep_offset"] = np.array([5, 7], np.int32), np.array([0, 5], np.int64)
    store = bring(tmp_path / "pusht.h5")
    np.testing.assert_array_equal(store.episode(1)["pixels"], pixels[5:])
    assert not store.episode(0)["action"][-1].any()
    np.testing.assert_array_equal(store.episode(0)["action"][:-1], actions[:4].astype(np.float32))
    np.testing.assert_array_equal(store.episode(1)["proprio"][0], [10, 11])


# Minari


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


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "jpeg"])
def test_minari_has_one_frame_more_than_actions_and_states_their_bounds(
    bring: Bring, tmp_path: Path, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aime")
    store = bring(write_minari(tmp_path / "reach", packed=packed))
    assert [record.seed for record in store.episodes] == [0, 1, 2, 10]
    episode = store.episode(3)
    assert len(episode["pixels"]) == T + 1
    assert psnr(episode["pixels"], smooth_frames(T + 1, 64)) > (30 if packed else 90)
    np.testing.assert_allclose(episode["action"][:-1], some_actions(10, 0.5) * 2, rtol=1e-5)
    assert "stated by the source: -0.5 to 0.5" in caplog.text
    assert store.index.info.details["action_high"] == [0.5] * A


# LeRobot


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


@pytest.mark.parametrize("kind", ["video", "image"])
def test_lerobot_finds_each_episode_in_its_file(bring: Bring, tmp_path: Path, kind: str) -> None:
    store = bring(write_lerobot(tmp_path / "stack", kind), camera="wrist")
    assert len(store) == 3 and store.time_step == 1 / 25
    for number in range(3):
        episode = store.episode(number)
        np.testing.assert_array_equal(episode["action"], some_actions(number).astype(np.float32))
        assert episode["state"].tolist() == [[number] * A] * T
        for t, frame in enumerate(smooth_frames(T, 64, 10 + number)):
            assert psnr(episode["pixels"][t], frame) > 38, f"frame {t} of episode {number} is another one"
        assert store.record(number).details["tasks"] == ["stack"]


def test_lerobot_without_pyarrow_says_what_to_install(
    bring: Bring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: EpisodeStore
) -> None:
    folder = write_lerobot(tmp_path / "stack")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"pip install 'aime\[formats\]'"):
        bring(folder)
    with pytest.raises(DataError, match=r"pip install 'aime\[formats\]'"):
        export_data(ExportConfig(store.path, tmp_path / "out", "lerobot"))


# video


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


@pytest.mark.parametrize("rows", [T, T - 1])
def test_videos_with_measured_bounds_which_are_said_aloud(
    bring: Bring, tmp_path: Path, rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aime")
    store = bring(write_clips(tmp_path / "clips", rows=rows), image_size=32)
    assert store.image_size == 32 and store.action_dim == 2 and store.time_step == 1 / 25
    every = np.concatenate([store.episode(number)["action"][:rows] for number in range(2)])
    np.testing.assert_allclose([every.min(0), every.max(0)], [[-1, -1], [1, 1]])
    details = store.index.info.details
    low, high = np.array(details["action_low"]), np.array(details["action_high"])
    np.testing.assert_allclose((every[:rows] + 1) / 2 * (high - low) + low, some_actions(0, 30.0)[:rows, :2], atol=1e-4)
    assert "measured in the data" in caplog.text and f"{low[0]:.4g} to {high[0]:.4g}" in caplog.text
    assert "frames of 64×64 pixels are resized to 32×32" in caplog.text
    assert store.episode(0)["reward"][: T - 1].tolist() == [t / 2 for t in range(T - 1)]


def test_videos_with_bounds_that_are_given(bring: Bring, tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "clips", header=False, scale=30)
    store = bring(folder, action_low=[-40.0], action_high=[60.0])
    expected = (some_actions(1, 30)[:, :2] + 40) / 50 - 1
    np.testing.assert_allclose(store.episode(1)["action"], expected, atol=1e-6)
