"""What every format has in common: an episode on its way from or to a store, readers, writers, and the way in which an
episode's origin travels with it."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.formats.frames import FrameFit
from aime.data.index import SPLITS, StoreInfo
from aime.errors import DataError

log = logging.getLogger("aime")

Leads = Literal["after", "before"]
"""Whether the action in a row was taken after the row's frame was seen (as in a store) or led to that frame."""

PASSPORT = "aime"
"""Attribute or file under which an export keeps what its format has no place for."""

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Origin:
    """Where an episode comes from (see `EpisodeRecord`)."""

    policy: str = "unknown"
    seed: int = 0
    renderer: str = "none"
    split: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: EpisodeRecord) -> Origin:
        """The origin of an episode of a store."""
        return cls(record.policy, record.seed, record.renderer, record.split, dict(record.details))


@dataclass(frozen=True)
class Tail:
    """Action and reward of an episode's last row, for formats that end with a frame alone."""

    action: np.ndarray
    reward: float


@dataclass(frozen=True)
class Episode:
    """An episode as its source has it."""

    name: str
    """File and key, for messages."""
    frames: int
    """Frames of the episode."""
    columns: Columns
    """``pixels`` (T, S, S, 3) uint8, ``action`` (T or T - 1, A) in the source's own units, ``reward`` where there is
    one, and whatever else has one row per frame."""
    origin: Origin = field(default_factory=Origin)
    tail: Tail | None = None


@dataclass(frozen=True)
class SourceInfo:
    """What a source says about all of its episodes; None where it says nothing."""

    task: str | None = None
    time_step: float | None = None
    action_repeat: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    bounds: tuple[np.ndarray, np.ndarray] | None = None
    """Lowest and highest action, where the source states finite ones."""

    @classmethod
    def from_passport(cls, said: Mapping[str, Any], **otherwise: Any) -> SourceInfo:
        """What an export of AIME wrote about its store, or `otherwise` where the source is nobody's export."""
        known = {name: said[name] for name in StoreInfo.__dataclass_fields__ if name in said}
        return cls(**{**otherwise, **known})


@dataclass(frozen=True)
class ReadOptions:
    """How to read, where a source leaves a choice."""

    camera: str | None = None
    """Which of several cameras."""
    fit: FrameFit = field(default_factory=FrameFit)
    """Size of the frames."""


class Reader(ABC):
    """A source's episodes, one after another; no more than one is in memory.

    Raises:
        DataError: the source is missing, truncated or foreign; file and key are named. It is never changed.
    """

    action_leads: ClassVar[Leads] = "after"
    last_invalid: ClassVar[bool] = False
    """Whether the last action and reward of an episode mean nothing."""
    measures: ClassVar[bool] = False
    """Whether actions are scaled by measured bounds where none are given."""

    def __init__(self, source: Path, options: ReadOptions) -> None:
        self.source = source
        self.options = options
        self.info = SourceInfo()

    @property
    def total(self) -> int | None:
        """Episodes in the source, where that is known beforehand."""
        return None

    @abstractmethod
    def episodes(self, *, pixels: bool = True) -> Iterator[Episode]:
        """The episodes. Without `pixels` only their actions need be read."""


class Writer(ABC):
    """Writes episodes of a store in another format, one after another.

    Args:
        path: the file or folder; it does not exist yet.
        info: what the store says about its episodes.
        columns: the store's columns.
    """

    lossless: ClassVar[bool] = True

    def __init__(self, path: Path, info: StoreInfo, columns: Mapping[str, Mapping[str, Any]]) -> None:
        self.path = path
        self.info = info
        self.columns = columns

    @abstractmethod
    def add(self, columns: Columns, record: EpisodeRecord) -> None:
        """Adds an episode."""

    @abstractmethod
    def close(self) -> None:
        """Finishes what was written."""

    def discard(self) -> None:  # noqa: B027 - most writers hold nothing open
        """Lets go of what is open, after an error; the files are removed by the caller."""


def info_passport(info: StoreInfo) -> dict[str, Any]:
    """What an export keeps of a store's description."""
    return {name: getattr(info, name) for name in StoreInfo.__dataclass_fields__}


def episode_passport(record: EpisodeRecord, tail: Tail | None = None) -> dict[str, Any]:
    """What an export keeps of an episode's origin; `tail` where the format has no place for the last row."""
    kept: dict[str, Any] = vars(Origin.of(record)).copy()
    if tail is not None:
        kept |= {"last_action": tail.action.astype(float).tolist(), "last_reward": float(tail.reward)}
    return kept


def read_passport(text: object) -> dict[str, Any]:
    """A passport from JSON; empty where there is none."""
    if not isinstance(text, str | bytes):
        return {}
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def from_passport(said: Mapping[str, Any], **otherwise: Any) -> tuple[Origin, Tail | None]:
    """Origin and last row of an episode as an export wrote them, or `otherwise`."""
    known = {name: said[name] for name in Origin.__dataclass_fields__ if name in said}
    origin = Origin(**{**otherwise, **known})
    if origin.split not in (None, *SPLITS):
        raise DataError(f"the passport of an episode names a split {origin.split!r} that does not exist")
    if "last_action" not in said:
        return origin, None
    return origin, Tail(np.asarray(said["last_action"], np.float64), float(said["last_reward"]))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        DataError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; it was left as it is") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is foreign: it holds no JSON object")
    return content
