"""One shard: an HDF5 file of 100–250 MB that holds whole episodes, one after another.

Every column is one flat dataset over all frames of the shard (``pixels`` is ``(N, H, W, 3)``, ``action`` is ``(N, A)``,
…); ``ep_offset`` and ``ep_len`` say where each episode lies. Pixels lie in chunks of 16 frames under gzip 4: lossless,
a third to a tenth of the raw size, and a random window of 16 frames touches two chunks at most. The records of the
episodes (policy, seed, renderer, checksum) are in the shard too, so that a shard whose index was lost still says what
it is.

A shard is written under a temporary name and renamed into place when it is whole, so under its final name there is
never half a shard.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from aime.data.episodes import (
    EpisodeRecord,
    ShardRecord,
    StoreInfo,
    check_episode,
    describe_columns,
    episode_digest,
    file_digest,
)
from aime.errors import DataError

FORMAT = "aime-episodes"
FORMAT_VERSION = 1
CHUNK_FRAMES = 16
SHARD_BYTES = 200 * 1024**2
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class ShardFile(io.FileIO):
    """A file that keeps a failed write to itself.

    HDF5 cannot close a file whose writes fail, and takes the process down at exit. So it is told that all is well, and
    the writer asks for `failed` after each episode.
    """

    failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while len(view) and self.failed is None:
                view = view[super().write(view) :]
        except OSError as error:
            self.failed = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failed = error
            return size or 0

    def fsync(self) -> None:
        try:
            os.fsync(self.fileno())
        except OSError as error:
            self.failed = error


class ShardWriter:
    """Writes one shard. ``close`` puts it in place; leaving a ``with`` block by an error discards it.

    Args:
        path: final name; it must not exist.
        info: what the episodes have in common; kept in the shard too.

    Raises:
        DataError: the name is taken, an episode does not fit the others, or the disk is full.
    """

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self.path = path
        self._info = info
        if path.exists():
            raise DataError(f"{path} exists already and is not overwritten; move it away and try again")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._raw = self._guard(lambda: ShardFile(self._temporary, "w+"))
        self._file = h5py.File(self._raw, "w")
        self._episodes: list[EpisodeRecord] = []
        self._frames = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @property
    def bytes(self) -> int:
        """Size of the file so far."""
        return os.fstat(self._raw.fileno()).st_size

    @property
    def closed(self) -> bool:
        """Whether the shard is finished or given up."""
        return self._raw.closed

    @property
    def episodes(self) -> int:
        """Episodes written so far."""
        return len(self._episodes)

    def append(
        self,
        columns: Mapping[str, np.ndarray],
        *,
        id: int,
        policy: str,
        seed: int,
        renderer: str,
        split: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> EpisodeRecord:
        """Adds a whole episode: ``pixels`` uint8 (T, S, S, 3), ``action`` float32 (T, A), ``reward`` float32 (T,),
        ``is_first`` bool (T,), and whatever else has one row per frame."""
        length = check_episode(columns)
        if not self._episodes:
            for name, array in columns.items():
                self._create(name, array)
        self._check_fit(columns)
        for name, array in columns.items():
            column = self._file[name]
            column.resize(self._frames + length, axis=0)
            column[self._frames :] = array
        record = EpisodeRecord(
            id=id,
            length=length,
            policy=policy,
            seed=seed,
            renderer=renderer,
            sha256=episode_digest(columns),
            shard=self.path.name,
            offset=self._frames,
            split=split,
            details=dict(details or {}),
        )
        self._episodes.append(record)
        self._frames += length
        self._file.flush()
        self._check_disk()
        return record

    def close(self) -> tuple[ShardRecord, list[EpisodeRecord]] | None:
        """Finishes the shard and renames it into place. Returns its records, or None if it held no episode."""
        if not self._episodes:
            self.discard()
            return None
        self._file.attrs["columns"] = sorted(self._file)
        self._file["ep_offset"] = np.array([record.offset for record in self._episodes], np.int64)
        self._file["ep_len"] = np.array([record.length for record in self._episodes], np.int64)
        # A dataset, because an attribute holds 64 KB at most.
        records = json.dumps([asdict(record) for record in self._episodes]).encode()
        self._file["records"] = np.frombuffer(records, np.uint8)
        self._file.attrs["format"] = FORMAT
        self._file.attrs["format_version"] = FORMAT_VERSION
        self._file.attrs["info"] = json.dumps(asdict(self._info))
        self._file.close()
        self._raw.fsync()
        self._check_disk()
        self._raw.close()
        shard = ShardRecord(
            file=self.path.name,
            frames=self._frames,
            episodes=len(self._episodes),
            bytes=self._temporary.stat().st_size,
            sha256=file_digest(self._temporary),
        )
        if self.path.exists():
            self.discard()
            raise DataError(f"{self.path} appeared while it was being written and is not overwritten")
        self._guard(lambda: os.replace(self._temporary, self.path))
        return shard, self._episodes

    def discard(self) -> None:
        """Gives up what was written."""
        self._file.close()
        self._raw.close()
        with contextlib.suppress(FileNotFoundError):
            self._temporary.unlink()

    def _create(self, name: str, array: np.ndarray) -> None:
        image = name in ("pixels", "segmentation")
        self._file.create_dataset(
            name,
            shape=(0, *array.shape[1:]),
            maxshape=(None, *array.shape[1:]),
            dtype=array.dtype,
            chunks=(CHUNK_FRAMES if image else 256, *array.shape[1:]),
            compression="gzip" if image else None,
            compression_opts=4 if image else None,
        )

    def _check_fit(self, columns: Mapping[str, np.ndarray]) -> None:
        for name in sorted({*self._file, *columns}):
            have = self._file.get(name)
            new = columns.get(name)
            if have is None or new is None:
                raise DataError(
                    f"the episodes of {self.path.name} must have the same columns; {name} is not in all of them"
                )
            if have.dtype != new.dtype or have.shape[1:] != new.shape[1:]:
                raise DataError(
                    f"the episodes of {self.path.name} must be alike; {name} was {have.dtype} {have.shape[1:]} per "
                    f"frame and is now {new.dtype} {new.shape[1:]}"
                )

    def _check_disk(self) -> None:
        if self._raw.failed is not None:
            failed = self._raw.failed
            self.discard()
            raise full_disk(self.path, failed) from failed

    def _guard(self, action: Any) -> Any:
        try:
            return action()
        except OSError as error:
            raise full_disk(self.path, error) from error


def full_disk(path: Path, error: OSError) -> DataError:
    """The sentence for a file that could not be written."""
    return DataError(
        f"could not write {path}: {error.strerror or error}. Nothing half-written was left behind and the episodes "
        "stored before are kept; make room (or choose another folder) and run the command again, it goes on from there"
    )


def check_shard(folder: Path, shard: ShardRecord, *, checksum: bool = False) -> str | None:
    """What is wrong with a shard, as a clause that begins with its name; None if nothing is. Only ever reads.

    Without `checksum` this looks at the file's size and first bytes only.
    """
    path = folder / shard.file
    if not path.is_file():
        return f"{shard.file} is missing"
    with path.open("rb") as file:
        signature = file.read(len(HDF5_SIGNATURE))
    size = path.stat().st_size
    if size < shard.bytes and HDF5_SIGNATURE.startswith(signature):
        return f"{shard.file} is truncated ({size:,} bytes where the index says {shard.bytes:,})"
    if signature != HDF5_SIGNATURE:
        return f"{shard.file} is foreign (it is not an HDF5 file)"
    if size != shard.bytes:
        return f"{shard.file} is foreign ({size:,} bytes where the index says {shard.bytes:,})"
    if checksum and file_digest(path) != shard.sha256:
        return f"{shard.file} does not match its checksum (its contents changed after it was written)"
    return None


@dataclass(frozen=True)
class WholeShard:
    """What a shard says of itself."""

    info: StoreInfo
    columns: dict[str, dict[str, Any]]
    shard: ShardRecord
    episodes: list[EpisodeRecord]


def read_whole_shard(path: Path) -> WholeShard:
    """Everything that an index says of a shard, from the shard itself.

    Raises:
        DataError: the file is truncated or not a shard of AIME.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise DataError(f"{path} is foreign: an HDF5 file, but not a shard of AIME")
            info = StoreInfo(**json.loads(file.attrs["info"]))
            episodes = [EpisodeRecord(**record) for record in json.loads(bytes(file["records"][()]))]
            columns = describe_columns({name: file[name] for name in file.attrs["columns"]})
    except (OSError, KeyError) as error:
        raise DataError(f"{path} is truncated or foreign: it cannot be read as a shard ({error})") from error
    frames = sum(episode.length for episode in episodes)
    shard = ShardRecord(path.name, frames, len(episodes), path.stat().st_size, file_digest(path))
    return WholeShard(info, columns, shard, episodes)


def read_rows(
    opened: Mapping[str, h5py.Dataset], path: Path, columns: Sequence[str], start: int, stop: int
) -> dict[str, np.ndarray]:
    """Rows start to stop of some columns of an open shard.

    Raises:
        DataError: the file is damaged there.
    """
    try:
        return {name: opened[name][start:stop] for name in columns}
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{path} is damaged: frames {start} to {stop} cannot be read ({error}); it was left as it is. "
            "Restore it from a copy, or collect again into another folder"
        ) from error
