"""Sources that AIME did not write, in the shapes that others write them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from aime.data.formats.exporting import ExportConfig, export_data
from aime.data.formats.importing import ImportConfig, import_data
from aime.data.store import EpisodeStore
from aime.errors import DataError
from tests.data.formats.others import (
    A,
    T,
    some_actions,
    write_clips,
    write_lerobot,
    write_minari,
    write_npz,
    write_robomimic,
)
from tests.data.formats.scenes import psnr, smooth_frames

Bring = Callable[..., EpisodeStore]


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., EpisodeStore]:
    """Import a source, whose format is to be guessed."""

    def bring(source: Path, **options: Any) -> EpisodeStore:
        return import_data(ImportConfig(source, tmp_path / "store", **options))

    return bring


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


def test_an_episode_may_be_one_frame_long(bring: Bring, tmp_path: Path) -> None:
    first = np.isin(np.arange(T), [0, T - 1])
    store = bring(write_npz(tmp_path / "episodes", is_first=first, action=np.where(first[:, None], 0, some_actions())))
    assert [record.length for record in store.episodes] == [T - 1, 1]


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
