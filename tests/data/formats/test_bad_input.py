"""What cannot be imported is refused in a sentence that names file and key; the source stays as it is, and no store
appears."""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aime.data.formats.exporting import ExportConfig, export_data
from aime.data.formats.importing import ImportConfig, import_data
from aime.data.formats.registry import FORMATS, guess_format
from aime.data.store import EpisodeStore
from aime.errors import AimeError, ConfigError, DataError
from tests.data.formats import test_rlds, tfrecords
from tests.data.formats.scenes import write_store
from tests.data.formats.test_foreign import (
    T,
    some_actions,
    write_clips,
    write_lerobot,
    write_minari,
    write_npz,
    write_robomimic,
)

Refuses = Callable[..., str]


def contents(place: Path) -> dict[str, str]:
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def refuses(tmp_path: Path) -> Refuses:
    def refuses(source: Path, *words: str, **options: Any) -> str:
        before = contents(source) if source.exists() else {}
        with pytest.raises(AimeError) as told:
            import_data(ImportConfig(source, tmp_path / "store", **options))
        for word in words:
            assert word in str(told.value)
        assert "\n" not in str(told.value).strip()
        assert (contents(source) if source.exists() else {}) == before
        assert not (tmp_path / "store").exists()
        assert not list(tmp_path.glob(".*"))
        return str(told.value)

    return refuses


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_source_that_is_not_there(refuses: Refuses, tmp_path: Path, name: str) -> None:
    refuses(tmp_path / "nowhere.h5", "nowhere.h5", format=name)


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_source_that_is_something_else(refuses: Refuses, tmp_path: Path, name: str, kind: str) -> None:
    source = tmp_path / "something"
    if kind == "folder":
        source.mkdir()
        (source / "readme.txt").write_text("holiday pictures")
    else:
        source.write_bytes(b"neither one thing nor the other" * 50)
    refuses(source, "something", format=name)


@pytest.mark.parametrize("name", ["npz", "minari", "swm", "robomimic", "video", "lerobot"])
def test_a_truncated_file_is_named(refuses: Refuses, tmp_path: Path, store: EpisodeStore, name: str) -> None:
    place = tmp_path / f"exported{FORMATS[name].suffix}"
    export_data(ExportConfig(store.path, place, name))
    files = (
        [place]
        if place.is_file()
        else [p for p in place.rglob("*") if p.suffix in (".npz", ".hdf5", ".mp4", ".parquet")]
    )
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    refuses(place, largest.name, format=name)


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
        ({"image": np.zeros((1, 64, 64, 3), np.uint8), "action": np.zeros((1, 2)), "is_first": None}, ["1 frames"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_wrong_contents_are_named_by_file_and_key(
    refuses: Refuses, tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    folder = write_npz(tmp_path / "episodes", **{"reward": None} | change)
    refuses(folder, "20240101T000000-a-11.npz", *words)


def test_nothing_is_ever_unpickled(refuses: Refuses, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    folder = write_npz(tmp_path / "episodes", info=np.array([Trap()] * T, dtype=object))
    refuses(folder, "20240101T000000-a-11.npz", "key info")
    (folder / "20240101T000000-a-11.npz").write_bytes(pickle.dumps(Trap()))
    refuses(folder, "20240101T000000-a-11.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["swm", "robomimic", "minari"])
def test_a_foreign_hdf5_file_is_named(refuses: Refuses, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    source = folder / "main_data.hdf5"
    (folder / "metadata.json").write_text("{}")
    with h5py.File(source, "w") as file:
        file["temperature"] = np.arange(5.0)
    refuses(source, str(source), format=name)
    with pytest.raises(DataError, match=r"main_data.hdf5 is in no format that AIME knows by sight"):
        guess_format(source)


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 50}, ["image_size", "multiple of 16", "50"]),
        ({"image_size": 2048}, ["image_size", "2048"]),
        ({"action_low": [-1.0]}, ["action_low and action_high"]),
        ({"action_low": [1.0], "action_high": [1.0]}, ["--action-low must be less"]),
        ({"action_low": [0.0, 0.0], "action_high": [1.0]}, ["--action-low", "3", "not 2"]),
        ({"action_low": [-1.0], "action_high": [1.0], "measure_actions": True}, ["not both"]),
        ({"time_step": 0.0}, ["time_step"]),
        ({"episodes": 0}, ["episodes"]),
        ({"format": "robomimik"}, ["'robomimik'", "robomimic"]),
        ({"format": "tensorflow"}, ["'tensorflow'", "rlds"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_settings_that_cannot_work(refuses: Refuses, tmp_path: Path, options: dict[str, Any], words: list[str]) -> None:
    source = write_npz(tmp_path / "episodes")
    refuses(source, *words, **options)


def test_what_cannot_be_exported_to(store: EpisodeStore, tmp_path: Path) -> None:
    for name, place, words in (
        ("rlds", "out", "reads rlds but does not write it"),
        ("lerobt", "out", "did you mean lerobot"),
        ("swm", "out.npz", "let --out end in .h5"),
    ):
        with pytest.raises(ConfigError, match=words):
            export_data(ExportConfig(store.path, tmp_path / place, name))
    with pytest.raises(DataError, match="no episode 9"):
        export_data(ExportConfig(store.path, tmp_path / "out", "npz", episodes=(9,)))
    with pytest.raises(DataError, match="store of AIME already"):
        guess_format(store.path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.writer])
def test_a_full_disk_leaves_nothing_behind(store: EpisodeStore, tmp_path: Path, name: str) -> None:
    """The system refuses files of more than 2 kB for a while, as it refuses all when the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(DataError, match=r"could not write .*exported.*: file too large.*make room"):
            export_data(ExportConfig(store.path, tmp_path / f"exported{FORMATS[name].suffix}", name))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_during_an_import(refuses: Refuses, tmp_path: Path) -> None:
    source = write_npz(tmp_path / "episodes", image=np.random.default_rng(0).integers(0, 256, (T, 64, 64, 3), np.uint8))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        refuses(source, f"could not write {tmp_path / 'store'}: file too large", "make room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", list(FORMATS))
def test_damage_anywhere_is_a_sentence_or_harmless(tmp_path: Path, name: str) -> None:
    """Some bytes changed at random, or the end cut off: whatever the libraries make of it, no traceback comes out."""
    place = tmp_path / f"exported{FORMATS[name].suffix}"
    if name == "rlds":
        records = [tfrecords.example(tfrecords.dmc_vb_episode(*test_rlds.make(0, frames=3, size=16)))]
        tfrecords.write_tfrecord(place / test_rlds.NAME, records)
    else:
        export_data(ExportConfig(write_store(tmp_path / "store", [3, 3], size=16).path, place, name))
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    rng = np.random.default_rng(5)
    refused = 0
    for turn in range(12):
        file = files[int(rng.integers(len(files)))]
        whole = file.read_bytes()
        broken = bytearray(whole if turn % 3 else whole[: int(rng.integers(len(whole)))])
        for _ in range(4 if turn % 3 else 0):
            broken[int(rng.integers(len(broken) if turn % 2 else min(len(broken), 600)))] = int(rng.integers(256))
        file.write_bytes(broken)
        try:
            import_data(ImportConfig(place, tmp_path / f"back{turn}", format=name))
        except AimeError:
            refused += 1
        file.write_bytes(whole)
    assert refused > 0
