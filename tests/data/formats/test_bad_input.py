"""Contents that cannot be imported are refused in a sentence that names file and key; the source stays as it is, and no
store appears."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.data.formats.conftest import Refuses
from tests.data.formats.others import (
    T,
    some_actions,
    write_clips,
    write_lerobot,
    write_minari,
    write_npz,
    write_robomimic,
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"action": None}, ["no key 'action'", "image"]),
        ({"image": None}, ["no frames under image", "--camera"]),
        ({"action": some_actions()[:-2], "is_first": None}, ["12 rows of image and 10 of action"]),
        ({"action": np.zeros(T, np.int64)}, ["key action", "int64"]),
        ({"action": np.zeros((T, 2, 2))}, ["key action", "(12, 2, 2)"]),
        ({"action": np.full((T, 2), [[0]] + [[2.5]] * (T - 1))}, ["2.5", "--action-low", "--measure-actions"]),
        ({"action": np.full((T, 2), [[0]] * 3 + [[np.nan]] + [[0]] * (T - 4))}, ["key action is not finite"]),
        ({"reward": np.zeros(T - 3)}, ["key reward", "(9,)"]),
        ({"reward": np.full(T, np.inf)}, ["key reward is not finite"]),
        ({"image": np.full((T, 64, 64, 3), 7.0)}, ["key image", "[0, 1]", "7"]),
        ({"image": np.zeros((T, 64, 64, 5), np.uint8)}, ["key image", "(64, 64, 5)"]),
        ({"image": np.zeros((T, 64, 64, 3), np.int32)}, ["key image", "int32"]),
        ({"image": np.zeros(T, np.uint8)}, ["key image"]),
        ({"is_first": np.zeros(3, bool)}, ["key is_first", "(3,)"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_wrong_contents_are_named_by_file_and_key(
    refuses: Refuses, tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    folder = write_npz(tmp_path / "episodes", **{"reward": None} | change)
    refuses(folder, "20240101T000000-a-11.npz", *words)


def swm_file(path: Path, **changes: Any) -> Path:
    content = {
        "pixels": np.zeros((T, 32, 32, 3), np.uint8),
        "action": some_actions(),
        "ep_len": np.array([5, 7]),
        "ep_offset": np.array([0, 5]),
    } | changes
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            if value is not None:
                file[key] = value
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ep_len": None}, ["no dataset 'ep_len'", "ep_offset"]),
        ({"action": None, "actions": some_actions()}, ["no dataset 'action'", "actions"]),
        ({"ep_len": np.array([5, 8])}, ["truncated", "13", "12"]),
        ({"ep_len": np.array([5])}, ["do not mark episodes"]),
        ({"pixels": np.zeros((T - 3, 32, 32, 3), np.uint8)}, ["truncated", "end at 9"]),
        ({"pixels": None}, ["no frames"]),
        ({"action": np.zeros((T, 2), "S3")}, ["episode 0", "key action"]),
    ],
    ids=["no lengths", "no action", "past the end", "uneven", "few frames", "no frames", "words"],
)
def test_wrong_marks_in_stable_worldmodels_file(
    refuses: Refuses, tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    refuses(swm_file(tmp_path / "pusht.h5", **change), "pusht.h5", *words, format="swm")


def test_demonstrations_without_observations_say_how_to_get_them(refuses: Refuses, tmp_path: Path) -> None:
    source = write_robomimic(tmp_path / "demo.hdf5", cameras=("agentview",), demos=2)
    with h5py.File(source, "a") as file:
        del file["data/demo_1/obs"]
    refuses(source, "demo.hdf5", "demo_1", "dataset_states_to_obs.py")


def test_demonstrations_with_fewer_frames_than_actions(refuses: Refuses, tmp_path: Path) -> None:
    source = write_robomimic(tmp_path / "demo.hdf5", cameras=("agentview",), demos=2)
    with h5py.File(source, "a") as file:
        del file["data/demo_1/obs/agentview_image"]
        file["data/demo_1/obs/agentview_image"] = np.zeros((T - 1, 84, 84, 3), np.uint8)
    refuses(source, "demo_1", "11 frames in obs/agentview_image and 12 actions")


def test_minari_with_actions_outside_the_bounds_it_states(refuses: Refuses, tmp_path: Path) -> None:
    folder = write_minari(tmp_path / "reach")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/actions"][3, 2] = 0.7
    refuses(folder, "episode_1", "number 2", "0.7", "-0.5 to 0.5", "stated by the source")


def test_minari_in_arrow_is_told_apart(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "metadata.json").write_text('{"data_format": "arrow"}')
    refuses(tmp_path / "set", "main_data.hdf5", "hdf5 alone", format="minari")


def test_videos_without_actions_or_with_too_few(refuses: Refuses, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", rows=T - 2)
    refuses(clips, "clip0.mp4", "12 frames", "10 rows")
    (clips / "clip1.csv").unlink()
    refuses(clips, "clip1.mp4", "clip1.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("left,right\n1,2\n3\n", ["line 3", "1 values", "has 2"]),
        ("left,right\n1,two\n", ["line 2", "two"]),
        ("left,right\n", ["no actions"]),
        ("", ["no actions"]),
        ("reward\n" + "1\n" * T, ["key action"]),
    ],
    ids=["short line", "word", "names alone", "empty", "no action"],
)
def test_a_table_of_actions_that_cannot_be_read(refuses: Refuses, tmp_path: Path, text: str, words: list[str]) -> None:
    clips = write_clips(tmp_path / "clips")
    (clips / "clip1.csv").write_text(text)
    refuses(clips, "clip1", *words)


def test_a_video_that_is_none(refuses: Refuses, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips")
    (clips / "clip1.mp4").write_bytes(b"not a video" * 100)
    refuses(clips, "clip1.mp4")


def test_an_older_lerobot_folder_says_which_version_is_read(refuses: Refuses, tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "stack")
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    refuses(folder, "info.json", "v2.1", "v3")
    (folder / "meta/info.json").write_text("{")
    refuses(folder, "info.json")


def test_a_lerobot_video_that_ends_too_soon_or_is_not_there(refuses: Refuses, tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path / "stack")
    video = folder / "videos/observation.images.top/chunk-000"
    (video / "file-000.mp4").write_bytes((video / "file-001.mp4").read_bytes())  # one episode where two should be
    refuses(folder, "file-000.mp4", "truncated", camera="top")
    (video / "file-001.mp4").unlink()
    (video / "file-000.mp4").unlink()
    refuses(folder, "file-000.mp4", camera="top")


def test_episodes_must_be_alike(refuses: Refuses, tmp_path: Path) -> None:
    folder = write_npz(tmp_path / "episodes")
    write_npz(folder, "b.npz", action=np.zeros((T, 5)))
    refuses(folder, "b.npz", "action", "(5,)")
