"""Exports a store into another format, episode by episode."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aime.data.formats.hdf5 import SUFFIXES
from aime.data.formats.registry import find_format, open_writer, writable
from aime.data.formats.whole import Tell, appearing, refuse_taken
from aime.data.store import EpisodeStore
from aime.errors import ConfigError

log = logging.getLogger("aime")


@dataclass(frozen=True)
class ExportConfig:
    """What to export, and how."""

    store: Path
    out: Path
    """The file or folder to make."""
    format: str
    episodes: Sequence[int] = ()
    """Ids of the episodes; all of them where none are given."""


def export_data(config: ExportConfig, tell: Tell | None = None) -> Path:
    """Writes a store's episodes in another format, and says what the format loses.

    Raises:
        ConfigError: no such format, or one that AIME does not write.
        DataError: no such store or episodes, the place is taken, or the disk is full.
    """
    format = find_format(config.format)
    if format.writer is None:
        raise ConfigError(f"AIME reads {config.format} but does not write it; it writes {', '.join(writable())}")
    if format.suffix and config.out.suffix not in SUFFIXES:
        raise ConfigError(
            f"{config.format} is one HDF5 file: let --out end in {format.suffix}, not {config.out.name!r}"
        )
    store = EpisodeStore.open(config.store)
    ids = list(config.episodes) or [episode.id for episode in store.episodes]
    records = [store.record(id) for id in ids]
    refuse_taken(config.out)
    frames = 0
    with appearing(config.out) as path:
        writer = open_writer(config.format, path, store.index.info, store.index.columns)
        if not writer.lossless:
            log.info("frames are stored as lossy video, actions and rewards exactly")
        try:
            for count, record in enumerate(records, start=1):
                writer.add(store.episode(record.id), record)
                frames += record.length
                if tell is not None:
                    tell(count, frames, len(records))
            writer.close()
        except BaseException:
            writer.discard()
            raise
        finally:
            store.close()
    return config.out
