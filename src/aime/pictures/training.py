"""The story of a run from its ``metrics.jsonl``: losses, their parts, health, the balance of gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aime.errors import DataError
from aime.pictures import style

Series = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Metric name to (steps, values)."""

OBJECTIVES = {
    "total_vae_loss": ("ELBO", style.BLUE),
    "perceiver_loss": ("perception", style.GREEN),
    "attention_loss": ("attention", style.ORANGE),
    "adversarial_loss": ("realism", style.PURPLE),
}
"""The four objectives: how they are called in pictures, and their colours."""

PARTS = (
    ("recon_nll", "Reconstruction", "nats per frame"),
    ("kl_latent", "KL of the latent", "nats per frame"),
    ("rollout_nll", "Dreamed steps", "nats per frame"),
    ("rollout_kl", "KL of dreamed steps", "nats per frame"),
    ("context_loss", "Context prediction", ""),
    ("token_nll", "Tokenizer", "nats per frame"),
    ("next_token_ce", "Next tokens", "nats per frame"),
    ("motion_loss", "Motion of attention", ""),
    ("discriminator_loss", "Discriminator", ""),
    ("rehearsal_loss", "Dynamics while perception rests", ""),
    ("unseen_rehearsal_loss", "… on episodes not learned from", ""),
    ("dynamics_decay", "Weight decay found by those", ""),
)
HEALTH = (
    ("psnr", "Reconstruction", "PSNR, dB"),
    ("live_codes", "Live codes", ""),
    ("codebook_perplexity", "Codebook perplexity", ""),
    ("effective_components", "Effective components", ""),
    ("active_latents", "Active latents", "dimensions"),
    ("context_variation", "Context that varies", "share"),
    ("slot_overlap", "Slot overlap", ""),
    ("disc_real_accuracy", "Discriminator, real", "share right"),
    ("disc_fake_accuracy", "Discriminator, made", "share right"),
    ("next_token_accuracy", "Next tokens", "share right"),
)
HELD_OUT = (
    ("validation/psnr", "reconstruction", style.GREEN),
    ("validation/dream_psnr", "dream", style.DREAM),
    ("validation/copy_last_psnr", "copy last frame", style.MUTED),
)


def read_metrics(path: Path) -> Series:
    """The numbers in a ``metrics.jsonl``, by name; a last line that a crash cut short is left out.

    Raises:
        DataError: if the file is missing, or a line in it is not a JSON object.
    """
    if not path.is_file():
        raise DataError(f"there is no {path.name} in {path.parent}: is that the folder of a run?")
    lines = path.read_text(encoding="utf-8").splitlines()
    collected: dict[str, tuple[list[float], list[float]]] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DataError(
                f"{path}, line {number}, is not JSON ({error.msg}); remove the line to plot the rest"
            ) from error
        if not isinstance(line, dict) or not isinstance(line.get("step"), int | float):
            raise DataError(
                f'{path}, line {number}, has no step; every line must be an object such as {{"step": 1, …}}'
            )
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = collected.setdefault(name, ([], []))
                steps.append(float(line["step"]))
                values.append(float(value))
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in collected.items()}


def plot_metrics(run_dir: Path | str, folder: Path | None = None) -> list[Path]:
    """Draw what a run's ``metrics.jsonl`` holds: losses, parts, health, held-out scores and gradients.

    Args:
        run_dir: the run's folder.
        folder: where the pictures go; by default the run's ``pictures/``.

    Returns:
        The files written; none for what the run did not log.
    """
    run_dir = Path(run_dir)
    series = read_metrics(run_dir / "metrics.jsonl")
    folder = folder or run_dir / "pictures"
    losses = [(name, title, "") for name, (title, _) in OBJECTIVES.items()]
    colours = {name: colour for name, (_, colour) in OBJECTIVES.items()}
    written = [
        _draw_curves(series, losses, folder / "losses.png", "The four objectives", colours, columns=2),
        _draw_curves(series, PARTS, folder / "loss-parts.png", "Parts of the losses", {}, columns=3),
        _draw_curves(series, HEALTH, folder / "health.png", "Health of the pillars", {}, columns=3),
        _draw_held_out(series, folder / "held-out.png"),
        _draw_gradients(series, folder / "gradients.png"),
    ]
    return [path for path in written if path is not None]


