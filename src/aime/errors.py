"""The errors that AIME raises on purpose: each is a sentence for a person.

A message says what was wrong, with which file, flag or value, and what to do about it. The command line prints it
alone, without a traceback (``--debug`` shows the traceback too); library code raises the same classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AimeError(Exception):
    """Base of all the errors that a user can cause and mend."""


class ConfigError(AimeError, ValueError):
    """A setting, flag or argument has a value that cannot work."""


class ShapeError(AimeError, ValueError):
    """A tensor has the wrong shape, range or dtype."""


class DataError(AimeError):
    """A data store, shard or episode is missing, truncated or foreign."""


class CheckpointError(AimeError):
    """A checkpoint is missing, truncated, foreign, or does not fit the model."""


class RenderError(AimeError):
    """No renderer works on this machine, or the chosen one does not."""


class TrainingError(AimeError):
    """Training cannot go on: the loss stayed non-finite, or the disk is full."""


def unknown(kind: str, value: object, valid: Iterable[str]) -> ConfigError:
    """An error for a name that does not exist, with the nearest that do.

    >>> str(unknown("task", "walker-wlak", ["walker-walk", "walker-run"]))
    "unknown task 'walker-wlak'; did you mean walker-walk or walker-run?"
    """
    names = [str(name) for name in valid]
    near = get_close_matches(str(value), names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {str(value)!r}; {hint}")
