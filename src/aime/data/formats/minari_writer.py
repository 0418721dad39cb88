"""Writes Minari's HDF5 (see `aime.data.formats.minari`)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aime.data.episodes import EpisodeRecord
from aime.data.formats.episode import Columns, Writer
from aime.data.formats.hdf5 import NewFile
from aime.data.formats.minari import MAIN, METADATA
from aime.data.formats.passport import PASSPORT, Tail, episode_passport, info_passport
from aime.data.index import StoreInfo

MINARI_VERSION = "0.5.0"
"""Whose layout this is; Minari refuses versions that it does not list, and lists every earlier one."""


class MinariWriter(Writer):
    """Writes a folder that Minari loads by its path: frames and other columns as a dictionary of observations."""

    def __init__(self, path: Path, info: StoreInfo, columns: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(path, info, columns)
        self._file = NewFile(path / "data" / MAIN, track_order=True)
        self._file.h5.attrs[PASSPORT] = json.dumps(info_passport(info))
        self._steps = 0

    def add(self, columns: Columns, record: EpisodeRecord) -> None:
        number = len(self._file.h5)
        group = self._file.h5.create_group(f"episode_{number}")
        steps = record.length - 1
        tail = Tail(columns["action"][-1], float(columns["reward"][-1]))
        group.attrs.update({"id": number, "total_steps": steps, "seed": record.seed})
        group.attrs[PASSPORT] = json.dumps(episode_passport(record, tail))
        seen = group.create_group("observations")
        for name, array in columns.items():
            if name not in ("action", "reward", "is_first"):
                self._file.put(seen, name, array)
        self._file.put(group, "actions", columns["action"][:-1])
        self._file.put(group, "rewards", columns["reward"][:-1])
        self._file.put(group, "terminations", np.zeros(steps, bool))
        self._file.put(group, "truncations", np.arange(steps) == steps - 1)
        self._steps += steps
        self._file.check()

    def close(self) -> None:
        episodes = len(self._file.h5)
        self._file.close()
        kept = {name: column for name, column in self.columns.items() if name not in ("action", "reward", "is_first")}
        metadata = {
            "dataset_id": f"{re.sub(r'[^0-9A-Za-z_-]', '-', self.info.task)}-v0",
            "minari_version": MINARI_VERSION,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": episodes,
            "total_steps": self._steps,
            "dataset_size": round(self._file.path.stat().st_size / 1e6, 1),
            "observation_space": json.dumps(
                {"type": "Dict", "subspaces": {name: _box(**column) for name, column in kept.items()}}
            ),
            "action_space": json.dumps(_box("float32", self.columns["action"]["shape"], -1.0, 1.0)),
        }
        (self._file.path.parent / METADATA).write_text(json.dumps(metadata, indent=1), encoding="utf-8")

    def discard(self) -> None:
        self._file.discard()


def _box(dtype: str, shape: list[int], low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """Gymnasium's Box as Minari writes it."""
    kind = np.dtype(dtype)
    if low is None or high is None:
        info = np.iinfo(kind) if kind.kind in "iu" else None
        low, high = (info.min, info.max) if info else (-np.inf, np.inf) if kind.kind == "f" else (0, 1)
    full = [np.full(shape, bound).tolist() for bound in (low, high)]
    return {"type": "Box", "dtype": dtype, "shape": list(shape), "low": full[0], "high": full[1]}
