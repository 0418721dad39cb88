"""One measured figure, with its unit: a cell of the table, and an entry of the JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aime.bench.timing import Timing

Unit = Literal["s", "B", "FLOP", "FLOP/s", "frames/s", "steps/s", "windows/s", "parameters", "share", "times"]
Number = int | float


class NotMeasured(Exception):
    """Something cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Figure:
    """A value in its plain unit (seconds, bytes, FLOP, …), or None and in `note` the reason why it was not measured."""

    what: str
    value: Number | None
    unit: Unit
    least: Number | None = None
    """The lowest value over the rounds; None where there was one round, or nothing varies."""
    most: Number | None = None
    note: str = ""
    section: str = ""
    """Filled in, as the next two are, by whoever asked for the section."""
    preset: str = ""
    precision: str = ""

    @classmethod
    def taken(cls, what: str, timing: Timing, **more: str) -> Figure:
        """Seconds."""
        return cls(what, timing.median, "s", timing.least, timing.most, **more)

    @classmethod
    def rate(cls, what: str, count: Number, unit: Unit, timing: Timing, **more: str) -> Figure:
        """How many things a second, of which each run did `count`."""
        return cls(what, count / timing.median, unit, count / timing.most, count / timing.least, **more)

    @classmethod
    def ratio(
        cls, what: str, above: Timing, below: Timing, *, scale: Number = 1.0, unit: Unit = "times", note: str = ""
    ) -> Figure:
        """How many times as long one thing took as the other, round by round: both met the same busy moments."""
        each = Timing(tuple(scale * a / b for a, b in zip(above.seconds, below.seconds, strict=True)))
        return cls(what, each.median, unit, each.least, each.most, note)
