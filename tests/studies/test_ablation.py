"""The ablation: variants that differ from the full model in one pillar each, and a worth that is paired."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from aime.config import TrainConfig, replace
from aime.errors import ConfigError
from aime.studies.ablation import FULL, VARIANTS, AblationConfig, VariantName, ablate, worth
from aime.studies.runs import Result
from aime.training.checkpoint import load_checkpoint
from aime.training.config_file import differences
from aime.training.locate import locate
from aime.training.trainer import train
from aime.training.update import RELOCATE_EVERY
from tests.studies.conftest import MINUTES, PROTOCOL, RECIPE, TASK
from tests.training.conftest import small_settings, write_store


def test_each_variant_switches_off_just_its_pillar() -> None:
    plan = AblationConfig().plan()
    assert [run.config.seed for run in plan] == [0] * 6 + [1] * 6
    full = plan[0]
    assert full.name == FULL
    changed = {run.name: differences(full.config, run.config, ignore=["run_dir"]) for run in plan[1:6]}
    assert {name: {key: new for key, (_, new) in there.items()} for name, there in changed.items()} == {
        "single-gaussian": {"max_components": 1},
        "no-precision": {"attention_floor": 1.0},
        "no-context": {"perceiver_context": False},
        "mean-gradient": {"balancer": "mean"},
        "no-adversary": {"adversary": False},
    }
    assert all(old != new for there in changed.values() for old, new in there.values())
    assert set(VARIANTS) == set(get_args(VariantName))
    assert len({run.config.run_path for run in plan}) == len(plan)


@pytest.mark.parametrize("variant", get_args(VariantName))
def test_each_variant_trains_past_a_look_for_components_to_move(variant: VariantName, tmp_path: Path) -> None:
    config = VARIANTS[variant][1](small_settings(tmp_path / "run", write_store(tmp_path / "ball")))
    folder = train(replace(config, max_steps=RELOCATE_EVERY + 2))
    assert load_checkpoint(locate(folder)).step == RELOCATE_EVERY + 2


def test_what_is_trained_is_reported_and_not_trained_again(
    data: Path, nothing_more_is_made: Callable[[], None]
) -> None:
    config = AblationConfig(
        env=TASK, variants=("mean-gradient",), minutes=MINUTES, seeds=2, out=data.parent / "out", data_dir=data
    )
    report = ablate(config, recipe=RECIPE, protocol=PROTOCOL)
    written = json.loads((config.out / "ablation.json").read_text())
    assert [(run["name"], run["seed"]) for run in written["runs"]] == [
        (name, seed) for seed in (0, 1) for name in (FULL, "mean-gradient")
    ]
    (found,) = written["worth"]
    dreams = [run["scores"]["dream"]["moving_psnr"]["average"] for run in written["runs"]]
    assert found["by_seed"] == pytest.approx([dreams[0] - dreams[1], dreams[2] - dreams[3]])
    assert found["differences"]["moving_psnr"]["average"] == pytest.approx(sum(found["by_seed"]) / 2)
    (line,) = [line for line in report.text.splitlines() if "the mean of the gradients instead of RGB" in line]
    assert f"{found['differences']['moving_psnr']['average']:.2f} [".replace("-0.00", "0.00") in line

    for path in config.out.glob("*/*/evaluation/evaluation.json"):  # of a version that had one setting less
        found = json.loads(path.read_text())
        del found["config"]["fvd"]
        path.write_text(json.dumps(found))
    nothing_more_is_made()
    assert ablate(config, recipe=RECIPE, protocol=PROTOCOL).text == report.text


def test_runs_of_as_many_steps_have_the_same_figures_whenever_they_are_made(data: Path) -> None:
    def figures(out: str) -> list[Any]:
        config = AblationConfig(
            env=TASK,
            variants=("no-precision",),
            steps=2,
            seeds=1,
            out=data.parent / out,
            data_dir=data,
            device="cpu",
            precision="float32",
        )
        report = ablate(config, recipe=RECIPE, protocol=PROTOCOL)
        assert "2 steps a run" in report.text
        content = json.loads((config.out / "ablation.json").read_text())
        assert [run["steps"] for run in content["runs"]] == [2, 2]
        its_own = ("training_seconds", "frames_per_second", "run")
        runs = [{name: value for name, value in run.items() if name not in its_own} for run in content["runs"]]
        return [content["worth"], runs]

    assert figures("first") == figures("second")


def result(values: torch.Tensor) -> Result:
    metrics = {"moving_psnr": values, "psnr": values, "ssim": values}
    curve = {"average": float(values.mean()), "average_low": 0.0, "average_high": 0.0, "mean": []}
    found: dict[str, Any] = {
        "config": {"resamples": 300, "seed": 0},
        "data": {"places": [[clip, 0] for clip in range(len(values))]},
        "summary": {"state_r2": 0.5, "nll_nats_per_dimension": -1.0},
        "scores": {"dream": {"moving_psnr": curve}},
    }
    return Result("a", TrainConfig(), 1, 1, 1.0, found, dict.fromkeys(("dream", "ceiling", "shuffled"), metrics))


def test_a_second_seed_on_the_same_clips_is_no_new_clip() -> None:
    """The same run once more brings nothing to know, so the interval must not shrink by it."""
    generator = torch.Generator().manual_seed(0)
    full = result(torch.randn(20, 3, generator=generator, dtype=torch.float64))
    without = result(torch.randn(20, 3, generator=generator, dtype=torch.float64) - 1.0)
    once, twice = worth("no-context", [(full, without)]), worth("no-context", [(full, without)] * 2)
    assert twice.curves["moving_psnr"] == once.curves["moving_psnr"]
    assert once.curves["moving_psnr"].average_low > 0
    assert once.curves["loss_by_shuffling"].average == 0.0
    assert (once.state_r2, once.nll) == (0.0, 0.0)


@pytest.mark.parametrize(
    "changes",
    [{"variants": ()}, {"seeds": 0}, {"minutes": -1.0}, {"minutes": 1.0, "steps": 9}, {"steps": 0}, {"clips": 1}],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        dataclasses.replace(AblationConfig(), **changes)
