"""How an episode's origin travels with it: an export keeps what its format has no place for, an import reads it back.

It is JSON, in the attribute or the file that each format calls `PASSPORT`. Sources that are nobody's export have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.index import SPLITS, StoreInfo
from aime.errors import DataError

PASSPORT = "aime"
"""Name of the attribute, or stem of the file."""


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
