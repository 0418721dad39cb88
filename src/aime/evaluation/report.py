"""What an evaluation found: as numbers (``evaluation.json``) and as tables for the terminal."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

import aime
from aime.data.store import EpisodeStore
from aime.evaluation.bootstrap import Curve
from aime.evaluation.calibration import Calibration
from aime.evaluation.clips import Clips
from aime.evaluation.config import EvaluationConfig
from aime.evaluation.health import TABLE_STYLE, Check, health_table
from aime.evaluation.readout import StateReadout
from aime.evaluation.scores import METRICS, PREDICTORS, Scores

DEFINITIONS = 3
"""Counts up when a figure is defined anew: evaluations of different definitions do not compare. 2: intervals by
episodes, likelihood under an even map, RSSM's best guess the mean of its draws. 3: policies told from components."""
REPORT, CLIP_SCORES = "evaluation.json", "clip-scores.safetensors"
"""What an evaluation writes: its figures, and the scores of each clip behind them."""

METRIC_NAMES = {
    "psnr": "PSNR, dB",
    "moving_psnr": "moving PSNR, dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
}
"""How the metrics are called in tables."""


@dataclass(frozen=True)
class Likelihood:
    """An upper bound on −log p(frame | past) in nats per dimension, for pixel values in [0, 1] taken as continuous."""

    dimensions: int
    """Numbers in a frame."""
    nats_per_dimension: Curve
    """Mean over all frames of a clip (one value, with its interval)."""
    after_context: Curve
    """Mean over the frames after the context, when the model knows what it is looking at."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that `aime.evaluation.evaluate` measured."""

    model: dict[str, Any]
    data: dict[str, Any]
    config: EvaluationConfig
    scores: dict[str, dict[str, Curve]]
    """Predictor (see `aime.evaluation.scores.PREDICTORS`) to metric to curve."""
    differences: dict[str, dict[str, Curve]]
    """Paired differences (see `aime.evaluation.scores.DIFFERENCES`) to metric to curve."""
    calibration: Calibration | None
    readout: StateReadout | None
    likelihood: Likelihood | None
    fvd: dict[str, float]
    """Fréchet video distance of predictors to the truth; empty where it was not asked for. It falls with the number of
    clips, so only figures of equally many compare."""
    health: list[Check]
    not_measured: dict[str, str]
    """What was not measured, and why."""
    clip_scores: dict[str, Scores] = field(repr=False, compare=False)
    """The scores that `scores` summarises: predictor to metric to (clips, horizon), in the order of `data["places"]`.
    Of two models on the same clips they give a paired difference."""

    def summary(self) -> dict[str, float]:
        """The headline figures, flat: means over the horizons unless the name says otherwise."""
        dream = self.scores["dream"]
        figures = {metric: dream[metric].average for metric in METRICS if metric in dream}
        for name, curves in self.differences.items():
            figures |= {f"{name}/{metric}": curve.average for metric, curve in curves.items()}
        if "below_ceiling" in self.differences:
            at = min(5, self.config.horizon)
            figures[f"below_ceiling/psnr_at_{at}"] = self.differences["below_ceiling"]["psnr"].mean[at - 1]
        if self.readout is not None:
            figures["state_r2"] = self.readout.r2["dream"]["mean"].average
        if self.calibration is not None:
            figures["spread_to_error"] = self.calibration.spread_to_error.average
        if self.likelihood is not None:
            figures["nll_nats_per_dimension"] = self.likelihood.nats_per_dimension.average
        if self.fvd:
            figures["fvd"] = self.fvd["dream"]
        return figures

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a number is null."""
        content = {
            "summary": self.summary(),
            "model": self.model,
            "data": self.data,
            "definitions": DEFINITIONS,
            "versions": {"aime": aime.__version__, "torch": torch.__version__},
            "config": dataclasses.asdict(self.config),
            "scores": _plain(self.scores),
            "differences": _plain(self.differences),
            "readout": _plain(self.readout),
            "likelihood": _plain(self.likelihood),
            "calibration": _plain(self.calibration),
            "fvd": self.fvd,
            "health": _plain(self.health),
            "not_measured": self.not_measured,
        }
        plain: dict[str, Any] = finite(content)
        return plain

    def save(self, folder: Path) -> Path:
        """Write ``evaluation.json``, and the scores of each clip beside it, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / REPORT
        # Where there is a report, the scores beside it are its own, even if this is killed on the way.
        path.unlink(missing_ok=True)
        flat = {
            f"{name}/{metric}": values for name, found in self.clip_scores.items() for metric, values in found.items()
        }
        save_file({name: values.contiguous() for name, values in flat.items()}, folder / CLIP_SCORES)
        writing = path.with_name(f".{REPORT}.writing")
        writing.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        shutil.copymode(writing, folder / CLIP_SCORES)  # which safetensors made for its owner's eyes alone
        writing.replace(path)
        return path

    def print(self, console: Console | None = None) -> None:
        """The tables, for the terminal."""
        console = console or Console()
        console.print(self._means_table(), self._horizon_table(), sep="\n")
        for line in self._lines():
            console.print(f"  {line}", highlight=False, markup=False)
        if self.health:
            console.print(health_table(self.health))
        for what, why in self.not_measured.items():
            console.print(f"  [dim]{what}: not measured: {why}[/dim]", highlight=False)

    def _means_table(self) -> Table:
        step = "" if self.model["step"] is None else f", step {self.model['step']}"
        table = Table(
            title=f"{self.model['name']}{step} on {self.data['task']}: {self.data['clips']} clips of "
            f"{self.data['episodes']} {self.config.split} episodes, "
            f"means over horizons 1–{self.config.horizon} with 95% intervals",
            **TABLE_STYLE,
        )
        metrics = [metric for metric in METRICS if metric in self.scores["dream"]]
        table.add_column("prediction")
        for metric in metrics:
            table.add_column(METRIC_NAMES[metric], justify="right", no_wrap=True)
        for predictor, name in PREDICTORS.items():
            if predictor in self.scores:
                cells = [_interval(self.scores[predictor].get(metric), metric) for metric in metrics]
                table.add_row(name, *cells, style="bold" if predictor == "dream" else "")
        return table

    def _horizon_table(self) -> Table:
        horizon = self.config.horizon
        shown = [h for h in (1, 2, 5, 10, 20, 40, 80) if h < horizon] + [horizon]
        table = Table(title="\nBy horizon", **TABLE_STYLE)
        table.add_column("dream")
        for h in shown:
            table.add_column(str(h), justify="right")

        def row(name: str, curve: Curve | None, digits: int) -> None:
            if curve is not None:
                table.add_row(name, *[number(curve.mean[h - 1], digits) for h in shown])

        for metric in METRICS:
            row(METRIC_NAMES[metric], self.scores["dream"].get(metric), _digits(metric))
        for difference, name in (
            ("gain_over_copy_last", "gain over copy last"),
            ("loss_by_shuffling", "loss by shuffled actions"),
            ("below_ceiling", "below reconstruction"),
        ):
            found = self.differences.get(difference, {})
            row(f"{name}, dB", found.get("psnr"), 2)
            row("  on moving pixels", found.get("moving_psnr"), 2)
        if self.readout is not None:
            row("R² of the state, dreamed", self.readout.r2["dream"]["mean"], 3)
            row("R² of the state, watched", self.readout.r2["watched"]["mean"], 3)
        if self.calibration is not None:
            row("spread / error of samples", self.calibration.spread_to_error, 2)
        left_out = self.scores["dream"]["moving_psnr"].left_out
        if any(left_out):
            table.add_row("clips without motion", *[str(left_out[h - 1]) for h in shown])
        return table

    def _lines(self) -> list[str]:
        lines = []
        if self.likelihood is not None:
            whole = self.likelihood.nats_per_dimension
            low, high = whole.average_low, whole.average_high
            lines.append(f"NLL bound: {whole.average:.4f} [{low:.4f}, {high:.4f}] nats per dimension")
        if self.calibration is not None:
            pairs = zip(self.calibration.levels, self.calibration.coverage, strict=True)
            inside = ", ".join(f"{curve.average:.0%} in the {level:.0%} interval" for level, curve in pairs)
            lines.append(f"calibration on moving pixels: {inside}")
        if self.fvd:
            found = ", ".join(f"{PREDICTORS[name]} {number(value, 1)}" for name, value in self.fvd.items())
            lines.append(
                f"FVD of {self.data['clips']} clips of {self.config.horizon} frames (lower is better): {found}"
            )
        return lines


