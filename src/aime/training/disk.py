"""Files that are there whole or not at all, and a full disk said in a sentence."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from aime.errors import TrainingError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_errors(what: str, folder: Path, advice: str = "") -> Iterator[None]:
    """Turn a failure to write inside `folder` into a `TrainingError` that says what was not written, and why.

    Args:
        what: what was being written, to begin the sentence: "the checkpoint of step 100".
        advice: what is safe and what to do.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = error.errno if isinstance(error, OSError) else _os_error(error)
        if code is None and isinstance(error, SafetensorError):
            raise  # not the disk's doing
        free = _free(folder)
        if code in _FULL:
            reason = f"the disk is full ({free} free where {folder} is)"
        else:
            reason = os.strerror(code) if code is not None else str(error)
        raise TrainingError(
            f"{what} could not be written to {folder}: {reason}{'; ' + advice if advice else ''}"
        ) from error


def _os_error(error: SafetensorError) -> int | None:
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def _free(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB"


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write a small text file so that a reader finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder so that a kill in the middle never leaves a part of it under its own name."""
    doomed = folder.with_name(f".removing-{folder.name}")
    if doomed.exists():  # a killed process left it
        shutil.rmtree(doomed)
    folder.rename(doomed)
    shutil.rmtree(doomed)
