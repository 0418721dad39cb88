"""What every format has in common: an episode on its way from or to a store, readers and writers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.formats.frames import FrameFit
from aime.data.formats.passport import Origin, Tail
from aime.data.index import StoreInfo

Leads = Literal["after", "before"]
"""Whether the action in a row was taken after the row's frame was seen (as in a store) or led to that frame."""

Columns = dict[str, np.ndarray]


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
    scaled: bool = False
    """Whether it is an export of a store, whose actions are in [-1, 1] already."""

    @classmethod
    def from_passport(cls, said: Mapping[str, Any], **otherwise: Any) -> SourceInfo:
        """What an export of AIME wrote about its store, or `otherwise` where the source is nobody's export."""
        known = {name: said[name] for name in StoreInfo.__dataclass_fields__ if name in said}
        return cls(**{**otherwise, **known, "scaled": bool(known)})


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
