"""A store for the tests of the formats; what its episodes are is in `scenes`."""

from __future__ import annotations

import pytest

from aime.data.store import EpisodeStore
from tests.data.formats.scenes import write_store


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Three episodes of 17, 5 and 30 frames; no test may change it."""
    return write_store(tmp_path_factory.mktemp("formats") / "ball-roll", [17, 5, 30])
