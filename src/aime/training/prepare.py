"""The episodes that a run needs: those that are there, or else some that are collected first."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aime.config import DataConfig
from aime.data.collect import CollectConfig, CollectProgress, collect
from aime.data.index import INDEX_NAME

log = logging.getLogger("aime")

BEGUN = ".collecting"
"""Marks a store that training began to collect and did not finish; while it is there, the next run goes on."""


def ensure_episodes(data: DataConfig, image_size: int, seed: int) -> None:
    """Collect `data.episodes` episodes of the task if the folder holds none, or holds what a stopped run began.

    Episodes that are there for another reason are taken as they are, however few.
    """
    folder = data.data_path
    mark = folder / BEGUN
    if (folder / INDEX_NAME).is_file() and not mark.exists():
        return
    config = CollectConfig(
        env=data.env,
        episodes=data.episodes,
        episode_length=data.episode_length,
        policy=data.policy,
        policy_file=data.policy_file,
        renderer=data.renderer,
        image_size=image_size,
        seed=seed,
        out=folder,
    )
    log.info("collecting %d episodes of %s into %s first", data.episodes, data.env, folder)
    console = Console(stderr=True)
    columns = (TextColumn("collecting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    finished = False
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=None)

            def tell(progress: CollectProgress) -> None:
                bar.update(task, completed=progress.frames, total=progress.total_frames)

            store = collect(config, tell)
            finished = True
    finally:
        if finished:
            mark.unlink(missing_ok=True)
        elif (folder / INDEX_NAME).is_file():
            mark.touch()
    log.info("%s holds %d episodes, %d frames", folder, len(store), store.frames)
