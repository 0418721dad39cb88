"""Shared set-up: every shape annotation in aime is checked while the tests run."""

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("aime", "beartype.beartype")

# Two workers share two cores; one thread each is faster than two threads that fight, and results do not depend on it.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def humanoid_store_path() -> Path:
    """A store of 6 real episodes of humanoid-walk, 48 frames of 64×64 each, 21 actions, with segmentation."""
    return Path(__file__).parent / "data" / "fixtures" / "humanoid-walk"


@pytest.fixture(scope="session")
def cartpole_store_path() -> Path:
    """A store of 6 real episodes of cartpole-swingup, 64 frames of 64×64 each, 1 action, with segmentation."""
    return Path(__file__).parent / "data" / "fixtures" / "cartpole-swingup"
