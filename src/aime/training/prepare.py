"""What a run needs before its first step: settings without ``auto`` in them, and episodes, collected if need be."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aime.config import DataConfig, Precision, TrainConfig, replace
from aime.data.collect import CollectConfig, CollectProgress, collect
from aime.data.index import INDEX_NAME
from aime.data.simulation import require_tasks
from aime.data.store import EpisodeStore
from aime.errors import CheckpointError, ConfigError, DataError
from aime.training.checkpoint import Checkpoint, require_same_model
from aime.training.device import resolve_precisions
from aime.training.distributed import World, broadcast_from_first, wait_for_all
from aime.training.runs import RunFolder, require_same_run, run_settings

log = logging.getLogger("aime")

BEGUN = ".collecting"
"""Marks a store that training began to collect and did not finish; while it is there, the next run goes on."""


def resolve_settings(
    config: TrainConfig, run: RunFolder, checkpoint: Checkpoint | None, device: torch.device, world: World
) -> TrainConfig:
    """The settings with ``auto`` replaced by what it comes to here, or by what it came to when the run began.

    Of several processes rank 0 alone measures: they would be in each other's way, and might find otherwise.

    Raises:
        ConfigError: the run was begun under settings that may not change.
    """
    if checkpoint is not None:
        there = run_settings(run.path) or checkpoint.config
        require_same_run(run, there, config)
        if config.precision == "auto":
            config = replace(config, precision=there.precision)
        if config.optimizer.consolidation_precision == "auto":
            rest = there.optimizer.consolidation_precision
            config = replace(config, optimizer=replace(config.optimizer, consolidation_precision=rest))
    kind: Any = device.type
    config = replace(config, device=kind)
    return _as_the_first(resolve_precisions(config, device) if world.writes else config, device, world)


def _as_the_first(config: TrainConfig, device: torch.device, world: World) -> TrainConfig:
    """The settings with the precisions that rank 0 has."""
    names: tuple[Precision, ...] = get_args(Precision)
    of_run, at_rest = config.precision, config.optimizer.consolidation_precision
    chosen = torch.tensor([names.index(of_run), names.index(at_rest)], device=device)
    broadcast_from_first([chosen], world)
    of_run, at_rest = (names[int(i)] for i in chosen)
    agreed: TrainConfig = replace(
        config, precision=of_run, optimizer=replace(config.optimizer, consolidation_precision=at_rest)
    )
    return agreed


def open_episodes(config: TrainConfig, run: RunFolder, checkpoint: Checkpoint | None, world: World) -> EpisodeStore:
    """The episodes to train on, collected first by rank 0 if there are none.

    Raises:
        DataError: they are of another task, or broken.
        ConfigError: their frames have another size than the model's, or they would be collected shorter than a window.
        CheckpointError: they are not those that the run was trained on, or their actions have another size.
    """
    data, size = config.data, config.model.input_dim
    if world.writes:
        ensure_episodes(data, size, config.seed, config.model.sequence_length)
    wait_for_all(world)
    store = EpisodeStore.open(data.data_path)
    if store.task != data.env and data.data_dir is None:
        raise DataError(
            f"{data.data_path} holds {store.task}, not {data.env}; move it, or name it: --data-dir {data.data_path}"
        )
    if store.image_size != size:
        raise ConfigError(
            f"the frames in {data.data_path} are {store.image_size}×{store.image_size}, but the model's are "
            f"{size}×{size}: give --input-dim {store.image_size}, or another --data-dir"
        )
    if checkpoint is not None:
        require_same_model(checkpoint, config.model.for_actions(store.action_dim))
        if checkpoint.state.get("data_fingerprint") != store.fingerprint:
            raise CheckpointError(
                f"the data in {data.data_path} is not what the run in {run.path} was trained on, so it cannot go on as "
                "if it were. Give its --data-dir, or begin a new run on the new data with what this one learned: "
                f"--load-checkpoint {run.path} --run-dir <a new folder>"
            )
    return store


def ensure_episodes(data: DataConfig, image_size: int, seed: int, sequence_length: int) -> None:
    """Collect `data.episodes` episodes of the task if the folder holds none, or holds what a stopped run began.

    Episodes that are there for another reason are taken as they are, however few.

    Raises:
        ConfigError: no such task, or the episodes would be shorter than a window; nothing is collected then.
    """
    if _is_collected(data.data_path):
        return
    if data.episode_length < sequence_length:
        raise ConfigError(
            f"--episode-length {data.episode_length} is shorter than a training clip of --sequence-length "
            f"{sequence_length}, so nothing could be learned from the episodes to collect; give at least "
            f"--episode-length {sequence_length}, or a shorter --sequence-length"
        )
    ensure_collected(
        CollectConfig(
            env=data.env,
            episodes=data.episodes,
            episode_length=data.episode_length,
            policy=data.policy,
            policy_file=data.policy_file,
            renderer=data.renderer,
            image_size=image_size,
            seed=seed,
            out=data.data_path,
        )
    )


def ensure_collected(config: CollectConfig) -> None:
    """Collect what a configuration says if its folder holds no episodes, or holds what was begun here and stopped.

    Raises:
        ConfigError: no such task; that is found out before anything else is done.
    """
    folder = config.folder
    if _is_collected(folder):
        return
    require_tasks(config.env)
    log.info("collecting %d episodes of %s into %s first", config.episodes, config.env, folder)
    console = Console(stderr=True)
    columns = (TextColumn("collecting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _begun(folder), Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def tell(progress: CollectProgress) -> None:
            bar.update(task, completed=progress.frames, total=progress.total_frames)

        store = collect(config, tell)
    log.info("%s holds %d episodes, %d frames", folder, len(store), store.frames)


def _is_collected(folder: Path) -> bool:
    """Whether a folder holds episodes, and not a part of those that were begun here."""
    return (folder / INDEX_NAME).is_file() and not (folder / BEGUN).exists()


@contextmanager
def _begun(folder: Path) -> Iterator[None]:
    """Mark a folder while episodes are collected into it, so that even after a kill the next run goes on."""
    mark, new = folder / BEGUN, not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    finished = False
    try:
        yield
        finished = True
    finally:
        if finished or not (folder / INDEX_NAME).is_file():
            mark.unlink(missing_ok=True)
        if new and not any(folder.iterdir()):  # nothing came of it: leave nothing behind
            folder.rmdir()
