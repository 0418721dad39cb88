"""What each pillar is worth: AIME as it is, and with one pillar at a time switched off, trained and evaluated alike.

    report = ablate(AblationConfig(minutes=15, seeds=2))

The worth of a pillar is the difference between the full model and the one without it on the same clips. The table goes
to ``ablation.json`` and ``ablation.md``; the runs lie below, as ``seed-<n>/<variant>``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from aime.config import UNLIMITED_STEPS, DataConfig, Device, Precision, Preset, TrainConfig, replace
from aime.data.store import EpisodeStore
from aime.errors import ConfigError
from aime.evaluation import EvaluationConfig
from aime.evaluation.bootstrap import Curve, summarise
from aime.evaluation.report import number
from aime.evaluation.scores import Scores
from aime.places import require_folder
from aime.presets import preset_config
from aime.studies import table
from aime.studies.benchmark import CHECKPOINT_EVERY
from aime.studies.recipe import RECIPE, Recipe, describe, prepare
from aime.studies.runs import PlannedRun, Result, complete

VariantName = Literal["single-gaussian", "no-precision", "no-context", "mean-gradient", "no-adversary"]

FULL = "full"
"""The model with all of its pillars."""

VARIANTS: Mapping[VariantName, tuple[str, Callable[[TrainConfig], TrainConfig]]] = {
    "single-gaussian": (
        "a single Gaussian instead of the mixture",
        lambda full: replace(full, model=replace(full.model, max_components=1)),
    ),
    "no-precision": (
        "no attention in the precision of the pixels",
        lambda full: replace(full, model=replace(full.model, attention_floor=1.0)),
    ),
    "no-context": (
        "no context from the Perceiver",
        lambda full: replace(full, model=replace(full.model, perceiver_context=False)),
    ),
    "mean-gradient": (
        "the mean of the gradients instead of RGB",
        lambda full: replace(full, balancer=replace(full.balancer, balancer="mean")),
    ),
    "no-adversary": (
        "no adversary",
        lambda full: replace(full, loss=replace(full.loss, adversary=False)),
    ),
}
"""What is switched off, in words and as settings."""

MEASURES: Mapping[str, Callable[[Mapping[str, Scores]], Tensor]] = {
    "moving_psnr": lambda scores: scores["dream"]["moving_psnr"],
    "ceiling": lambda scores: scores["ceiling"]["moving_psnr"],
    "psnr": lambda scores: scores["dream"]["psnr"],
    "ssim": lambda scores: scores["dream"]["ssim"],
    "loss_by_shuffling": lambda scores: scores["dream"]["moving_psnr"] - scores["shuffled"]["moving_psnr"],
}
"""What a pillar's worth is measured by, (clips, horizon)."""


