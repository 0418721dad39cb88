"""What was measured, as a table to read and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aime.bench.config import BenchConfig
from aime.bench.figures import Figure, Number, Unit

BUSY = 0.1
"""Change of the matrix product's speed over a run above which it is said that the machine was busy."""
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Report:
    """All the figures of one run, and the machine that they are of."""

    machine: dict[str, str | int | float | None]
    config: BenchConfig
    figures: list[Figure]

    def lines(self) -> Iterator[str]:
        """The machine, then one table in Markdown: a row for each figure, a column for each preset and precision."""
        yield from self._about()
        yield ""
        measured = [f for f in self.figures if f.section != "probe"]
        columns = list(dict.fromkeys((f.preset, f.precision) for f in measured))
        cells: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
        for f in measured:
            cells.setdefault((f.section, f.what), {})[f.preset, f.precision] = cell(f)
        head = ["section", "what", *(f"{preset}, {precision}" for preset, precision in columns)]
        rows, last = [], ""
        for (section, what), row in cells.items():
            rows.append([section if section != last else "", what, *(row.get(column, "") for column in columns)])
            last = section
        yield from _markdown(head, rows)
        yield from self._remarks()

    def to_json(self) -> dict[str, Any]:
        """Plain values in plain units."""
        config = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self.config).items()}
        return {
            "machine": self.machine,
            "config": config,
            "figures": [dataclasses.asdict(figure) for figure in self.figures],
        }

    def save(self, path: Path) -> None:
        """Write the JSON; its folder is made if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _about(self) -> Iterator[str]:
        m = self.machine
        cores = f"{m['cores']} cores ({m['logical_cores']} logical), {m['threads']} threads used"
        yield f"{m['cpu']}: {cores}, {quantity(float(m['memory_bytes'] or 0), 'B')} of memory"
        gpu = m["gpu"] or "none, so nothing is measured on one"
        yield f"GPU: {gpu}; computed on: {m['device']}; {m['system']}; torch {m['torch']}; AIME {m['aime']}"
        for precision in ("float32", "bf16"):
            both = [f for f in self.figures if f.section == "probe" and f.precision == precision]
            yield f"{precision}: " + "; ".join(f"{f.what} {cell(f)}" for f in both)
        yield f"load of the machine: {m['load_before']:.1f} before, {m['load_after']:.1f} after"

    def _remarks(self) -> Iterator[str]:
        for precision in ("float32", "bf16"):
            speeds = [f.value for f in self.figures if f.section == "probe" and f.precision == precision and f.value]
            if speeds and max(speeds) > (1 + BUSY) * min(speeds):
                yield ""
                change = max(speeds) / min(speeds)
                yield (
                    f"The {precision} matrix product ran {change:.1f} times as fast at one end of the run as at the "
                    "other: the machine was busy, and these figures are not its best."
                )


def cell(figure: Figure) -> str:
    """A figure for a person: its value, and in parentheses its range and what belongs to it."""
    if figure.value is None:
        return f"not measured: {figure.note}"
    factor, _ = _scale(figure.value, figure.unit)
    more = []
    if figure.least is not None and figure.most is not None:
        more.append(f"{_digits(figure.least / factor)}–{_digits(figure.most / factor)}")
    if figure.note:
        more.append(figure.note)
    return quantity(figure.value, figure.unit) + (f" ({'; '.join(more)})" if more else "")


def quantity(value: Number, unit: Unit) -> str:
    """A number of three digits with a unit that fits its size."""
    factor, name = _scale(value, unit)
    return f"{_digits(value / factor)} {name}".strip()


def _scale(value: Number, unit: Unit) -> tuple[Number, str]:
    """What a value is divided by to be read easily, and what the unit is called then."""
    if unit == "share":
        return 0.01, "%"
    if unit == "times":
        return 1, "×"
    if unit == "s":
        return (1, "s") if value >= 1 else (1e-3, "ms")
    if unit == "B":
        return (2**30, "GiB") if value >= 2**30 else (2**20, "MiB")
    if unit in ("FLOP", "FLOP/s", "parameters"):
        factor, prefix = next(((f, p) for f, p in _PREFIXES if value >= f), (1.0, ""))
        return factor, prefix + ("" if unit == "parameters" else unit)
    return 1, unit


def _digits(value: Number) -> str:
    """Three digits that count, and all those before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, ["-" * width for width in widths], *rows):
        yield "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
