"""Plots: mixture weights over time, scores by horizon, calibration of the dream's spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from numpy.typing import NDArray

from aime.pictures import style
from aime.pictures.frames import Maps, to_array


@dataclass(frozen=True)
class Line:
    """One line of a plot by horizon, with its interval."""

    label: str
    mean: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: str = style.DREAM
    dashed: bool = False
    strong: bool = False
    """Drawn thicker, and over the others."""


@dataclass(frozen=True)
class Panel:
    """One set of axes with lines by horizon."""

    title: str
    unit: str
    lines: Sequence[Line]
    zero: bool = False
    """Draw a line at zero, for differences."""
    own_legend: bool = False
    """Explain these lines inside the panel instead of below all of them."""
    floor: float | None = None
    """Draw nothing below this, for scores that fall without bound."""


def draw_horizons(panels: Sequence[Panel], path: Path, *, columns: int = 2, heading: str = "") -> Path:
    """Scores by horizon with 95% intervals, one panel per score, and one legend for all of them."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = style.new_figure(rows, columns, panel=(4.8, 3.1))
    handles: dict[str, Artist] = {}
    for axis, panel in zip(axes, panels, strict=False):
        style.label(axis, title=panel.title, x="horizon (frames)", y=panel.unit)
        if panel.zero:
            axis.axhline(0.0, color=style.MUTED, linewidth=1.0)
        for line in panel.lines:
            horizon = np.arange(1, len(line.mean) + 1)
            mean = np.array(line.mean, dtype=float)
            (drawn,) = axis.plot(
                horizon,
                mean,
                color=line.colour,
                linewidth=2.4 if line.strong else 1.6,
                linestyle=(0, (4, 2)) if line.dashed else "-",
                label=line.label,
                # A dashed line that lies on a strong one is still seen.
                zorder=4 if line.dashed else 3 if line.strong else 2,
            )
            if line.low is not None and line.high is not None:
                low, high = np.array(line.low, dtype=float), np.array(line.high, dtype=float)
                axis.fill_between(horizon, low, high, color=line.colour, alpha=0.16, linewidth=0)
            if not panel.own_legend:
                handles.setdefault(line.label, drawn)
        if panel.own_legend:
            axis.legend(frameon=False, fontsize=9, loc="best")
        axis.set_xlim(1, max(2, max(len(line.mean) for line in panel.lines)))
        if panel.floor is not None:
            axis.set_ylim(bottom=max(panel.floor, axis.get_ylim()[0]))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    if heading:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=12.5, color=style.INK)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(len(handles), 3 * columns),
        frameon=False,
        fontsize=9.5,
    )
    return style.save(figure, path)


def draw_coverage(nominal: Sequence[float], observed: Sequence[Line], path: Path, *, heading: str = "") -> Path:
    """How often the truth lies in the central intervals of the dream's samples, against how often it should.

    Args:
        nominal: the probabilities of the intervals, ascending.
        observed: lines over `nominal`, such as one for early and one for late horizons.
    """
    figure, (axis,) = style.new_figure(1, 1, panel=(4.8, 4.4))
    style.label(axis, title=heading, x="probability of the interval", y="share of moving pixels inside it")
    axis.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 2)), label="calibrated")
    for line in observed:
        axis.plot(nominal, line.mean, color=line.colour, marker="o", markersize=4, linewidth=1.8, label=line.label)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.legend(frameon=False, fontsize=9.5, loc="upper left")
    return style.save(figure, path)


def draw_mixture(
    weights: Maps,
    path: Path,
    *,
    dreamed: Maps | None = None,
    surprise: Maps | None = None,
    title: str = "Mixture weights while watching",
    named: float = 0.05,
) -> Path:
    """Mixture weights over a clip as a stacked area, how many components they come to, and the surprise.

    Args:
        weights: π (T, K) of the frames watched, rows summing to 1.
        dreamed: π (T', K) of a dream of the last T' of these frames.
        surprise: −log p(z[t]) in nats (T,).
        named: components that never reach this weight are drawn together, in grey.
    """
    watched = to_array(weights).astype(float)
    dream = None if dreamed is None else to_array(dreamed).astype(float)
    time = np.arange(len(watched))
    after = None if dream is None else time[len(time) - len(dream) :]
    shown = [k for k in range(watched.shape[1]) if _peak(watched, dream, k) >= named]
    figure, axes = style.new_figure(2 + (dream is not None) + (surprise is not None), 1, panel=(8.6, 2.1))
    rest = iter(axes)

    axis = next(rest)
    _stack(axis, time, watched, shown)
    style.label(axis, title=title, y="weight π")
    axis.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.005, 1.03), ncols=1 + len(shown) // 8)
    if dream is not None and after is not None:
        axis = next(rest)
        _stack(axis, after, dream, shown)
        style.label(axis, title="Mixture weights while dreaming", y="weight π")
        _mark_dream(axis, int(after[0]))

    axis = next(rest)
    axis.plot(time, _effective(watched), color=style.INK, linewidth=1.8, label="watching")
    top = _effective(watched).max()
    if dream is not None and after is not None:
        axis.plot(after, _effective(dream), color=style.DREAM, linewidth=1.8, label="dreaming")
        axis.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.005, 1.03))
        top = max(top, _effective(dream).max())
    axis.set_ylim(0.8, max(2.2, top * 1.15))
    style.label(axis, title="Effective components", y="exp of entropy")
    if surprise is not None:
        axis = next(rest)
        axis.plot(time, to_array(surprise).astype(float), color=style.VERMILION, linewidth=1.8)
        style.label(axis, title="Surprise at each frame watched", y="nats")
    for axis in axes:
        axis.set_xlim(0, max(1, len(time) - 1))
    axes[-1].set_xlabel("frame", fontsize=9.5, color=style.INK)
    return style.save(figure, path)


def _peak(watched: NDArray[np.float64], dream: NDArray[np.float64] | None, component: int) -> float:
    peak = watched[:, component].max()
    return float(peak if dream is None else max(peak, dream[:, component].max()))


def _effective(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-(weights * np.log(weights.clip(1e-12))).sum(axis=1))


def _stack(axis: Axes, time: NDArray[np.int_], weights: NDArray[np.float64], shown: list[int]) -> None:
    layers = [weights[:, k] for k in shown]
    names = [f"component {k + 1}" for k in shown]
    colours = [style.colour(k) for k in shown]
    if len(shown) < weights.shape[1]:
        layers.append((1.0 - weights[:, shown].sum(axis=1)).clip(0.0))
        names.append(f"{weights.shape[1] - len(shown)} others")
        colours.append("#d5d8dd")
    axis.stackplot(time, *layers, labels=names, colors=colours, edgecolor="white", linewidth=0.6)
    axis.set_ylim(0, 1)
    axis.grid(False)


def _mark_dream(axis: Axes, begins: int) -> None:
    """What lies left of a dream was watched."""
    axis.axvline(begins, color=style.DREAM, linewidth=2)
    if begins > 0:
        axis.text(begins - 0.3, 0.5, "watched", color=style.MUTED, fontsize=9, ha="right", va="center")
