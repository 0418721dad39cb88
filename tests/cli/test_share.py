"""A model to give away: all that is needed to dream from it, and nothing that tells of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

import aime
from aime.data.store import EpisodeStore
from tests.cli.conftest import Said
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


def test_its_evaluation_goes_along_to_five_digits(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    (run / "evaluation").mkdir(exist_ok=True)
    found = {"summary": {"psnr": 19.703362022712827, "nll": -0.000123456789}, "steps": 1234567}
    (run / "evaluation" / "evaluation.json").write_text(json.dumps(found), "utf-8")
    said = aime("share", run, "--out", tmp_path / "given", "--episodes", "0")
    assert said.code == 0, said.err
    given = json.loads((tmp_path / "given" / "evaluation.json").read_text("utf-8"))
    assert given == {"summary": {"psnr": 19.703, "nll": -0.00012346}, "steps": 1234567}


def load(folder: Path) -> torch.nn.Module:
    return aime.load(folder)


def test_nothing_in_it_names_a_place_of_this_machine(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    assert aime("share", run_folder, "--out", tmp_path / "given").code == 0
    for file in (tmp_path / "given").rglob("*"):
        if file.is_file():
            assert str(tmp_path).encode() not in file.read_bytes(), file
            assert str(run_folder.parent).encode() not in file.read_bytes(), file


def test_what_is_there_already_is_left_alone(aime: Aime, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    complains(aime("share", run_folder, "--out", tmp_path / "mine"), "mine", "--out")
    complains(aime("share", run_folder, "--out", tmp_path / "new", "--episodes", "-1"), "episodes")
    complains(aime("share", run_folder, "--out", tmp_path / "new", "--episode-length", "1"), "--episode-length", "2")
    assert not (tmp_path / "new").exists()
