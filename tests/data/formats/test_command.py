"""`aime data import` and `aime data export` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from aime.cli import main
from aime.data.formats.registry import FORMATS
from aime.data.store import EpisodeStore


def test_there_and_back(
    store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "export", str(store.path), "--format", "robomimic", "--out", "balls.hdf5"]) == 0
    assert main(["data", "import", "balls.hdf5"]) == 0
    said = capsys.readouterr().out
    assert "data/balls: 3 episodes, 52 frames of ball-roll at 32×32, 2 actions" in said
    assert EpisodeStore.open("data/balls").fingerprint == store.fingerprint


def test_flags_reach_the_import(store: EpisodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "export", str(store.path), "--format=npz", "--out=n", "--episodes", "0", "2"]) == 0
    flags = [
        "--image-size",
        "16",
        "--task",
        "roll",
        "--time-step",
        "0.1",
        "--episodes",
        "1",
        "--action-leads",
        "before",
    ]
    bounds = ["--action-low", "-2", "-2", "--action-high", "2"]
    assert main(["data", "import", "n", "--out", "data/small", *flags, *bounds]) == 0
    small = EpisodeStore.open("data/small")
    assert (len(small), small.image_size, small.task, small.time_step) == (1, 16, "roll", 0.1)
    assert (small.episode(0)["action"] == store.episode(0)["action"] / 2).all()


@pytest.mark.parametrize("argv", [["data"], ["data", "--help"], ["data", "import", "--help"], ["data", "export", "-h"]])
def test_help_names_every_format(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "usage: aime data" in said
    for name in FORMATS:
        assert name in said or (name == "rlds" and "export" in argv)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["imprt"], ["data imprt", "data import"]),
        (["--format", "npz"], ["import or export", "'--format'"]),
        (["import"], ["SOURCE"]),
        (["export", "data/x"], ["--format"]),
        (["import", "nowhere"], ["nowhere"]),
        (["import", "nowhere", "--format", "rdls"], ["'rdls'", "rlds"]),
        (["import", "nowhere", "--image-size", "50"], ["--image-size", "multiple of 16"]),
        (["import", "nowhere", "--action-low", "-1"], ["--action-low and --action-high"]),
        (["import", "nowhere", "--image-sise", "50"], ["'--image-sise'", "--image-size"]),
        (["export", "nowhere", "--format", "npz", "--out", "x"], ["nowhere"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_every_mistake_gets_a_sentence(
    argv: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *argv]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("aime: ")
    for word in words:
        assert word in said[0]
    assert list(tmp_path.iterdir()) == []
