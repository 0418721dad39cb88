"""What a study says: tables in Markdown, aligned so that a terminal shows them as well, and the same as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import aime
from aime.evaluation import EvaluationConfig
from aime.evaluation.report import finite, number
from aime.studies.recipe import Recipe
from aime.studies.runs import Curve, Result
from aime.training.disk import disk_errors, write_whole

SHOWN = (1, 5, 10, 20, 40)
"""Horizons that tables have a column for."""

HEAD = (
    *("task", "prediction", "steps", "frames/s", "parameters", "moving PSNR, dB"),
    *(f"at {horizon}" for horizon in SHOWN),
    *("PSNR, dB", "SSIM", "over copy last", "reconstruction", "loss by shuffling", "state R²", "NLL"),
)
"""Columns of the table of runs."""

LEGEND = (
    "Moving PSNR is the mean of dreams over horizons with its 95% interval over episodes, then at single horizons; "
    "over copy last, reconstruction and loss by shuffling are of it, too. NLL is a bound in nats per dimension."
)


@dataclass(frozen=True)
class Report:
    """What a study found."""

    name: str
    """Of its files."""
    content: dict[str, Any]
    """As JSON."""
    text: str
    """As Markdown."""

    def save(self, folder: Path) -> None:
        """Write ``<name>.json`` and ``<name>.md``."""
        with disk_errors(f"{self.name}.json and {self.name}.md", folder):
            plain = json.dumps(finite(self.content), indent=1, allow_nan=False, ensure_ascii=False)
            write_whole(folder / f"{self.name}.json", plain + "\n")
            write_whole(folder / f"{self.name}.md", self.text + "\n")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """An aligned table of Markdown; the first `left` columns are words, the others figures."""
    rows = [list(row) for row in rows]
    widths = [max(3, *(len(row[column]) for row in [list(head), *rows])) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def interval(average: float, low: float, high: float, digits: int = 2) -> str:
    """A figure with its 95% interval."""
    if math.isnan(average):
        return "–"
    return f"{number(average, digits)} [{number(low, digits)}, {number(high, digits)}]"


def row(result: Result) -> list[str]:
    """A run in the table of runs."""
    return [
        *(result.task, result.name, f"{result.step:,}", number(result.frames_per_second, 0)),
        f"{result.found['model']['parameters']:,}",
        *_prediction(result, "dream"),
        number(result.difference("gain_over_copy_last", "moving_psnr").average, 2),
        number(result.curve("ceiling", "moving_psnr").average, 2),
        number(result.difference("loss_by_shuffling", "moving_psnr").average, 2),
        _r2(result.headline("state_r2")),
        number(result.headline("nll_nats_per_dimension"), 3),
    ]


def baseline_row(result: Result, predictor: str, name: str) -> list[str]:
    """A prediction that needs no model, on the clips of a run."""
    return [result.task, name, *["–"] * 3, *_prediction(result, predictor), *["–"] * 5]


def _prediction(result: Result, predictor: str) -> list[str]:
    moving = result.curve(predictor, "moving_psnr")
    return [
        interval(moving.average, moving.low, moving.high),
        *(number(moving.at(horizon), 1) for horizon in SHOWN),
        number(result.curve(predictor, "psnr").average, 2),
        number(result.curve(predictor, "ssim").average, 3),
    ]


def figures(result: Result) -> dict[str, Any]:
    """A run in the JSON of a study: what stands in its row, and the intervals that do not fit there."""

    def plain(curve: Curve) -> dict[str, Any]:
        at = {str(horizon): curve.at(horizon) for horizon in SHOWN}
        return {"average": curve.average, "low": curve.low, "high": curve.high, "at": at}

    metrics = ("moving_psnr", "psnr", "ssim")
    predictors = ("dream", "ceiling", "shuffled", "copy_last", "mean_frame")
    differences = ("gain_over_copy_last", "gain_over_mean_frame", "loss_by_shuffling", "below_ceiling")
    config = result.config
    return {
        "name": result.name,
        "task": result.task,
        "model": config.world_model,
        "seed": config.seed,
        "steps": result.step,
        "steps_that_watched": result.watched,
        "training_seconds": result.seconds,
        "frames_per_second": result.frames_per_second,
        "parameters": result.found["model"]["parameters"],
        "learning_rate": config.optimizer.learning_rate,
        "device": config.device,
        "precision": config.precision,
        "consolidation_precision": config.optimizer.consolidation_precision,
        "scores": {p: {m: plain(result.curve(p, m)) for m in metrics} for p in predictors},
        "differences": {d: {m: plain(result.difference(d, m)) for m in metrics} for d in differences},
        "state_r2": result.headline("state_r2"),
        "nll_nats_per_dimension": result.headline("nll_nats_per_dimension"),
        "alarms": result.alarms,
        "run": str(config.run_path),
    }


def alarms(results: Iterable[Result]) -> str:
    """The health of the runs: the alarms, a line for each run. Their remedies are in the JSON."""
    lines = []
    for result in results:
        seed = f", seed {result.config.seed}"
        found = [f"{check['name']}: {_number(check['value'])} (healthy: {check['healthy']})" for check in result.alarms]
        said = "; ".join(found) or ("no alarm" if result.found["health"] else "has none of AIME's pillars to look at")
        lines.append(f"- {result.task}, {result.name}{seed}: {said}")
    return "\n".join(lines)


def setting(recipe: Recipe, protocol: EvaluationConfig) -> dict[str, Any]:
    """What all runs of a study have in common, for its JSON."""
    return {
        "versions": {"aime": aime.__version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "recipe": vars(recipe),
        "protocol": vars(protocol),
    }


def data_lines(data: Iterable[dict[str, Any]]) -> str:
    """The data of a study, a line for each task."""
    return "\n".join(
        f"- {d['task']}: fingerprint {d['fingerprint']}, drawn by {d['renderer']}, {d['episodes']} episodes, "
        f"{d['frames']:,} frames"
        for d in data
    )


def _r2(value: float) -> str:
    """R² has no lower end, and where it is far below zero, how far says nothing."""
    return "< -99" if value < -99 else number(value, 3)


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.3g}"
