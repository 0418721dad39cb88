"""A model to give away: all that is needed to dream from it, and nothing that tells of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import aime
from aime.data.store import EpisodeStore
from aime.evaluation.lpips import find_lpips
from aime.training.checkpoint import load_checkpoint, save_checkpoint
from tests.cli.conftest import Said
from tests.cli.made import write_run, write_store
from tests.cli.test_help_and_errors import complains

Aime = Callable[..., Said]


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_shared_model_dreams_without_the_run_and_the_data(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "given"
    said = aime("share", run_folder, "--out", out, "--episodes", "1", "--episode-length", "17")
    assert said.code == 0, said.err
    assert "1 episodes" in said.out
    moved = Path(shutil.move(out, tmp_path / "elsewhere"))
    assert [record.length for record in EpisodeStore.open(moved / "episodes").index.episodes] == [17]
    said = aime("imagine", moved, "--context-frames", "4", "--frames", "12", "--out", tmp_path / "pictures")
    assert said.code == 0, said.err
    assert (tmp_path / "pictures" / "imagine-data.mp4").stat().st_size > 1000


def test_half_precision_is_half_the_size_and_the_same_model(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    for name, more in (("half", []), ("full", ["--no-half"])):
        said = aime("share", run_folder, "--out", tmp_path / name, "--episodes", "0", *more)
        assert said.code == 0, said.err
    assert size(tmp_path / "half") < 0.55 * size(tmp_path / "full")
    half, full = (load(tmp_path / name).state_dict() for name in ("half", "full"))
    for name, value in full.items():
        assert half[name].dtype == value.dtype
        torch.testing.assert_close(half[name], value, atol=1e-3, rtol=1e-3)


def evaluated(run_folder: Path, run: Path, found: Any) -> Path:
    """A copy of a run, with an evaluation in it."""
    shutil.copytree(run_folder, run)
    (run / "evaluation").mkdir(exist_ok=True)
    (run / "evaluation" / "evaluation.json").write_text(json.dumps(found), "utf-8")
    return run


def test_its_evaluation_goes_along_to_five_digits(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    figures = {"summary": {"psnr": 19.703362022712827, "nll": -0.000123456789}, "steps": 1234567}
    run = evaluated(run_folder, tmp_path / "run", {**figures, "model": {"name": "aime", "step": 3}})
    said = aime("share", run, "--out", tmp_path / "given", "--episodes", "0")
    assert said.code == 0, said.err
    given = json.loads((tmp_path / "given" / "evaluation.json").read_text("utf-8"))
    assert given.pop("model") == {"name": "given", "step": 3}
    assert given == {"summary": {"psnr": 19.703, "nll": -0.00012346}, "steps": 1234567}


def test_what_was_shared_is_shared_again_with_its_evaluation(
    aime: Aime, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = evaluated(run_folder, tmp_path / "run", {"summary": {"psnr": 19.7}, "model": {"name": "aime", "step": 3}})
    for source, target in ((run, "given"), (tmp_path / "given", "again")):
        said = aime("share", source, "--out", tmp_path / target)
        assert said.code == 0, said.err
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text("utf-8"))
    assert again == {"summary": {"psnr": 19.7}, "model": {"name": "again", "step": 3}}


def test_all_files_given_away_may_be_read_by_the_same_people(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    assert aime("share", run_folder, "--out", tmp_path / "given", "--episodes", "0").code == 0
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "given").iterdir()}
    (tmp_path / "any").touch()
    assert set(modes.values()) == {(tmp_path / "any").stat().st_mode & 0o777}


@pytest.mark.parametrize(
    ("found", "words"),
    [({"model": {"name": "aime", "step": 2}}, "of step 2, and what is shared of step 3"), ([], "cannot be read")],
    ids=["another step", "no evaluation"],
)
def test_an_evaluation_of_something_else_is_left_out(
    aime: Aime, run_folder: Path, tmp_path: Path, found: Any, words: str
) -> None:
    run = evaluated(run_folder, tmp_path / "run", found)
    said = aime("share", run, "--out", tmp_path / "given", "--episodes", "0")
    assert said.code == 0, said.err
    assert words in said.out.splitlines()[-1]
    assert not (tmp_path / "given" / "evaluation.json").exists()


def test_an_evaluation_names_no_place_either(
    aime: Aime, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    reasons = {
        "lpips": find_lpips(tmp_path / "hub")[1],
        "mean_frame": f"{tmp_path}/my-data has no episode for the train split",
        "readout": "at '/srv/hub/checkpoints', (/srv/a.h5) and /srv/b: 3 dB/s and 1 / 2 of state/qpos",
    }
    assert str(tmp_path) not in reasons["lpips"] and "~/hub" in reasons["lpips"]
    found = {"model": {"name": str(tmp_path / "run"), "step": 3}, "not_measured": reasons, "list": ["/srv/data/a"]}
    run = evaluated(run_folder, tmp_path / "run", found)
    assert aime("share", run, "--out", tmp_path / "given", "--episodes", "0").code == 0
    text = (tmp_path / "given" / "evaluation.json").read_text("utf-8")
    given = json.loads(text)
    assert str(tmp_path) not in text and "/srv" not in text
    assert given["model"]["name"] == "given" and given["list"] == ["a"]
    assert given["not_measured"] == {
        "lpips": reasons["lpips"],
        "mean_frame": "my-data has no episode for the train split",
        "readout": "at 'checkpoints', (a.h5) and b: 3 dB/s and 1 / 2 of state/qpos",
    }


def test_it_says_what_it_was_trained_on_and_not_what_comes_with_it(aime: Aime, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    model = load(write_run(run, store))
    checkpoint = load_checkpoint(run / "checkpoints" / "step-00000003")
    config = replace(checkpoint.config, data=replace(checkpoint.config.data, policy_file=tmp_path / "mine.py"))
    fingerprint = EpisodeStore.open(store).fingerprint
    state = {"step": 3, "task": "pushed-ball", "data_fingerprint": fingerprint}
    save_checkpoint(checkpoint.folder, model, config, state=state)
    other = write_store(tmp_path / "other", episodes=7, task="another-ball")

    def shared(name: str, *argv: str | Path) -> tuple[str, Path | None, Any]:
        said = aime("share", argv[0], "--out", tmp_path / name, *argv[1:])
        assert said.code == 0, said.err
        given = load_checkpoint(tmp_path / name)
        return given.config.data.env, given.config.data.policy_file, given.state["trained_on"]

    env, policy, own = shared("own", run)
    assert (env, policy, own["fingerprint"], own["episodes"]) == ("pushed-ball", Path("mine.py"), fingerprint, 6)
    assert shared("foreign", run, "--data-dir", other) == (env, policy, {"fingerprint": fingerprint})
    assert shared("again", tmp_path / "own") == (env, policy, own)
    assert shared("again-foreign", tmp_path / "own", "--data-dir", other) == (env, policy, own)


def load(folder: Path) -> torch.nn.Module:
    return aime.load(folder)


def test_nothing_in_it_names_a_place_of_this_machine(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    assert aime("share", run_folder, "--out", tmp_path / "given").code == 0
    for file in (tmp_path / "given").rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), file
            assert str(run_folder.parent).encode() not in file.read_bytes(), file


def test_what_cannot_be_shared_leaves_nothing_behind(aime: Aime, store: Path, run_folder: Path, tmp_path: Path) -> None:
    """Data without a test split, and data that break while they are copied."""
    two = write_store(tmp_path / "two", episodes=2)
    before = set(tmp_path.iterdir())
    complains(aime("share", run_folder, "--out", tmp_path / "new", "--data-dir", two), "test split", "--episodes 0")
    broken = Path(shutil.copytree(store, tmp_path / "broken"))
    index = json.loads((broken / "index.json").read_text("utf-8"))
    index["columns"]["more"] = index["columns"]["reward"]
    (broken / "index.json").write_text(json.dumps(index), "utf-8")
    complains(aime("share", run_folder, "--out", tmp_path / "new", "--data-dir", broken), "cannot be opened")
    assert set(tmp_path.iterdir()) == before | {broken}
    said = aime("share", run_folder, "--out", tmp_path / "new", "--data-dir", two, "--episodes", "0")
    assert said.code == 0 and "0 episodes" in said.out
    assert set(tmp_path.iterdir()) == before | {broken, tmp_path / "new"}


def test_a_shared_model_is_evaluated_on_the_episodes_that_came_with_it(
    aime: Aime, run_folder: Path, tmp_path: Path
) -> None:
    """What takes episodes to train on is not measured, and a run that happens to have its name is left alone."""
    assert aime("share", run_folder, "--out", tmp_path / "given").code == 0
    (tmp_path / "runs" / "given").mkdir(parents=True)
    sizes = ["--context-frames", "4", "--horizon", "5", "--clips", "3", "--samples", "2", "--resamples", "20"]
    said = aime("evaluate", tmp_path / "given", *sizes, "--device", "cpu")
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "outputs" / "given" / "evaluation" / "evaluation.json").read_text("utf-8"))
    assert "train" in found["not_measured"]["mean_frame"]
    assert "mean_frame" not in found["scores"] and {"dream", "copy_last", "ceiling"} <= set(found["scores"])
    assert not list((tmp_path / "runs" / "given").iterdir())


@pytest.mark.parametrize("command", ["inspect", "imagine"])
def test_what_is_made_of_a_model_without_a_run_goes_to_outputs(
    aime: Aime, run_folder: Path, tmp_path: Path, command: str
) -> None:
    assert aime("share", run_folder, "--out", tmp_path / "given").code == 0
    said = aime(command, tmp_path / "given", "--context-frames", "4", "--frames", "8", "--device", "cpu")
    assert said.code == 0, said.err
    assert list((tmp_path / "outputs" / "given" / "pictures").iterdir()) and not (tmp_path / "runs").exists()


def test_what_is_there_already_is_left_alone(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    complains(aime("share", run_folder, "--out", tmp_path / "mine"), "mine", "--out")
    complains(aime("share", run_folder, "--out", tmp_path / "new", "--episodes", "-1"), "episodes")
    complains(aime("share", run_folder, "--out", tmp_path / "new", "--episode-length", "1"), "--episode-length", "2")
    assert not (tmp_path / "new").exists()