def _draw_curves(
    series: Series,
    wanted: Iterable[tuple[str, str, str]],
    path: Path,
    heading: str,
    colours: dict[str, str],
    *,
    columns: int,
) -> Path | None:
    panels = [(name, title, unit) for name, title, unit in wanted if name in series]
    if not panels:
        return None
    columns = min(columns, len(panels))
    figure, axes = style.new_figure(-(-len(panels) // columns), columns, panel=(4.0, 2.4))
    for axis, (name, title, unit) in zip(axes, panels, strict=False):
        _curve(axis, *series[name], colour=colours.get(name, style.BLUE))
        style.label(axis, title=title, x="step", y=unit)
        _frame_most(axis, [series[name][1]])
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=12.5, color=style.INK)
    return style.save(figure, path)


def _draw_gradients(series: Series, path: Path) -> Path | None:
    norms, cosines = _with_prefix(series, "gradient/norm/"), _with_prefix(series, "gradient/cosine/")
    angles, rotations = _with_prefix(series, "gradient/angle/"), _with_prefix(series, "gradient/rotation/")
    if not (norms or cosines or angles):
        return None
    figure, axes = style.new_figure(4, 1, panel=(8.4, 2.3))
    style.label(axes[0], title="Gradient norms", y="norm")
    for name, (steps, values) in norms.items():
        title, colour = OBJECTIVES.get(name, (name, style.INK))
        _curve(axes[0], steps, np.where(values > 0, values, np.nan), colour=colour, label=title)
    axes[0].set_yscale("log")
    style.label(axes[1], title="Cosines between gradients (below zero they conflict)", y="cosine")
    for index, (name, (steps, values)) in enumerate(cosines.items()):
        pair = " · ".join(OBJECTIVES.get(part, (part, ""))[0] for part in name.split("/"))
        _curve(axes[1], steps, values, colour=style.colour(index), label=pair, raw=False)
    axes[1].axhline(0, color=style.MUTED, linewidth=1)
    axes[1].set_ylim(-1.05, 1.05)
    for axis, title, group in (
        (axes[2], "Angles between each gradient and the update", angles),
        (axes[3], "Angles by which each gradient was rotated", rotations),
    ):
        style.label(axis, title=title, y="degrees")
        for name, (steps, values) in group.items():
            objective, colour = OBJECTIVES.get(name, (name, style.INK))
            _curve(axis, steps, np.degrees(values), colour=colour, label=objective)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("step", fontsize=9.5, color=style.INK)
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.005, 0.5))
    return style.save(figure, path)


def _draw_held_out(series: Series, path: Path) -> Path | None:
    shown = [(name, title, colour) for name, title, colour in HELD_OUT if name in series]
    if not shown:
        return None
    figure, (axis,) = style.new_figure(1, 1, panel=(6.4, 3.4))
    for name, title, colour in shown:
        steps, values = series[name]
        axis.plot(steps, values, color=colour, linewidth=2, marker="o", markersize=3, label=title)
    style.label(axis, title="Held-out episodes while training", x="step", y="PSNR, dB")
    axis.legend(frameon=False, fontsize=9.5)
    return style.save(figure, path)


def _with_prefix(series: Series, prefix: str) -> Series:
    return {name.removeprefix(prefix): values for name, values in series.items() if name.startswith(prefix)}


def _curve(
    axis: Axes,
    steps: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    colour: str,
    label: str | None = None,
    raw: bool = True,
) -> None:
    """The values faintly, and their running mean over about a fiftieth of the run on top."""
    smooth = running_mean(values, max(1, len(values) // 50))
    if raw and len(values) >= 50:
        axis.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.plot(steps, smooth, color=colour, linewidth=1.8, label=label, marker="o" if len(values) == 1 else None)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean over the last `window` values, fewer at the start; values that are not finite are left out."""
    finite = np.isfinite(values)
    total = np.cumsum(np.where(finite, values, 0.0))
    count = np.cumsum(finite)
    total[window:] -= total[:-window].copy()
    count[window:] -= count[:-window].copy()
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _frame_most(axis: Axes, curves: list[NDArray[np.float64]]) -> None:
    """Limits that hold 98% of the values: the first steps of a run would flatten all that follow."""
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    if len(values) < 20:
        return
    low, high = np.quantile(values, [0.01, 0.98])
    margin = 0.08 * (high - low)
    if math.isfinite(margin) and margin > 0:
        axis.set_ylim(low - margin, high + margin)
