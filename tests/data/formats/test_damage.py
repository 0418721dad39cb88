"""Files that are missing, foreign, truncated or damaged, settings that cannot work, disks that are full: each gets a
sentence, and nothing is changed or left behind."""

from __future__ import annotations

import pickle
import resource
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
from tests.data.formats.conftest import Refuses
from tests.data.formats.others import (
    T,
    write_npz,
)
from tests.data.formats.scenes import write_store


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
