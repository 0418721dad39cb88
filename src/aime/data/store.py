"""A store of episodes: a folder of HDF5 shards beside one ``index.json``.

    store = EpisodeStore.open("data/humanoid-walk")
    store.split("train")            # ids of the episodes for training
    store.episode(0)["pixels"]      # (T, H, W, 3) uint8

Reading never changes a file. A shard that is missing, truncated or foreign is named when the store is opened; `verify`
reads every byte and compares the checksums.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aime.data.episodes import EpisodeRecord, ShardRecord, StoreInfo, describe_columns
from aime.data.index import INDEX_NAME, SPLITS, StoreIndex, assign_splits
from aime.data.shards import SHARD_BYTES, ShardWriter, check_shard, read_rows, read_whole_shard
from aime.errors import DataError, unknown

__all__ = ["EpisodeRecord", "EpisodeStore", "ShardRecord", "ShardWriter", "StoreInfo", "StoreWriter", "adopt_shards"]

_OPEN_SHARDS = 32
"""Shards a process keeps open; each costs a file descriptor and up to 2 MB of cache."""
_MEAN_EPISODES = 256
"""Episodes whose mean frame is the training split's, near enough."""


class EpisodeStore:
    """Episodes on disk, read where they lie. Can be handed to other processes: each opens the shards for itself."""

    def __init__(self, path: Path, index: StoreIndex) -> None:
        self.path = path
        self.index = index
        self._splits = assign_splits(index.episodes)
        self._by_id = {episode.id: episode for episode in index.episodes}
        self._opened: OrderedDict[str, Mapping[str, h5py.Dataset]] = OrderedDict()
        self._owner = os.getpid()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> EpisodeStore:
        """Opens a store and looks at the size and first bytes of each of its shards.

        Raises:
            DataError: there is no store, or a shard is missing, truncated or foreign; all such shards are named.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise DataError(f"no data in {folder}: there is no such folder. Collect some with `aime collect`")
        store = cls(folder, StoreIndex.load(folder))
        store._refuse([check_shard(folder, shard) for shard in store.index.shards])
        return store

    def verify(self) -> None:
        """Reads every shard and compares its checksum.

        Raises:
            DataError: naming all the shards that are not what was written.
        """
        self._refuse([check_shard(self.path, shard, checksum=True) for shard in self.index.shards])

    @property
    def task(self) -> str:
        """Where the episodes come from, such as humanoid-walk."""
        return self.index.info.task

    @property
    def time_step(self) -> float:
        """Seconds from one frame to the next."""
        return self.index.info.time_step

    @property
    def action_repeat(self) -> int:
        """Control steps of the environment per frame."""
        return self.index.info.action_repeat

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever any number in any episode does."""
        return self.index.fingerprint

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is stored for each frame."""
        return tuple(self.index.columns)

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        return int(self.index.columns["action"]["shape"][0])

    @property
    def image_size(self) -> int:
        """Height and width of a frame in pixels."""
        return int(self.index.columns["pixels"]["shape"][0])

    @property
    def episodes(self) -> tuple[EpisodeRecord, ...]:
        """The record of each episode, in the order of their ids."""
        return self.index.episodes

    @property
    def frames(self) -> int:
        """Frames in all the episodes together."""
        return sum(episode.length for episode in self.index.episodes)

    def __len__(self) -> int:
        return len(self.index.episodes)

    def __repr__(self) -> str:
        return f"EpisodeStore({str(self.path)!r}: {self.task}, {len(self)} episodes, {self.frames} frames)"

    def record(self, id: int) -> EpisodeRecord:
        """The record of an episode.

        Raises:
            DataError: there is no such episode.
        """
        if id not in self._by_id:
            raise DataError(f"{self.path} has no episode {id}; it has {len(self)} episodes")
        return self._by_id[id]

    def split_of(self, id: int) -> str:
        """train, validation or test: the split that an episode belongs to."""
        return self._splits[self.record(id).id]

    def split(self, name: str) -> list[int]:
        """Ids of the episodes of a split (train, validation or test), in order. No two splits share an episode.

        Raises:
            ConfigError: no such split.
            DataError: the store has no episode in it.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        ids = [episode.id for episode in self.episodes if self._splits[episode.id] == name]
        if not ids:
            raise DataError(f"{self.path} has no episode for the {name} split: {self._why_none()}")
        return ids

    def _why_none(self) -> str:
        """Why a split is empty, and what to do."""
        recorded = Counter(episode.split for episode in self.episodes if episode.split)
        if not recorded:
            few = "episode" if len(self) == 1 else "episodes"
            return (
                f"it has {len(self)} {few}, and train, validation and test share none. Collect at least {len(SPLITS)}"
            )
        found = ", ".join(f"{split} {recorded[split]}" for split in SPLITS if recorded[split])
        return (
            f"its source recorded the split of its episodes ({found}). Name another --split or --data-dir, or record "
            "all three splits there; two held-out episodes are enough for both validation and test"
        )

    def episode(self, id: int, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """A whole episode: each column with one row per frame (all columns unless some are named)."""
        return self.read(id, 0, self.record(id).length, columns)

    def read(self, id: int, start: int, stop: int, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Frames start to stop (exclusive) of an episode.

        Raises:
            DataError: no such episode or frames, or the shard is damaged.
            ConfigError: no such column.
        """
        record = self.record(id)
        if not 0 <= start < stop <= record.length:
            raise DataError(
                f"episode {id} of {self.path} has frames 0 to {record.length}; {start} to {stop} are not in it"
            )
        names = self.columns if columns is None else tuple(columns)
        for name in names:
            if name not in self.index.columns:
                raise unknown("column", name, self.columns)
        opened = self._open(record.shard)
        return read_rows(opened, self.path / record.shard, names, record.offset + start, record.offset + stop)

    def mean_frame(self) -> np.ndarray:
        """The mean of the training split's frames, float32 (3, H, W) in [0, 1]: the scene, and nothing of the moment.

        Over at most 256 episodes, spread evenly over the split.
        """
        ids = self.split("train")
        chosen = np.linspace(0, len(ids) - 1, min(len(ids), _MEAN_EPISODES)).round().astype(int)
        total, frames = np.zeros((3, self.image_size, self.image_size)), 0
        for place in chosen:
            pixels = self.episode(ids[place], ["pixels"])["pixels"]
            total += pixels.sum(axis=0, dtype=np.float64).transpose(2, 0, 1)
            frames += len(pixels)
        return (total / frames / 255.0).astype(np.float32)

    def close(self) -> None:
        """Closes the shards; reading opens them again."""
        if self._owner == os.getpid():
            while self._opened:
                _close_one(self._opened)
        # The handles of a parent process are not ours to close.
        self._opened = OrderedDict()
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["index"])  # type: ignore[misc]

    def _open(self, shard: str) -> Mapping[str, h5py.Dataset]:
        if self._owner != os.getpid():
            self.close()
        opened = self._opened.get(shard)
        if opened is None:
            path = self.path / shard
            try:
                # No locks: shards are never written again, and network file systems often cannot lock.
                file = h5py.File(path, "r", locking=False, rdcc_nbytes=512 * 1024)
                opened = {name: file[name] for name in self.columns}
            except (OSError, KeyError) as error:
                raise DataError(
                    f"{path} cannot be opened: it is missing, truncated or foreign ({error}); it was left as it is"
                ) from error
            self._opened[shard] = opened
            if len(self._opened) > _OPEN_SHARDS:
                _close_one(self._opened)
        self._opened.move_to_end(shard)
        return opened

    def _refuse(self, findings: Sequence[str | None]) -> None:
        wrong = [finding for finding in findings if finding]
        if wrong:
            raise DataError(
                f"{self.path} is not whole: {'; '.join(wrong)}. Nothing was changed: restore what is named from a "
                "copy, or collect into another folder"
            )


def _close_one(opened: OrderedDict[str, Mapping[str, h5py.Dataset]]) -> None:
    """Closes the shard that was not read for longest."""
    _, columns = opened.popitem(last=False)
    next(iter(columns.values())).file.close()  # and with it all of its columns


class StoreWriter:
    """Writes a store from one process, shard after shard.

        with StoreWriter(folder, StoreInfo("my-robot", time_step=0.1, action_repeat=1)) as writer:
            writer.add({"pixels": …, "action": …, "reward": …, "is_first": …}, policy="demonstration")

    Args:
        folder: a new or empty folder, or a store to which episodes are added.
        info: what the episodes have in common.
        shard_bytes: size at which a shard is closed and the next one begun.

    Raises:
        DataError: the folder holds the episodes of another task, or the disk is full.
    """

    def __init__(self, folder: str | os.PathLike[str], info: StoreInfo, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = Path(folder)
        self._shard_bytes = shard_bytes
        self._writer: ShardWriter | None = None
        self._index = StoreIndex(info, columns={})
        if (self.folder / INDEX_NAME).exists():
            self._index = EpisodeStore.open(self.folder).index
            if self._index.info.task != info.task:
                raise DataError(
                    f"{self.folder} holds {self._index.info.task}; {info.task} goes into a folder of its own"
                )
        self._next = 1 + max((episode.id for episode in self._index.episodes), default=-1)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:
            self._writer.discard()

    def add(
        self,
        columns: Mapping[str, np.ndarray],
        *,
        policy: str,
        seed: int = 0,
        renderer: str = "none",
        split: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> int:
        """Adds an episode (see `ShardWriter.append` for its columns) and returns its id."""
        if split is not None and split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if self._writer is None:
            self._writer = ShardWriter(self.folder / shard_name(self._next), self._index.info)
        described = describe_columns(columns)
        id = self._next
        record = self._writer.append(
            columns, id=id, policy=policy, seed=seed, renderer=renderer, split=split, details=details
        )
        if not self._index.columns:
            self._index = StoreIndex(self._index.info, described, self._index.shards, self._index.episodes)
        elif self._index.columns != described:
            raise DataError(
                f"episode {id} has other columns than {self.folder}: {described}, not {self._index.columns}"
            )
        self._next = record.id + 1
        if self._writer.bytes >= self._shard_bytes:
            self._finish_shard()
        return record.id

    def close(self) -> EpisodeStore:
        """Finishes the last shard and the index."""
        self._finish_shard()
        if not self._index.shards:
            raise DataError(f"no episode was written to {self.folder}")
        return EpisodeStore.open(self.folder)

    def _finish_shard(self) -> None:
        writer, self._writer = self._writer, None
        finished = writer.close() if writer is not None else None
        if finished is not None:
            self._index = self._index.with_shard(*finished)
            self._index.save(self.folder)


def shard_name(first_episode: int) -> str:
    """File name of the shard that begins with an episode."""
    return f"shard-{first_episode:06d}.h5"


def adopt_shards(folder: Path, index: StoreIndex | None) -> StoreIndex | None:
    """The index with the whole shards of the folder that it does not list, such as a killed collection leaves behind.

    Without an index, the shards make one; it is None if there are none. Files that are not shards of AIME, and shards
    of another task or whose episodes the index has already, are left alone.
    """
    for path in sorted(folder.glob("shard-*.h5")):
        if index is not None and path.name in {shard.file for shard in index.shards}:
            continue
        try:
            found = read_whole_shard(path)
        except DataError:
            continue
        if index is None:
            index = StoreIndex(found.info, found.columns)
        known = {episode.id for episode in index.episodes}
        alike = found.info.task == index.info.task and found.columns == index.columns
        if alike and not known & {episode.id for episode in found.episodes}:
            index = index.with_shard(found.shard, found.episodes)
    return index
