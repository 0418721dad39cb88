"""What the tests of the formats share: a store, and a fixture for what must be refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aime.data.formats.importing import ImportConfig, import_data
from aime.data.store import EpisodeStore
from aime.errors import AimeError
from tests.data.formats.scenes import write_store

Refuses = Callable[..., str]
"""Called with a source, words of the message and options of the import; returns the message."""


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Three episodes of 17, 5 and 30 frames; no test may change it."""
    return write_store(tmp_path_factory.mktemp("formats") / "ball-roll", [17, 5, 30])


def contents(place: Path) -> dict[str, str]:
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def refuses(tmp_path: Path) -> Refuses:
    """Import a source that must be refused: in one sentence, with the source as it was and nothing left behind."""

    def refuses(source: Path, *words: str, **options: Any) -> str:
        before = contents(source) if source.exists() else {}
        with pytest.raises(AimeError) as told:
            import_data(ImportConfig(source, tmp_path / "store", **options))
        for word in words:
            assert word in str(told.value)
        assert "\n" not in str(told.value).strip()
        assert (contents(source) if source.exists() else {}) == before
        assert not (tmp_path / "store").exists()
        assert not list(tmp_path.glob(".*"))
        return str(told.value)

    return refuses
