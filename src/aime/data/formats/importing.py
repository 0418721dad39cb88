"""Imports a source of another format into a store, episode by episode: what is longer than one is never in memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from aime.data.formats.actions import ActionScale, align, measured_scale, stated_scale
from aime.data.formats.episode import Columns, Episode, Leads, Reader, ReadOptions
from aime.data.formats.frames import MULTIPLE, FrameFit
from aime.data.formats.registry import FORMATS, find_format, guess_format, open_reader
from aime.data.formats.whole import Tell, appearing, refuse_taken
from aime.data.index import StoreInfo
from aime.data.store import EpisodeStore, StoreWriter
from aime.errors import ConfigError, DataError

log = logging.getLogger("aime")

TIME_STEP = 0.05
"""Seconds from frame to frame that are noted where nobody says."""


@dataclass(frozen=True)
class ImportConfig:
    """What to import, and how."""

    source: Path
    out: Path
    """Folder of the store to make."""
    format: str | None = None
    """Name of the format; guessed from what lies in the source where it is not given."""
    image_size: int | None = None
    """Height and width of the store's frames."""
    crop: bool = False
    """Cut the middle square out of wide frames, rather than squeeze them."""
    camera: str | None = None
    """Which of several cameras."""
    action_low: Sequence[float] = ()
    """Lowest action in the source's units: one number for all, or one for each."""
    action_high: Sequence[float] = ()
    """Highest action."""
    measure_actions: bool = False
    """Take the bounds of the actions from the data."""
    action_leads: Leads | None = None
    """Whether a row's action follows its frame or led to it; as the format has it where it is not given."""
    task: str | None = None
    """What to call the task, rather than what the source does."""
    time_step: float | None = None
    """Seconds from one frame to the next, rather than what the source says."""
    episodes: int | None = None
    """Import so many only."""

    def __post_init__(self) -> None:
        size = self.image_size
        if size is not None and (size % MULTIPLE or not MULTIPLE <= size <= 1024):
            raise ConfigError(f"image_size must be a multiple of {MULTIPLE} from {MULTIPLE} to 1024, got {size}")
        if bool(self.action_low) != bool(self.action_high):
            raise ConfigError("action_low and action_high go together: give both")
        if self.action_low and self.measure_actions:
            raise ConfigError("give action_low and action_high, or measure_actions, not both")
        if self.time_step is not None and not self.time_step > 0:
            raise ConfigError(f"time_step must be more than 0 seconds, got {self.time_step}")
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"episodes must be at least 1, got {self.episodes}")


def import_data(config: ImportConfig, tell: Tell | None = None) -> EpisodeStore:
    """Makes a store of a source.

    Raises:
        ConfigError: no such format, or bounds that do not fit.
        DataError: the source is missing, truncated or foreign (file and key are named; it is left as it is), its
            actions have no known bounds, the place is taken, or the disk is full.
    """
    name = config.format or guess_format(config.source)
    find_format(name)
    if not config.format:
        log.info("%s: %s", config.source, FORMATS[name].summary)
    refuse_taken(config.out)
    fit = FrameFit(config.image_size, crop=config.crop)
    reader = open_reader(name, config.source, ReadOptions(config.camera, fit))
    leads = config.action_leads or reader.action_leads
    scale = _scale(config, reader, leads)
    with appearing(config.out) as folder:
        writer: StoreWriter | None = None
        count = frames = 0
        total = reader.total if config.episodes is None else min(config.episodes, reader.total or config.episodes)
        with contextlib.ExitStack() as stack:
            for episode in islice(reader.episodes(), config.episodes):
                columns = _columns(episode, leads, reader, scale, fit)
                if writer is None:
                    writer = stack.enter_context(StoreWriter(folder, _info(config, name, reader, scale)))
                    if "reward" not in episode.columns:
                        log.info("%s has no rewards: they are 0", config.source)
                origin = episode.origin
                try:
                    writer.add(
                        columns,
                        policy=origin.policy,
                        seed=origin.seed,
                        renderer=origin.renderer,
                        split=origin.split,
                        details=origin.details,
                    )
                except DataError as error:
                    raise DataError(f"{episode.name}: {error}") from error
                count, frames = count + 1, frames + episode.frames
                if tell is not None:
                    tell(count, frames, total)
        if writer is None:
            raise DataError(f"{config.source} has no episodes")
    return EpisodeStore.open(config.out)


def _scale(config: ImportConfig, reader: Reader, leads: Leads) -> ActionScale:
    """How the source's actions come to [-1, 1]; said aloud where they change."""

    def actions() -> Iterator[np.ndarray]:
        for episode in islice(reader.episodes(pixels=False), config.episodes):
            yield align(episode, leads, reader.last_invalid)[0]

    info = reader.info
    if config.action_low:
        first = next(actions(), None)
        if first is None:
            raise DataError(f"{config.source} has no episodes")
        scale = stated_scale(config.action_low, config.action_high, first.shape[1])
    elif config.measure_actions or (reader.measures and not info.scaled):
        scale = measured_scale(actions())
    elif info.bounds is not None and not info.scaled:
        scale = ActionScale(info.bounds, "stated by the source")
    else:
        return ActionScale()
    if not scale.is_identity:
        log.info("actions are scaled to [-1, 1] from bounds %s: %s", scale.source, scale)
    return scale


def _columns(episode: Episode, leads: Leads, reader: Reader, scale: ActionScale, fit: FrameFit) -> Columns:
    """The columns of a store's episode."""
    action, reward = align(episode, leads, reader.last_invalid)
    columns = {name: array for name, array in episode.columns.items() if name not in ("action", "reward", "is_first")}
    if "segmentation" in columns:
        columns["segmentation"] = fit.mask(columns["segmentation"])
    columns["action"] = scale(action, episode.name)
    columns["reward"] = reward.astype(np.float32)
    columns["is_first"] = np.arange(episode.frames) == 0
    return columns


def _info(config: ImportConfig, name: str, reader: Reader, scale: ActionScale) -> StoreInfo:
    info = reader.info
    time_step = config.time_step or info.time_step
    if time_step is None:
        time_step = TIME_STEP
        log.info(
            "%s does not say how far apart its frames are: %g s is noted; --time-step says otherwise", name, time_step
        )
    details = dict(info.details)
    if scale.bounds is not None:
        details |= {"action_low": scale.bounds[0].tolist(), "action_high": scale.bounds[1].tolist()}
    if not info.scaled:
        details["imported_from"] = name
    return StoreInfo(
        config.task or info.task or config.out.name, float(time_step), info.action_repeat, info.versions, details
    )
