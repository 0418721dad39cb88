"""Where results are to go, looked at before the work: what cannot be written in the end is refused at the start.

And how places are called in what is given away.
"""

from __future__ import annotations

import os
from pathlib import Path

from aime.errors import ConfigError


def require_folder(folder: Path) -> None:
    """Refuse a folder for results that is not one, or could not be made or written into. Nothing is made yet.

    Raises:
        ConfigError: with the file in its place or on the way there, or the folder that may not be written into.
    """
    if (said := in_the_way(folder)) is not None:
        raise ConfigError(said)
    nearest = _nearest(folder)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"{nearest} may not be written into; change its permissions, or name another place")


def require_file(path: Path) -> None:
    """Refuse a file for results that is a folder, or lies in a place where none could be written.

    Raises:
        ConfigError: with what is in the way.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, but a file is wanted there; name a file inside it")
    require_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"{path} may not be written; change its permissions, or name another place")


def in_the_way(folder: Path) -> str | None:
    """What to say of something that lies where a folder is wanted, or on the way there; None if nothing does."""
    nearest = _nearest(folder)
    if nearest.is_dir():
        return None
    kind = "a link that leads nowhere" if nearest.is_symlink() and not nearest.exists() else "a file"
    return f"{nearest} is {kind}, but a folder is wanted there; move it, or name another place"


def _nearest(folder: Path) -> Path:
    """What there is of a path: itself, or the first of its parents."""
    return next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))


def from_home(path: Path) -> str:
    """A path with ~ for the home folder, for what is written into reports: those are given away."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
