"""The runs of a study: each is trained unless it is, evaluated unless it is, and read from what that wrote.

So a study that was killed goes on where it stopped when the same command is given again. Runs are made one after
another, never side by side: they would take each other's time.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from aime.config import TrainConfig
from aime.data.store import EpisodeStore
from aime.errors import CheckpointError, ConfigError
from aime.evaluation import EvaluationConfig, evaluate
from aime.evaluation.bootstrap import resamples
from aime.evaluation.report import CLIP_SCORES, DEFINITIONS, REPORT, read_clip_scores
from aime.evaluation.scores import Scores
from aime.training.checkpoint import Checkpoint, load_checkpoint
from aime.training.config_file import differences
from aime.training.device import resolve_device, resolve_precisions
from aime.training.locate import load
from aime.training.runs import CHANGEABLE, RunFolder, run_settings
from aime.training.trainer import train

log = logging.getLogger("aime")

MAY_DIFFER = CHANGEABLE - {"max_steps", "max_minutes"}
"""Settings with other values of which a run is still the planned one. The limits are not among them: their end is where
the learning rate's schedule ends, so that a run of 15 minutes continued to 30 is not a run of 30."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study."""

    name: str
    """What it is called in tables: a model, or what is switched off."""
    config: TrainConfig
    """Its settings, with the folder that it goes to."""


@dataclass(frozen=True)
class Result:
    """What a finished run came to."""

    name: str
    config: TrainConfig
    """As the run resolved it: on which device, with which precision."""
    step: int
    """Training steps."""
    watched: int
    """Those of them that watched clips; in the rest, the last, perception rested."""
    seconds: float
    """Seconds of training."""
    found: Mapping[str, Any] = field(repr=False)
    """Its ``evaluation.json``."""
    scores: Mapping[str, Scores] = field(repr=False)
    """Predictor to metric to the scores of each clip, (clips, horizon)."""

    @property
    def task(self) -> str:
        """What it was trained and evaluated on."""
        return str(self.config.data.env)

    @property
    def frames_per_second(self) -> float:
        """Frames trained on in a second of the whole run, those seen again counted again."""
        return self.watched * self.config.data.batch_size * self.config.model.sequence_length / self.seconds

    @property
    def alarms(self) -> list[Mapping[str, Any]]:
        """The readings of its health that raised an alarm."""
        return [check for check in self.found["health"] if check["alarm"]]

    def resamples(self) -> Float[Tensor, "count clips"]:
        """The draws behind its intervals, for what is computed from the scores of clips."""
        protocol, places = self.found["config"], self.found["data"]["places"]
        return resamples(torch.tensor([episode for episode, _ in places]), protocol["resamples"], protocol["seed"])

    def curve(self, predictor: str, metric: str) -> Curve:
        """A metric of a predictor."""
        return Curve.read(self.found["scores"][predictor][metric])

    def difference(self, name: str, metric: str) -> Curve:
        """A difference of two of its own predictors (see `aime.evaluation.scores.DIFFERENCES`)."""
        return Curve.read(self.found["differences"][name][metric])

    def headline(self, name: str) -> float:
        """A figure of the evaluation's summary; NaN where it was not measured."""
        return _number(self.found["summary"].get(name))


@dataclass(frozen=True)
class Curve:
    """A curve as ``evaluation.json`` holds it; NaN where that has null."""

    average: float
    low: float
    high: float
    """Mean over horizons with its 95% interval."""
    mean: tuple[float, ...]
    """Per horizon 1..K."""

    @classmethod
    def read(cls, curve: Mapping[str, Any]) -> Curve:
        """From its JSON."""
        average, low, high = (_number(curve[name]) for name in ("average", "average_low", "average_high"))
        return cls(average, low, high, tuple(_number(value) for value in curve["mean"]))

    def at(self, horizon: int) -> float:
        """The mean at a horizon, NaN beyond the last."""
        return self.mean[horizon - 1] if horizon <= len(self.mean) else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def complete(
    plan: Sequence[PlannedRun], stores: Mapping[str, EpisodeStore], protocol: EvaluationConfig
) -> Iterator[Result]:
    """Train and evaluate the runs of a plan in turn, as far as that is not done yet, and hand over each when it is.

    Args:
        stores: the episodes of each task.
        protocol: how all are evaluated.

    Raises:
        ConfigError: in a run's folder is a run with other settings.
        CheckpointError: it was trained on other data.
        KeyboardInterrupt: training was stopped, by Ctrl-C or SIGTERM, before the run's end.
    """
    plan = _at_one_precision(plan)
    protocols = {task: protocol.on(store) for task, store in stores.items()}
    for run in plan:  # all of them before the first is trained: it would take long to come to what cannot be
        _require_as_planned(run, stores[run.config.data.env])
    for number, run in enumerate(plan, start=1):
        task = run.config.data.env
        log.info("run %d of %d: %s, %s, in %s", number, len(plan), task, run.name, run.config.run_path)
        checkpoint = _trained(run)
        folder = _evaluated(run, checkpoint, stores[task], protocols[task])
        yield Result(
            name=run.name,
            config=checkpoint.config,
            step=checkpoint.step,
            watched=checkpoint.state.get("rests_since") or checkpoint.step,
            seconds=float(checkpoint.state["elapsed_seconds"]),
            found=json.loads((folder / REPORT).read_text(encoding="utf-8")),
            scores=read_clip_scores(folder),
        )