def read_clip_scores(folder: Path) -> dict[str, Scores]:
    """The `clip_scores` of the evaluation that was written into a folder."""
    scores: dict[str, Scores] = {}
    for name, values in load_file(folder / CLIP_SCORES).items():
        predictor, metric = name.split("/")
        scores.setdefault(predictor, {})[metric] = values
    return scores


def describe_model(model: object, name: str, step: int | None) -> dict[str, Any]:
    """What was evaluated."""
    described: dict[str, Any] = {"name": name, "step": step}
    if isinstance(model, torch.nn.Module):
        described["parameters"] = sum(p.numel() for p in model.parameters())
    if dataclasses.is_dataclass(config := getattr(model, "config", None)) and not isinstance(config, type):
        described["config"] = dataclasses.asdict(config)
    return described


def describe_data(store: EpisodeStore, clips: Clips) -> dict[str, Any]:
    """What it was evaluated on."""
    return {
        "task": store.task,
        "fingerprint": store.fingerprint,
        "action_repeat": store.action_repeat,
        "time_step": store.time_step,
        "clips": len(clips),
        "episodes": len(torch.unique(clips.episode)),
        "places": [[int(e), int(s)] for e, s in zip(clips.episode, clips.start, strict=True)],
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def finite(value: Any) -> Any:
    """The same with None for what is not finite, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digits(metric: str) -> int:
    return 3 if metric in ("ssim", "lpips") else 2


def number(value: float, digits: int) -> str:
    """A number for a table: fewer digits from 100 on, no minus before zero, a dash for what is not a number."""
    if math.isnan(value):
        return "–"
    text = f"{value:.{0 if abs(value) >= 100 else digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _interval(curve: Curve | None, metric: str) -> str:
    if curve is None or math.isnan(curve.average):
        return "–"
    digits = _digits(metric)
    # One digit fewer, so that three metrics fit into 80 columns; evaluation.json has them all.
    low, high = number(curve.average_low, digits - 1), number(curve.average_high, digits - 1)
    return f"{number(curve.average, digits)} \\[{low}, {high}]"
