"""The commands that look at a model: what they write, and what they say when model and data do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aime.commands.subject import open_subject
from aime.data.store import EpisodeStore
from tests.cli.conftest import Said
from tests.cli.made import write_store
from tests.cli.test_help_and_errors import complains

Aime = Callable[..., Said]


def test_inspect_writes_the_pictures_it_lists(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    said = aime("inspect", run_folder, "--frames", "10", "--context-frames", "4", "--out", tmp_path / "pictures")
    assert said.code == 0, said.err
    written = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"strip.png", "dream.mp4", "attention.png", "slots.png", "mixture.png"} <= written
    for name in written:
        assert name in said.out


def test_imagine_dreams_past_the_trained_length(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    argv = ["imagine", run_folder, "--context-frames", "4", "--frames", "20", "--out", tmp_path]
    said = aime(*argv)
    assert said.code == 0, said.err
    assert "dreamed 20" in said.out
    assert (tmp_path / "imagine-data.mp4").stat().st_size > 1000
    width = Image.open(tmp_path / "imagine-data.png").width
    assert aime(*argv, "--columns", "24").code == 0
    assert Image.open(tmp_path / "imagine-data.png").width > 1.8 * width


def test_imagine_many_futures_of_own_actions_as_a_gif(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "plan.npy", np.zeros((7, 3), np.float32))
    argv = ["imagine", run_folder, "--actions", tmp_path / "plan.npy", "--dreams", "3", "--video", "gif"]
    said = aime(*argv, "--out", tmp_path)
    assert said.code == 0, said.err
    assert "dreamed 7" in said.out
    assert (tmp_path / "imagine-plan.gif").read_bytes()[:3] == b"GIF"


@pytest.mark.parametrize("actions", ["zero", "random"])
def test_imagine_needs_no_data_beyond_the_frames_it_watches(
    aime: Aime, run_folder: Path, tmp_path: Path, actions: str
) -> None:
    said = aime("imagine", run_folder, "--actions", actions, "--frames", "40", "--out", tmp_path)
    assert said.code == 0, said.err
    assert (tmp_path / f"imagine-{actions}.mp4").exists()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 2)), ["(frames, 3)", "(5, 2)"]),
        (np.full((5, 3), 2.0), ["[-1, 1]", "2"]),
        (np.zeros((5, 3, 1)), ["(5, 3, 1)"]),
        (np.full((5, 3), np.nan), ["[-1, 1]"]),
        (np.zeros((0, 3)), ["(frames, 3)", "(0, 3)"]),
    ],
    ids=["size", "range", "dimensions", "nan", "no frames"],
)
def test_actions_that_cannot_be_taken_are_described(
    aime: Aime, run_folder: Path, tmp_path: Path, array: np.ndarray, words: list[str]
) -> None:
    np.save(tmp_path / "plan.npy", array)
    complains(aime("imagine", run_folder, "--actions", tmp_path / "plan.npy"), "plan.npy", *words)


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, actions=np.zeros((5, 3), np.float32))


@pytest.mark.parametrize(
    "write",
    [lambda path: path.write_text("not an array"), Path.touch, archive, lambda path: path.write_bytes(b"PK\3\4")],
    ids=["text", "empty", "archive", "broken archive"],
)
def test_a_file_that_is_no_array_is_named(
    aime: Aime, run_folder: Path, tmp_path: Path, write: Callable[[Path], object]
) -> None:
    write(tmp_path / "plan.npy")
    complains(aime("imagine", run_folder, "--actions", tmp_path / "plan.npy"), "plan.npy", "as a NumPy array")
    complains(aime("imagine", run_folder, "--actions", tmp_path / "none.npy"), "none.npy")
    complains(aime("imagine", run_folder, "--actions", "wander"), "--actions", "'wander'", "random")


def test_more_frames_than_an_episode_has_are_refused(aime: Aime, run_folder: Path) -> None:
    complains(aime("imagine", run_folder, "--frames", "500"), "24", "508", "--actions random")
    complains(aime("inspect", run_folder, "--frames", "500"), "24", "500", "--frames")


def test_clips_take_turns_over_the_episodes(run_folder: Path, tmp_path: Path) -> None:
    """Every clip that there is has a number, and none has two."""
    store = EpisodeStore.open(write_store(tmp_path / "data", episodes=30, length=13))
    subject = replace(open_subject(str(run_folder), device="cpu"), store=store)
    ids, length = store.split("test"), 12
    assert len(ids) > 2
    found = []
    for number in range(2 * len(ids)):
        clip = subject.clip("test", number, length, advice="")
        whole = {id: store.episode(id)["pixels"].transpose(0, 3, 1, 2) for id in ids}
        found += [
            (id, start)
            for id, frames in whole.items()
            for start in (0, 1)
            if np.array_equal(clip["observations"][0].numpy(), frames[start : start + length])
        ]
    assert [id for id, _ in found] == [*ids, *ids]
    assert len(set(found)) == 2 * len(ids)


def test_a_clip_that_there_is_not_is_refused(aime: Aime, run_folder: Path) -> None:
    """The test split is one episode of 24 frames: 13 clips of 12, numbered from 0."""
    for command in ("inspect", "imagine"):
        frames = ["--frames", "12" if command == "inspect" else "8", "--context-frames", "4"]
        complains(aime(command, run_folder, *frames, "--clip", "13"), "--clip 13", "13 fixed clips", "12 at most")
    assert open_subject(str(run_folder), device="cpu").clip("test", 12, 12, advice="")


@pytest.mark.parametrize("command", ["inspect", "imagine", "evaluate"])
def test_data_with_other_actions_than_the_models(aime: Aime, run_folder: Path, tmp_path: Path, command: str) -> None:
    other = write_store(tmp_path / "other", actions=5)
    complains(aime(command, run_folder, "--data-dir", other), "actions of 3", "5")


def test_data_with_frames_of_another_size(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", size=48)
    complains(aime("inspect", run_folder, "--data-dir", other), "32×32", "48×48", "--data-dir")


def test_no_data(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    complains(aime("inspect", run_folder, "--data-dir", tmp_path / "empty"), "no data", "empty", "aime collect")


def test_a_truncated_shard_is_named_and_left_untouched(
    aime: Aime, run_folder: Path, store: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    shard = next(copy.glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-1000])
    before = {path: path.read_bytes() for path in copy.iterdir()}
    complains(aime("inspect", run_folder, "--data-dir", copy), shard.name)
    assert {path: path.read_bytes() for path in copy.iterdir()} == before


def test_a_foreign_shard_is_named_and_left_untouched(aime: Aime, run_folder: Path, store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    shard = next(copy.glob("*.h5"))
    shard.write_bytes(b"something else entirely" * (shard.stat().st_size // 23 + 1))
    complains(aime("inspect", run_folder, "--data-dir", copy), shard.name)
    assert shard.read_bytes().startswith(b"something else")


def test_a_truncated_checkpoint_is_named_and_left_untouched(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(next((run_folder / "checkpoints").iterdir()), tmp_path / "step-00000003"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    size = weights.stat().st_size
    complains(aime("inspect", copy), "step-00000003", "model.safetensors")
    assert weights.stat().st_size == size


def test_a_folder_that_is_no_checkpoint(aime: Aime, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    complains(aime("inspect", tmp_path / "holiday"), "holiday")


def test_a_file_where_a_folder_should_be_is_left_alone(aime: Aime, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    for argv in (
        ["train", "--data-dir", "notes", "--max-steps", "1"],
        ["train", "--run-dir", "notes", "--max-steps", "1"],
        ["train", "--run-dir", "notes/run", "--max-steps", "1"],
        ["collect", "--out", "notes"],
        ["collect", "--out", "notes/data"],
        ["ablate", "--out", "notes/ablation"],
        ["benchmark", "--out", "notes"],
        ["bench", "--out", "notes/bench.json"],
        *([command, "cartpole-swingup", "--out", "notes"] for command in ("evaluate", "imagine", "inspect")),
    ):
        complains(aime(*argv), "notes is a file")
    complains(aime("bench", "--out", tmp_path), "is a folder")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    complains(aime("benchmark", "--out", "dangling"), "dangling", "a link that leads nowhere")
    assert (tmp_path / "notes").read_text() == "mine"
    assert not (tmp_path / "data").exists()  # nothing was collected before it was found out
