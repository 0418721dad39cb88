"""Collects episodes of video and actions from a simulated task into a store.

    store = collect(CollectConfig(env="humanoid-walk"))          # into data/humanoid-walk

Several processes simulate and draw; each writes its own shard. An episode depends on (seed, id) and the settings alone,
so the data are the same with any number of workers. What is in the folder already is kept and only what is missing is
collected, so a collection that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from aime.data.episodes import EpisodeRecord, ShardRecord, StoreInfo
from aime.data.index import INDEX_NAME, StoreIndex
from aime.data.policies import PolicyName
from aime.data.rendering import RendererName, select_renderer
from aime.data.store import EpisodeStore, adopt_shards
from aime.data.workers import Event, WorkerPool
from aime.errors import ConfigError, DataError, RenderError, unknown


@dataclass(frozen=True)
class CollectConfig:
    """What to collect, and how."""

    env: str = "humanoid-walk"
    """Task of the DeepMind Control Suite, as domain-task."""
    episodes: int = 24
    """Episodes that the store should have in the end; those that it has already count."""
    episode_length: int = 250
    """Frames in an episode. The default is 6,000 frames in all: about a minute on two cores."""
    policy: PolicyName = "mixture"
    """What moves the body."""
    policy_file: Path | None = None
    """Python file with a policy of your own: policy(time_step, rng) -> action in [-1, 1]. It is run: trust it."""
    renderer: RendererName = "auto"
    """What draws the frames; auto takes the first that works."""
    image_size: int = 64
    """Height and width of a frame in pixels: a multiple of 16, as models take them."""
    action_repeat: int = 2
    """Control steps for which an action is held; one frame is kept of each."""
    seed: int = 0
    """Seed of poses and actions."""
    workers: int = 0
    """Processes; 0 is one for each core, but 8 at most. The episodes do not depend on it."""
    out: Path | None = None
    """Folder of the store; data/<env> where it is not given."""
    segmentation: bool = False
    """Keep which body is seen at each pixel, too; drawing then takes twice as long."""
    test_episodes: int = 0
    """Episodes beyond `episodes`, all of the test split: what is learned from stays the same, and is judged on more."""

    def __post_init__(self) -> None:
        for name in ("episodes", "episode_length", "action_repeat"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("test_episodes", "seed", "workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 16 <= self.image_size <= 1024 or self.image_size % 16:
            raise ConfigError(f"image_size must be a multiple of 16 from 16 to 1024, got {self.image_size}")
        for kind, value, valid in (("policy", self.policy, PolicyName), ("renderer", self.renderer, RendererName)):
            if value not in get_args(valid):
                raise unknown(kind, value, get_args(valid))
        if self.policy_file is not None and not self.policy_file.is_file():
            raise ConfigError(f"policy_file {self.policy_file}: there is no such file")

    @property
    def folder(self) -> Path:
        """Where the store goes."""
        return self.out if self.out is not None else Path("data") / self.env


@dataclass(frozen=True)
class CollectProgress:
    """How far a collection is."""

    frames: int
    """Frames collected since it began."""
    total_frames: int
    """Frames that it will collect in all."""
    episodes: int
    """Whole episodes collected since it began."""
    seconds: float
    """Seconds since it began."""


def collect(config: CollectConfig, progress: Callable[[CollectProgress], None] | None = None) -> EpisodeStore:
    """Collects the episodes that the store does not have yet, and opens it.

    Ctrl-C stops it cleanly: whole episodes are kept.

    Args:
        progress: told now and then how far it is.

    Raises:
        ConfigError: no such task (with the nearest that exist), policy or renderer; or the policy file fails.
        RenderError: no renderer works.
        DataError: the folder holds another task's episodes or a broken store, or the disk is full.
    """
    folder = config.folder
    with _writing(folder):
        collection = _Collection(config, folder, progress)
        if collection.missing:
            try:
                collection.run(select_renderer(config.renderer).name)
            except RenderError:
                # What was found when the renderers were last tried may no longer hold.
                if config.renderer != "auto":
                    raise
                collection.run(select_renderer("auto", refresh=True).name)
    return EpisodeStore.open(folder)


class _Collection:
    def __init__(self, config: CollectConfig, folder: Path, progress: Callable[[CollectProgress], None] | None) -> None:
        self._config, self._folder, self._progress = config, folder, progress
        self._index = adopt_shards(folder, EpisodeStore.open(folder).index if (folder / INDEX_NAME).exists() else None)
        if self._index is not None:
            self._check_same(self._index)
            self._index.save(folder)
        self._began = time.monotonic()
        self._frames = self._episodes = 0
        self._total = len(self.missing) * config.episode_length

    @property
    def missing(self) -> list[int]:
        """Ids of the episodes that are still to be collected."""
        have = {episode.id for episode in self._index.episodes} if self._index else set()
        return [id for id in range(self._config.episodes + self._config.test_episodes) if id not in have]

    def run(self, renderer: str) -> None:
        """Hands out the missing episodes, one at a time to each worker, and enters each shard in the index."""
        c = self._config
        settings = asdict(c) | {
            "policy_file": str(c.policy_file.resolve()) if c.policy_file else None,
            "renderer": renderer,
            "out": str(self._folder.resolve()),
        }
        todo = self.missing
        pool = WorkerPool(min(c.workers or _cores(), len(todo)), settings, renderer)

        def handle(worker: int, event: Event) -> None:
            if event["event"] == "frames":
                self._frames += event["count"]
            elif event["event"] == "episode":
                self._episodes += 1
                self._total -= c.episode_length - event["length"]
            elif event["event"] == "shard":
                self._enter(event)
            if event["event"] in ("ready", "episode"):
                pool.ask(worker, todo.pop(0) if todo else None)
            self._tell()

        pool.run(handle)

    def _enter(self, event: Event) -> None:
        if self._index is None:
            self._index = StoreIndex(StoreInfo(**event["info"]), event["columns"])
        if self._index.columns != event["columns"]:
            raise DataError(
                f"{self._folder} has the columns {self._index.columns}, the new episodes {event['columns']}; collect "
                "them into a folder of their own"
            )
        episodes = [EpisodeRecord(**episode) for episode in event["episodes"]]
        self._index = self._index.with_shard(ShardRecord(**event["shard"]), episodes)
        self._index.save(self._folder)

    def _check_same(self, index: StoreIndex) -> None:
        """The episodes of a store must be alike."""
        c = self._config
        have = {
            "env": index.info.task,
            "action_repeat": index.info.action_repeat,
            "image_size": index.columns["pixels"]["shape"][0],
            "segmentation": "segmentation" in index.columns,
        }
        for name, value in have.items():
            if getattr(c, name) != value:
                raise DataError(
                    f"{self._folder} was collected with {name} {value}, now {getattr(c, name)} is asked for; give the "
                    "same, or another folder"
                )

    def _tell(self) -> None:
        if self._progress is not None:
            seconds = time.monotonic() - self._began
            self._progress(CollectProgress(self._frames, self._total, self._episodes, seconds))


def _cores() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 8)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Holds the folder for one collection, and clears away what a killed one left half-written."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if sys.platform != "win32":
            import fcntl

            try:
                # The workers inherit the handle, so that those of a killed collection hold the folder until they end.
                os.set_inheritable(handle, True)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"another collection is writing to {folder}; wait for it, or name another folder"
                ) from None
        for leftover in folder.glob(".shard-*.tmp"):
            leftover.unlink()
        yield
    finally:
        os.close(handle)
        if new:
            with contextlib.suppress(OSError):  # not empty: there are episodes in it
                folder.rmdir()
