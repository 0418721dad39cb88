"""The command line says what it can do, and answers every mistake with one sentence and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aime.commands import COMMANDS
from tests.cli.conftest import Said

Aime = Callable[..., Said]


def complains(said: Said, *words: str) -> None:
    """One sentence on stderr that holds the words; no traceback; exit code 2."""
    assert said.code == 2, said
    assert "Traceback" not in said.err
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("aime: "), said.err
    for word in words:
        assert word in said.err, f"{word!r} is not in {said.err!r}"


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(aime: Aime, argv: list[str]) -> None:
    said = aime(*argv)
    assert said.code == 0
    for name, command in COMMANDS.items():
        assert name in said.out and command.summary in said.out


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_in_which_every_flag_is_described(aime: Aime, name: str) -> None:
    said = aime(name, "--help")
    assert said.code == 0
    assert f"usage: aime {name}" in said.out
    assert "None" not in said.out, "Python's None says nothing to a person"


def test_train_help_says_what_a_preset_and_each_setting_is(aime: Aime) -> None:
    text = " ".join(aime("train", "--help").out.replace("│", " ").split())
    for flag, description in {
        "--preset {tiny,base,large}": "Size of everything in one word",
        "--latent-dim INT": "Size of the latent state z[t]",
        "--learning-rate FLOAT": "Peak learning rate of AdamW",
        "--batch-size INT": "Clips in one training step",
        "--eval-only": "train nothing",
    }.items():
        assert flag in text and description in text


def test_a_preset_changes_the_defaults_that_help_shows(aime: Aime) -> None:
    def default(*argv: str) -> str:
        text = " ".join(aime("train", *argv, "--help").out.replace("│", " ").split())
        return text.split("Size of the latent state z[t].")[1].split(")")[0]

    assert default() == " (default: 36"
    assert default("--preset", "tiny") == " (default: 24"


def test_help_is_there_at_once() -> None:
    """Well under a second, as long as nothing heavy is imported for it: a clock would measure the machine."""
    done = subprocess.run([sys.executable, "-m", "aime", "--help"], capture_output=True, text=True, check=True)
    assert "train" in done.stdout
    imported = subprocess.run(
        [sys.executable, "-c", "import sys, aime.cli; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert imported.stdout.strip() == "False", "the command line imports torch before it knows the command"


def test_version(aime: Aime) -> None:
    from aime import __version__

    assert aime("--version").out.strip() == f"aime {__version__}"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["'trian'", "train"]),
        (["train", "--latent-dmi", "3"], ["'--latent-dmi'", "--latent-dim"]),
        (["train", "--zzz"], ["'--zzz'", "aime train --help"]),
        (["train", "--balancer", "rbg"], ["--balancer", "'rbg'", "rgb"]),
        (["train", "--preset", "tny"], ["--preset", "'tny'", "tiny"]),
        (["train", "--device", "gpu"], ["--device", "'gpu'", "cuda"]),
        (["train", "--batch-size", "four"], ["--batch-size", "whole number", "'four'"]),
        (["train", "--learning-rate", "fast"], ["--learning-rate", "number", "'fast'"]),
        (["train", "--max-steps"], ["--max-steps", "whole number"]),
        (["train", "--max-steps", "--seed", "1"], ["--max-steps", "whole number"]),
        (["train", "--eval-only", "true"], ["--eval-only", "switch", "--no-eval-only"]),
        (["train", "humanoid-walk"], ["'humanoid-walk'"]),
        (["train", "--objective-weights", "1", "2"], ["--objective-weights", "4 values", "not 2"]),
        (["train", "--latent-dim", "0"], ["--latent-dim", "at least 1", "not 0"]),
        (["train", "--batch-size", "-1"], ["--batch-size", "at least 1", "-1"]),
        (["train", "--input-dim", "50"], ["--input-dim", "multiple of 16", "50"]),
        (["train", "--sequence-length", "7"], ["--num-latent-perceiver", "multiple", "--sequence-length (7)"]),
        (["train", "--mu", "1.5"], ["--mu", "[0, 1)", "1.5"]),
        (["train", "--config", "none.yaml"], ["none.yaml"]),
        (["train", "--env", "humanoid-wlak", "--max-steps", "1"], ["'humanoid-wlak'", "humanoid-walk"]),
        (["collect", "--env", "walker-rnu"], ["'walker-rnu'", "walker-run"]),
        (["collect", "--image-size", "100"], ["--image-size", "multiple of 16", "100"]),
        (["train", "--preset", "tiny", "--episode-length", "40"], ["--episode-length 40", "--sequence-length 48"]),
        (["bench", "--presets", "huge"], ["--presets", "'huge'", "tiny"]),
        (["bench", "--presets"], ["presets", "at least one"]),
        (["bench", "--only", "stepp"], ["--only", "'stepp'", "step"]),
        (["bench", "--batch-size", "0"], ["--batch-size", "at least 1", "0"]),
        (["bench", "--sequence-length", "1"], ["--sequence-length", "at least 2", "1"]),
        (["bench", "--repeats", "0"], ["--repeats", "at least 1", "0"]),
        (["inspect"], ["RUN"]),
        (["benchmark", "--tasks", "walker-walk", "cheetah-rnu"], ["'cheetah-rnu'", "cheetah-run"]),
        (["benchmark", "--models", "aime", "dreamer"], ["--models", "'dreamer'", "rssm"]),
        (["benchmark", "--minutes", "0"], ["--minutes", "above zero"]),
        (["benchmark", "--minutes", "nan"], ["--minutes", "above zero", "nan"]),
        (["benchmark", "--peer-learning-rate", "0"], ["--peer-learning-rate", "above zero"]),
        (["benchmark", "--clips", "1"], ["--clips", "at least 2"]),
        (["ablate", "--clips", "1"], ["--clips", "at least 2"]),
        (["ablate", "--minutes", "nan"], ["--minutes", "above zero", "nan"]),
        (["ablate", "--minutes", "3", "--steps", "640"], ["--minutes", "number of steps", "give one"]),
        (["ablate", "--variants", "no-contxt"], ["--variants", "'no-contxt'", "no-context"]),
        (["ablate", "--seeds", "0"], ["--seeds", "at least 1"]),
        (["ablate", "--env", "walker-wlak"], ["'walker-wlak'", "walker-walk"]),
        (["data", "exprot"], ["'data exprot'", "data export"]),
        (["data", "import"], ["SOURCE"]),
        (["data", "export", "store"], ["--format", "--out"]),
        (["inspect", "nowhere"], ["nowhere"]),
        (["evaluate", "runs/none"], ["runs/none"]),
        (["imagine", "model.pt"], ["model.pt"]),
        (["train", "--load-checkpoint", "path/to/none", "--eval-only"], ["path/to/none"]),
        (["train", "--eval-only"], ["runs/humanoid-walk"]),
    ],
    ids=" ".join,
)
def test_every_mistake_gets_a_sentence(aime: Aime, argv: list[str], words: list[str]) -> None:
    complains(aime(*argv), *words)
    assert not list(Path.cwd().glob("**/*.h5")), "nothing may be collected for a command that cannot run"


def test_underscores_and_equals_signs_are_read_too(aime: Aime) -> None:
    complains(aime("train", "--batch_size=0"), "--batch-size", "at least 1")


def test_debug_shows_where_an_error_came_from(aime: Aime) -> None:
    said = aime("inspect", "nowhere", "--debug")
    assert said.code == 2
    assert "Traceback" in said.err and "CheckpointError" in said.err


def test_a_pickle_is_refused_and_named(aime: Aime, tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(b"\x80\x04pickle")
    complains(aime("evaluate", tmp_path / "old.pt"), "old.pt", "folders", "pickle")


def test_ctrl_c_leaves_no_traceback(aime: Aime, monkeypatch: pytest.MonkeyPatch) -> None:
    import aime.doctor as doctor

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupted)
    said = aime("doctor")
    assert said.code == 130 and "Traceback" not in said.err


def test_a_full_disk_is_a_sentence(aime: Aime, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    import aime.doctor as doctor

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "pictures/strip.png")

    monkeypatch.setattr(doctor, "run", full)
    complains(aime("doctor"), "no space left on device", "pictures/strip.png")


def test_out_of_memory_says_what_to_make_smaller(aime: Aime, monkeypatch: pytest.MonkeyPatch) -> None:
    import aime.doctor as doctor

    def greedy(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(doctor, "run", greedy)
    complains(aime("doctor"), "out of memory", "--batch-size")


def test_a_defect_is_not_dressed_up_as_a_mistake_of_the_user(aime: Aime, monkeypatch: pytest.MonkeyPatch) -> None:
    import aime.doctor as doctor

    def broken(*_: object) -> None:
        raise RuntimeError("shape mismatch deep inside")

    monkeypatch.setattr(doctor, "run", broken)
    with pytest.raises(RuntimeError, match="deep inside"):
        aime("doctor")