@dataclass(frozen=True)
class AblationConfig:
    """Train AIME with one pillar switched off at a time, and say what each pillar is worth.

    All runs are on the data of the benchmark's recipe, of the same minutes (or steps), one after the other. The same
    command again goes on where it stopped.
    """

    env: str = "cartpole-swingup"
    """The task, as domain-task of the dm_control suite."""
    variants: tuple[VariantName, ...] = get_args(VariantName)
    """What is switched off, each in runs of its own beside those of the full model."""
    minutes: float | None = None
    """Minutes of training for each run; by default 15."""
    steps: int | None = None
    """Steps of training for each run, in place of minutes: leaves out what a pillar costs in time, and what else the
    machine does. On one CPU and in a --precision that is named, they give the same figures to the digit each time."""
    seeds: int = 2
    """Runs of each variant, with the seeds 0, 1, …"""
    preset: Preset = "tiny"
    """Size of the model."""
    out: Path = Path("ablation")
    """Where the runs and the tables go."""
    data_dir: Path = Path("data")
    """Folder in which the episodes are, as <data-dir>/<task>, or are collected."""
    clips: int = EvaluationConfig.clips
    """Fixed clips of the test split to evaluate on."""
    samples: int = EvaluationConfig.samples
    """Dreams drawn per clip."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "auto"
    """In which precision to train. auto takes the faster one where the difference is large, which on a CPU is
    measured."""

    def __post_init__(self) -> None:
        if not self.variants or len(set(self.variants)) < len(self.variants):
            raise ConfigError("variants must name at least one, and none of them twice")
        if self.minutes is not None and self.steps is not None:
            raise ConfigError("minutes cannot go with a number of steps: both say how long each run is, so give one")
        if self.minutes is not None and not self.minutes > 0:  # nan is not above zero either
            raise ConfigError(f"minutes must be above zero, got {self.minutes}")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {self.seeds}")
        if self.clips < 2:
            raise ConfigError(f"clips must be at least 2 (one has no other's actions to dream with), got {self.clips}")
        _ = self.protocol  # refuses samples that cannot be

    @property
    def protocol(self) -> EvaluationConfig:
        """How every run is evaluated."""
        return EvaluationConfig(clips=self.clips, samples=self.samples)

    def plan(self) -> list[PlannedRun]:
        """The runs, in the order in which they are made: all of one seed, then all of the next."""
        return [run for seed in range(self.seeds) for run in self._of_seed(seed)]

    @property
    def run_minutes(self) -> float | None:
        """Minutes of training of each run; None where steps are given."""
        return (15.0 if self.minutes is None else self.minutes) if self.steps is None else None

    def _of_seed(self, seed: int) -> list[PlannedRun]:
        full: TrainConfig = replace(
            preset_config(self.preset),
            data=DataConfig(env=self.env, data_dir=self.data_dir / self.env),
            max_steps=self.steps or UNLIMITED_STEPS,
            max_minutes=self.run_minutes,
            checkpoint_every=CHECKPOINT_EVERY,
            seed=seed,
            device=self.device,
            precision=self.precision,
        )
        configs = {FULL: full} | {name: VARIANTS[name][1](full) for name in self.variants}
        folder = self.out / f"seed-{seed}"
        return [PlannedRun(name, replace(config, run_dir=folder / name)) for name, config in configs.items()]


def ablate(
    config: AblationConfig, *, recipe: Recipe = RECIPE, protocol: EvaluationConfig | None = None
) -> table.Report:
    """Make the ablation, or as much of it as is not made yet.

    Args:
        recipe: how the data are collected.
        protocol: how runs are evaluated, by default the published way on `config.clips` clips.

    Returns:
        The report, which is written into `config.out` after every run, with the runs that are finished by then.
    """
    require_folder(config.out)
    protocol = protocol or config.protocol
    stores = prepare([config.env], config.data_dir, recipe)
    results: list[Result] = []
    for result in complete(config.plan(), stores, protocol):
        results.append(result)
        report = _report(config, results, stores[config.env], recipe, protocol)
        report.save(config.out)
    return report


@dataclass(frozen=True)
class Worth:
    """What a pillar is worth: the full model less the one without it."""

    variant: VariantName
    seeds: int
    """Pairs of runs behind it."""
    curves: dict[str, Curve]
    """By measure: paired over clips, the mean over the seeds in each clip, with 95% intervals over episodes."""
    by_seed: list[float]
    """Moving PSNR for each seed alone: how far these lie from each other, the interval over episodes does not know."""
    state_r2: float
    """Mean over the seeds, without an interval."""
    nll: float
    """The same of the bound in nats per dimension: below zero where the full model is surer."""


def worth(variant: VariantName, pairs: Sequence[tuple[Result, Result]]) -> Worth:
    """What the pillar is worth that a variant switches off.

    The seeds are averaged in each clip before clips are drawn anew: two seeds on one clip are not two clips.

    Args:
        pairs: for each seed the full model and the one without the pillar.
    """
    draws = pairs[0][0].resamples()
    curves = {}
    for name, measure in MEASURES.items():
        values = torch.stack([measure(full.scores) - measure(without.scores) for full, without in pairs]).mean(dim=0)
        curves[name] = summarise(values, draws)

    def mean_of(name: str) -> float:
        return sum(full.headline(name) - without.headline(name) for full, without in pairs) / len(pairs)

    return Worth(
        variant=variant,
        seeds=len(pairs),
        curves=curves,
        by_seed=[
            full.curve("dream", "moving_psnr").average - without.curve("dream", "moving_psnr").average
            for full, without in pairs
        ],
        state_r2=mean_of("state_r2"),
        nll=mean_of("nll_nats_per_dimension"),
    )


def _report(
    config: AblationConfig, results: Sequence[Result], store: EpisodeStore, recipe: Recipe, protocol: EvaluationConfig
) -> table.Report:
    data = [describe(store)]
    full = {result.config.seed: result for result in results if result.name == FULL}
    found = []
    for variant in config.variants:
        pairs = [(full[result.config.seed], result) for result in results if result.name == variant]
        found += [worth(variant, pairs)] if pairs else []
    length = f"{config.steps:,} steps" if config.run_minutes is None else f"{config.run_minutes:g} minutes"
    text = [f"# What each pillar is worth on {config.env}: preset {config.preset}, {length} a run"]
    if found:
        text += [
            "The full model less the one without the pillar, in dB of moving PSNR unless the head says otherwise, with "
            "paired 95% intervals over episodes. Above zero the pillar is worth having; below, where it is NLL.",
            table.markdown(_HEAD, map(_said, found)),
        ]
    rows = [
        [row[0], f"{result.name}, seed {result.config.seed}", *row[2:]]
        for result, row in zip(results, map(table.row, results), strict=True)
    ]
    text += [
        table.markdown(table.HEAD, rows, left=2),
        table.LEGEND,
        "Health:\n\n" + table.alarms(results),
        "Data:\n\n" + table.data_lines(data),
    ]
    content = {
        **table.setting(recipe, protocol),
        "preset": config.preset,
        "minutes": config.run_minutes,
        "steps": config.steps,
        "data": data,
        "runs": [table.figures(result) for result in results],
        "worth": [_plain(one) for one in found],
    }
    return table.Report("ablation", content, "\n\n".join(text))


_HEAD = (
    *("switched off", "seeds", "dream", "each seed", "reconstruction", "loss by shuffling"),
    *("PSNR, dB", "SSIM", "state R²", "NLL"),
)


def _said(found: Worth) -> list[str]:
    def cell(measure: str, digits: int = 2) -> str:
        curve = found.curves[measure]
        return table.interval(curve.average, curve.average_low, curve.average_high, digits)

    return [
        *(VARIANTS[found.variant][0], str(found.seeds), cell("moving_psnr")),
        ", ".join(number(value, 2) for value in found.by_seed),
        *(cell("ceiling"), cell("loss_by_shuffling"), cell("psnr"), cell("ssim", 3)),
        *(number(found.state_r2, 3), number(found.nll, 3)),
    ]


def _plain(found: Worth) -> dict[str, Any]:
    return {
        "variant": found.variant,
        "seeds": found.seeds,
        "differences": {
            name: {"average": c.average, "low": c.average_low, "high": c.average_high, "mean": c.mean}
            for name, c in found.curves.items()
        },
        "by_seed": found.by_seed,
        "state_r2": found.state_r2,
        "nll_nats_per_dimension": found.nll,
    }
