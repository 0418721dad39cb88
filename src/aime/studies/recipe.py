"""The recipe of the data that studies are made on: fixed here, once, so that figures of different days compare.

    stores = prepare(["cartpole-swingup"], Path("data"))      # into data/cartpole-swingup, unless they are there

Poses and actions follow from the recipe to the bit; pixels differ by a grey level or so between renderers, and the
data's fingerprint with them. So every study records both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aime.data.collect import CollectConfig
from aime.data.index import INDEX_NAME
from aime.data.policies import MIXTURE, PolicyName
from aime.data.simulation import require_tasks
from aime.data.store import EpisodeStore
from aime.errors import DataError
from aime.training.prepare import ensure_collected


@dataclass(frozen=True)
class Recipe:
    """How the episodes of a task are collected."""

    episodes: int = 288
    """By the store's splits: 230 to train on, 29 to validate and 29 to test; in all 144,000 steps of the simulator.
    From a quarter of them dynamics learns by heart what it cannot know."""
    test_episodes: int = 24
    """More of them to test: clips of one episode are alike, so that intervals are as wide as episodes are few."""
    episode_length: int = 250
    """Frames in an episode."""
    policy: PolicyName = "mixture"
    """What moves the body."""
    seed: int = 0
    """Seed of poses and actions."""
    action_repeat: int = 2
    """Control steps for which an action is held."""
    image_size: int = 64
    """Height and width of a frame in pixels."""
    segmentation: bool = True
    """Which body is seen at each pixel, for the health of attention."""

    def to_collect(self, task: str, folder: Path) -> CollectConfig:
        """The collection that follows it."""
        return CollectConfig(
            env=task,
            episodes=self.episodes,
            test_episodes=self.test_episodes,
            episode_length=self.episode_length,
            policy=self.policy,
            image_size=self.image_size,
            action_repeat=self.action_repeat,
            seed=self.seed,
            out=folder,
            segmentation=self.segmentation,
        )

    def differences(self, store: EpisodeStore, task: str) -> Iterator[str]:
        """What of a store is not as the recipe says, each in a clause."""
        policies = MIXTURE if self.policy == "mixture" else (self.policy,)
        found: dict[str, tuple[Any, Any]] = {
            "task": (store.task, task),
            "episodes": (len(store), self.episodes + self.test_episodes),
            "frames in an episode": (max(e.length for e in store.episodes), self.episode_length),
            "policies": (_several(e.policy for e in store.episodes), _several(policies)),
            "seed": (_several(str(e.seed) for e in store.episodes), str(self.seed)),
            "action repeat": (store.action_repeat, self.action_repeat),
            "frame size": (store.image_size, self.image_size),
            "segmentation": (_said("segmentation" in store.columns), _said(self.segmentation)),
        }
        return (f"{name} {there}, not {wanted}" for name, (there, wanted) in found.items() if there != wanted)


RECIPE = Recipe()
"""The recipe of `aime benchmark` and `aime ablate`."""


def prepare(tasks: Sequence[str], root: Path, recipe: Recipe = RECIPE) -> dict[str, EpisodeStore]:
    """The episodes of each task in ``root/<task>``, collected first where there are none, or where that was stopped.

    Raises:
        ConfigError: no such task.
        DataError: there are episodes of another recipe; it says what differs, and they are left as they are.
    """
    missing = [task for task in tasks if not (root / task / INDEX_NAME).is_file()]
    if missing:  # a mistyped last task is not found out after the first were collected
        require_tasks(*missing)
    return {task: _prepare(task, root / task, recipe) for task in tasks}


def _prepare(task: str, folder: Path, recipe: Recipe) -> EpisodeStore:
    ensure_collected(recipe.to_collect(task, folder))
    store = EpisodeStore.open(folder)
    wrong = list(recipe.differences(store, task))
    if wrong:
        raise DataError(
            f"{folder} was not collected by the recipe of studies: {'; '.join(wrong)}. Name another --data-dir, and "
            f"the recipe's episodes are collected there, or move {folder} away"
        )
    return store


def describe(store: EpisodeStore) -> dict[str, Any]:
    """What a study says of its data."""
    return {
        "task": store.task,
        "fingerprint": store.fingerprint,
        "renderer": _several(episode.renderer for episode in store.episodes),
        "episodes": len(store),
        "frames": store.frames,
        "versions": store.index.info.versions,
    }


def _several(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def _said(there: bool) -> str:
    return "kept" if there else "left out"
