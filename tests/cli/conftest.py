"""A data store and a trained-looking model on disk, small enough to use in every test of the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def aime(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command line in this process."""
    from aime.cli import main

    def call(*argv: str | Path) -> Said:
        code = main([str(a) for a in argv])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from tests.cli.made import write_run, write_store

    root = tmp_path_factory.mktemp("cli")
    store = write_store(root / "data" / "pushed-ball")
    return store, write_run(root / "runs" / "pushed-ball", store)


@pytest.fixture
def store(_made: tuple[Path, Path]) -> Path:
    """A store that no test may change."""
    return _made[0]


@pytest.fixture
def run_folder(_made: tuple[Path, Path]) -> Path:
    """A run that no test may change."""
    return _made[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path) -> Iterator[None]:
    """Commands write below the current folder; let that be a new one for each test."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)
