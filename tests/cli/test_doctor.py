"""`aime doctor` tells the truth about this machine and this folder, and never fails itself."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from tests.cli.conftest import Said

Aime = Callable[..., Said]


def lines(said: Said) -> dict[str, list[str]]:
    """What was found, by subject."""
    found: dict[str, list[str]] = {}
    for line in said.out.splitlines():
        if not line.startswith(" "):
            mark, subject, text = line.split(maxsplit=2)
            assert mark in ("ok", "--", "!!")
            found.setdefault(subject, []).append(text)
    return found


def test_it_reports_this_machine(aime: Aime) -> None:
    said = aime("doctor")
    assert said.code == 0, said.err
    found = lines(said)
    assert platform.python_version() in found["python"][0]
    assert torch.__version__ in found["torch"][0]
    assert ("CUDA" in found["device"][0]) != torch.cuda.is_available()
    assert "times as fast as float32" in found["bf16"][0] or torch.cuda.is_available()
    assert {"renderer", "disk", "memory"} <= found.keys()
    assert found["data"] == ["none in data/"]


def test_it_finds_stores_and_runs(aime: Aime, store: Path, run_folder: Path) -> None:
    found = lines(aime("doctor", "--no-measure", "--data-root", store.parent, "--runs-root", run_folder.parent))
    assert "pushed-ball, 6 episodes, 144 frames of 32×32, 3 actions" in found["data"][0]
    assert "step 3 of 3" in found["run"][0]
    assert "bf16" not in found


def test_a_broken_store_is_named_and_does_not_stop_it(aime: Aime, store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "data" / "a")
    shutil.copytree(store, tmp_path / "data" / "b")
    broken = next((tmp_path / "data" / "a").glob("*.h5"))
    broken.write_bytes(b"")
    said = aime("doctor", "--no-measure")
    assert said.code == 0
    first, second = lines(said)["data"]
    assert broken.name in first and "6 episodes" in second
