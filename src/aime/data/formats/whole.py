"""What is imported or exported appears under its name when it is whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from aime.errors import DataError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Tell = Callable[[int, int, int | None], None]
"""Told after each episode how many there are, their frames, and how many there will be where that is known."""


def refuse_taken(path: Path) -> None:
    """Raises DataError if something lies at the path; an empty folder may."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise DataError(f"{path} exists already and is not overwritten; name another place with --out, or move it away")


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary name beside the path; what is made there is renamed when the block ends well, and removed if not.

    Raises:
        DataError: the disk is full.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            path.rmdir()  # empty, or it would have been refused
        os.replace(temporary, path)
    except (OSError, DataError) as error:
        if (full := _out_of_space(error)) is None:
            raise
        raise DataError(
            f"could not write {path}: {full}. Nothing was left behind: make room, or name another place with --out, "
            "and run the command again"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _out_of_space(error: BaseException | None) -> str | None:
    """What the disk said, where that is what an error comes from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return os.strerror(error.errno).lower()
        error = error.__cause__
    return None
