"""The index of a store: ``index.json``, which says what the shards hold, and which episodes are for training.

It is written whole or not at all. Its checksums say whether a shard is still what was written; the checksums of
the episodes make the store's fingerprint, which therefore depends on the data alone and not on how they lie in shards.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aime.data.episodes import EpisodeRecord, ShardRecord, StoreInfo
from aime.data.shards import FORMAT, FORMAT_VERSION, full_disk
from aime.errors import DataError

INDEX_NAME = "index.json"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class StoreIndex:
    """`index.json` as an object."""

    info: StoreInfo
    columns: dict[str, dict[str, Any]]
    """For each column its dtype and the shape of one frame's row."""
    shards: tuple[ShardRecord, ...] = ()
    episodes: tuple[EpisodeRecord, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever any number in any episode does."""
        digest = hashlib.sha256()
        for episode in self.episodes:
            digest.update(f"{episode.id}:{episode.sha256}\n".encode())
        return digest.hexdigest()[:16]

    def with_shard(self, shard: ShardRecord, episodes: Sequence[EpisodeRecord]) -> StoreIndex:
        """The index with one shard more.

        Raises:
            DataError: one of its episodes is in the store already.
        """
        known = {episode.id for episode in self.episodes}
        again = [episode.id for episode in episodes if episode.id in known]
        if again:
            raise DataError(f"{shard.file} holds episode {again[0]}, which the store has already")
        merged = sorted((*self.episodes, *episodes), key=lambda episode: episode.id)
        return replace(self, shards=(*self.shards, shard), episodes=tuple(merged))

    def save(self, folder: Path) -> None:
        """Writes `index.json` into the folder, whole or not at all."""
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **asdict(self.info),
            "columns": self.columns,
            "frames": sum(shard.frames for shard in self.shards),
            "fingerprint": self.fingerprint,
            "shards": [asdict(shard) for shard in self.shards],
            "episodes": [asdict(episode) for episode in self.episodes],
        }
        path = folder / INDEX_NAME
        temporary = folder / f".{INDEX_NAME}.{os.getpid()}.tmp"
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise full_disk(path, error) from error

    @classmethod
    def load(cls, folder: Path) -> StoreIndex:
        """Reads `index.json`.

        Raises:
            DataError: there is none, or it is damaged, foreign or of a newer version.
        """
        path = folder / INDEX_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(
                f"no data in {folder}: it has no {INDEX_NAME}. Collect some with `aime collect`, or name another folder"
            ) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{path} is damaged and was left as it is: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{path} is foreign: it is not the index of an AIME store")
        if content["format_version"] > FORMAT_VERSION:
            raise DataError(
                f"{path} has format version {content['format_version']}, newer than this AIME reads "
                f"({FORMAT_VERSION}): update AIME"
            )
        try:
            return cls(
                info=StoreInfo(**{name: content[name] for name in StoreInfo.__dataclass_fields__}),
                columns=content["columns"],
                shards=tuple(ShardRecord(**shard) for shard in content["shards"]),
                episodes=tuple(EpisodeRecord(**episode) for episode in content["episodes"]),
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged and was left as it is: {error!r} in its records") from error


def assign_splits(episodes: Sequence[EpisodeRecord]) -> dict[int, str]:
    """The split of each episode id: eight in ten for training, one for validation, one for testing.

    The split follows from the episode's id, or from its place in the order of the ids where the ids at hand would leave
    a split empty. So an episode keeps its split when more are added after it, and with three episodes or more no split
    is empty.

    A split that the source recorded is kept, and may leave another empty, with one exception: where all but validation
    or all but test is there, the one that is missing takes every second episode of the other, if that has two or more.
    """
    by_id = {episode.id: episode.split or _split_of(episode.id) for episode in episodes}
    missing = set(SPLITS) - set(by_id.values())
    if not missing:
        return by_id
    if not any(episode.split for episode in episodes):
        return {id: _split_of(place) for place, id in enumerate(sorted(by_id))}
    for lacking, other in (("validation", "test"), ("test", "validation")):
        if missing == {lacking}:
            shared = sorted(id for id, split in by_id.items() if split == other)
            by_id |= dict.fromkeys(shared[1::2], lacking)
    return by_id


def _split_of(place: int) -> str:
    """In every ten places one is for validation and one for testing; where they fall among the ten varies, so that
    data with a period do not send all of one kind to one split. The first three places fill all three splits."""
    block, position = divmod(place, 10)
    if block == 0:
        validation, test = 1, 2
    else:
        draw = hashlib.sha256(f"split {block}".encode()).digest()
        validation = draw[0] % 10
        test = (validation + 1 + draw[1] % 9) % 10
    return "validation" if position == validation else "test" if position == test else "train"