def _at_one_precision(plan: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The plan with ``auto`` replaced by one precision for all, and by one for all that rest: those of the runs that
    have begun, else what they come to here. On a CPU that is measured, and a measurement for each run might give one
    model an advantage."""
    begun = [there for run in plan if (there := run_settings(run.config.run_path)) is not None]
    ours = [config for config in (*begun, *(run.config for run in plan)) if config.world_model == "aime"]
    first = ours[0] if ours else plan[0].config
    settled = resolve_precisions(first, resolve_device(first.device))
    precision = begun[0].precision if begun else settled.precision

    def at_it(config: TrainConfig) -> TrainConfig:
        optimizer = config.optimizer
        if config.world_model == "aime":
            optimizer = replace(optimizer, consolidation_precision=settled.optimizer.consolidation_precision)
        return replace(config, precision=precision, optimizer=optimizer)

    return [replace(run, config=at_it(run.config)) for run in plan]


def _require_as_planned(run: PlannedRun, store: EpisodeStore) -> None:
    """Refuse a folder with a run of other settings, or on other data."""
    folder = RunFolder(run.config.run_path)
    settings = run_settings(folder.path)
    if settings is not None:
        changed = differences(settings, run.config, ignore=MAY_DIFFER)
        if changed:
            listed = "; ".join(f"{name} is {before} there, {after} here" for name, (before, after) in changed.items())
            raise ConfigError(
                f"{folder.path} holds a run with other settings: {listed}. Give its settings, or another --out"
            )
    newest = folder.find_latest()
    there = None if newest is None else load_checkpoint(newest, thorough=False).state["data_fingerprint"]
    if there not in (None, store.fingerprint):
        raise CheckpointError(
            f"the run in {folder.path} was trained on data of fingerprint {there}, but {store.path} has "
            f"{store.fingerprint}; give the --data-dir that it was trained on, or another --out"
        )


def _trained(run: PlannedRun) -> Checkpoint:
    """The last checkpoint of a run, which is trained up to its end first if need be."""
    folder = RunFolder(run.config.run_path)
    checkpoint = _finished(folder, run.config)
    if checkpoint is None:
        train(run.config)
        checkpoint = _finished(folder, run.config)
        if checkpoint is None:  # the trainer has said why, and that the same command goes on
            raise KeyboardInterrupt
    return checkpoint


def _finished(folder: RunFolder, config: TrainConfig) -> Checkpoint | None:
    """The newest checkpoint of a run if it is the run's last."""
    found = folder.find_latest()
    if found is None:
        return None
    checkpoint = load_checkpoint(found)
    seconds = math.inf if config.max_minutes is None else 60 * config.max_minutes
    over = checkpoint.step >= config.max_steps or checkpoint.state["elapsed_seconds"] >= seconds
    return checkpoint if over else None


def _evaluated(run: PlannedRun, checkpoint: Checkpoint, store: EpisodeStore, protocol: EvaluationConfig) -> Path:
    """The folder of a checkpoint's evaluation under a protocol, which is made first if need be."""
    folder = run.config.run_path / "evaluation"
    if not _is_evaluation_of(folder, checkpoint.step, store.fingerprint, protocol):
        device = resolve_device(run.config.device)
        log.info("evaluating it on %d clips", protocol.clips)
        model = load(checkpoint.folder, device)
        evaluate(model, store, protocol, folder, name=run.name, step=checkpoint.step, console=Console(stderr=True))
        if device.type == "cuda":
            del model
            torch.cuda.empty_cache()
    return folder


def _is_evaluation_of(folder: Path, step: int, fingerprint: str, protocol: EvaluationConfig) -> bool:
    """Whether a folder holds the evaluation, with the scores of each clip, of this step on these data in this way."""
    path = folder / REPORT
    if not path.is_file() or not (folder / CLIP_SCORES).is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        asked = EvaluationConfig(**found["config"])  # a setting that came later is at its default
        there = (found.get("definitions"), found["model"]["step"], found["data"]["fingerprint"], asked)
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        log.warning("%s cannot be read (%r), so this is evaluated anew", path, error)
        return False
    return there == (DEFINITIONS, step, fingerprint, protocol)
