"""Store → format → store: equal where the format is lossless; alike, with the very same actions, where it is video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aime.data.formats.exporting import ExportConfig, export_data
from aime.data.formats.importing import ImportConfig, import_data
from aime.data.formats.registry import FORMATS, guess_format, writable
from aime.data.store import EpisodeStore
from tests.data.formats.scenes import psnr, write_store

LOSSLESS = ["npz", "minari", "swm", "robomimic"]
LOSSY = ["video", "lerobot"]


def journey(store: EpisodeStore, name: str, folder: Path) -> tuple[Path, EpisodeStore]:
    place = folder / f"exported{FORMATS[name].suffix}"
    export_data(ExportConfig(store.path, place, name))
    return place, import_data(ImportConfig(place, folder / "back"))


def test_every_format_that_is_written_is_tested() -> None:
    assert sorted(LOSSLESS + LOSSY) == sorted(writable())


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_bring_every_number_back(store: EpisodeStore, tmp_path: Path, name: str) -> None:
    place, back = journey(store, name, tmp_path)
    assert guess_format(place) == name
    assert back.fingerprint == store.fingerprint
    assert back.index.columns == store.index.columns
    for id in range(3):
        for key, array in store.episode(id).items():
            np.testing.assert_array_equal(back.episode(id)[key], array, err_msg=key)


@pytest.mark.parametrize("name", LOSSLESS + LOSSY)
def test_every_format_brings_the_origin_of_the_episodes_back(store: EpisodeStore, tmp_path: Path, name: str) -> None:
    _, back = journey(store, name, tmp_path)
    assert back.index.info == store.index.info
    for mine, theirs in zip(store.episodes, back.episodes, strict=True):
        for field in ("id", "length", "policy", "seed", "renderer", "split", "details"):
            assert getattr(theirs, field) == getattr(mine, field), field


@pytest.mark.parametrize("name", LOSSY)
def test_video_formats_bring_actions_back_exactly_and_frames_alike(
    store: EpisodeStore, tmp_path: Path, name: str
) -> None:
    place, back = journey(store, name, tmp_path)
    assert guess_format(place) == name
    for id in range(3):
        mine, theirs = store.episode(id), back.episode(id)
        np.testing.assert_array_equal(theirs["action"], mine["action"])
        np.testing.assert_array_equal(theirs["reward"], mine["reward"])
        for t, (one, two) in enumerate(zip(mine["pixels"], theirs["pixels"], strict=True)):
            assert psnr(one, two) > 40, f"frame {t} of episode {id}"
            others = [psnr(other, two) for k, other in enumerate(mine["pixels"]) if k != t]
            assert psnr(one, two) > max(others), f"frame {t} of episode {id} is out of place"


def test_lerobot_keeps_the_state(store: EpisodeStore, tmp_path: Path) -> None:
    _, back = journey(store, "lerobot", tmp_path)
    np.testing.assert_array_equal(back.episode(1)["state"], store.episode(1)["state"])


@pytest.mark.parametrize("name", LOSSY)
def test_episodes_of_two_frames(tmp_path: Path, name: str) -> None:
    """Fewer than an encoder holds back before it writes the first."""
    store = write_store(tmp_path / "store", [2, 2, 2], size=16)
    _, back = journey(store, name, tmp_path)
    assert [record.length for record in back.episodes] == [2, 2, 2]


def test_chosen_episodes_only(store: EpisodeStore, tmp_path: Path) -> None:
    export_data(ExportConfig(store.path, tmp_path / "some", "npz", episodes=(2, 0)))
    back = import_data(ImportConfig(tmp_path / "some", tmp_path / "back"))
    assert sorted(record.length for record in back.episodes) == [17, 30]


@pytest.mark.parametrize("name", LOSSLESS + LOSSY)
def test_an_export_that_fails_leaves_nothing(
    store: EpisodeStore, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EpisodeStore.episode

    def breaks(self: EpisodeStore, id: int, columns: None = None) -> dict[str, np.ndarray]:
        if id == 2:
            raise KeyboardInterrupt
        return whole(self, id, columns)

    monkeypatch.setattr(EpisodeStore, "episode", breaks)
    with pytest.raises(KeyboardInterrupt):
        export_data(ExportConfig(store.path, tmp_path / f"exported{FORMATS[name].suffix}", name))
    assert list(tmp_path.iterdir()) == []


def test_no_more_than_one_episode_is_read_ahead(store: EpisodeStore, tmp_path: Path) -> None:
    """Each episode is in the store before the next one is read."""
    from aime.data.formats.registry import open_reader

    export_data(ExportConfig(store.path, tmp_path / "exported", "npz"))
    reader = open_reader("npz", tmp_path / "exported")
    (tmp_path / "exported" / "episode-000001-4.npz").write_bytes(b"not yet read")
    assert next(reader.episodes()).frames == 17


@pytest.mark.parametrize("name", ["npz", "swm"])
def test_what_is_there_is_not_overwritten(store: EpisodeStore, tmp_path: Path, name: str) -> None:
    from aime.errors import DataError

    place = tmp_path / f"exported{FORMATS[name].suffix}"
    export_data(ExportConfig(store.path, place, name))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(DataError, match="not overwritten"):
        export_data(ExportConfig(store.path, place, name))
    with pytest.raises(DataError, match="not overwritten"):
        import_data(ImportConfig(place, store.path))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
