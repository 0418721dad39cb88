"""The benchmark: one table of models that had the same data and time, made once however often it is interrupted."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aime.data.store import EpisodeStore
from aime.errors import CheckpointError, ConfigError
from aime.presets import preset_config
from aime.studies.benchmark import MINUTES as FIXED_MINUTES
from aime.studies.benchmark import BenchmarkConfig, benchmark, compare
from aime.studies.runs import Result
from aime.studies.table import HEAD, Report
from aime.training import Trainer, load_checkpoint
from aime.training.locate import locate
from aime.training.runs import RunFolder
from tests.studies.conftest import MINUTES, PROTOCOL, RECIPE, TASK, write_store

Forbid = Callable[[], None]


def config(data: Path, **changes: Any) -> BenchmarkConfig:
    small = BenchmarkConfig(tasks=(TASK,), minutes=MINUTES, out=data.parent / "out", data_dir=data, device="cpu")
    return dataclasses.replace(small, **changes)


def make(settings: BenchmarkConfig) -> Report:
    return benchmark(settings, recipe=RECIPE, protocol=PROTOCOL)


def cells(text: str, name: str) -> dict[str, str]:
    """A row of the table of runs, by its columns."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {TASK} | {name} ")]
    return dict(zip(HEAD, (cell.strip() for cell in line.strip("|").split("|")), strict=True))


def test_the_table_says_what_the_runs_wrote_and_is_not_made_twice(data: Path, nothing_more_is_made: Forbid) -> None:
    settings = config(data)
    report = make(settings)
    written = json.loads((settings.out / "benchmark.json").read_text())
    assert (settings.out / "benchmark.md").read_text() == report.text + "\n"
    for model in ("aime", "rssm"):
        folder = settings.out / TASK / model
        found = json.loads((folder / "evaluation" / "evaluation.json").read_text())
        state = load_checkpoint(locate(folder)).state
        row = cells(report.text, model)
        assert row["steps"] == f"{state['step']:,}"
        assert row["parameters"] == f"{found['model']['parameters']:,}"
        assert row["moving PSNR, dB"].startswith(f"{found['scores']['dream']['moving_psnr']['average']:.2f} [")
        assert row["at 5"] == f"{found['scores']['dream']['moving_psnr']['mean'][4]:.1f}" and row["at 40"] == "–"
        (run,) = [run for run in written["runs"] if run["model"] == model]
        watched = state["step"] if state["rests_since"] is None else state["rests_since"]
        assert run["steps_that_watched"] == watched
        frames = watched * 8 * small_clip()
        assert run["frames_per_second"] == pytest.approx(frames / state["elapsed_seconds"])
        assert run["training_seconds"] >= 60 * MINUTES
    assert cells(report.text, "copy last")["reconstruction"] == cells(report.text, "mean frame")["steps"] == "–"
    (data_said,) = written["data"]
    assert data_said["fingerprint"] == EpisodeStore.open(data / TASK).fingerprint
    assert data_said["renderer"] == "none" and written["recipe"] == dataclasses.asdict(RECIPE)
    assert [pair["task"] for pair in written["aime_less_peer"]] == [TASK]
    assert f"- {TASK}, aime, seed 0: " in report.text

    nothing_more_is_made()
    again = make(settings)
    assert again.text == report.text
    assert json.loads((settings.out / "benchmark.json").read_text()) == written


def small_clip() -> int:
    return preset_config("tiny").model.sequence_length


def test_a_stopped_benchmark_goes_on_where_it_stopped(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(data, models=("rssm",), minutes=0.05)  # room for two steps on a busy machine
    advance = Trainer.advance

    def stopped(self: Trainer, batch: dict[str, torch.Tensor]) -> Any:
        if self.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return advance(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "advance", stopped)
        make(settings)
    first = load_checkpoint(locate(settings.out / TASK / "rssm"))
    assert first.step == 3 and not (settings.out / "benchmark.json").exists()
    begun: list[tuple[int, float]] = []
    run = Trainer.run

    def note(self: Trainer) -> None:
        begun.append((self.step, self.pace.elapsed))
        run(self)

    monkeypatch.setattr(Trainer, "run", note)
    report = make(settings)
    assert begun[0][0] == 3 and begun[0][1] >= first.state["elapsed_seconds"] > 0
    assert int(cells(report.text, "rssm")["steps"].replace(",", "")) > 3


def test_an_evaluation_is_made_again_only_where_it_would_be_another(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aime.studies import runs

    settings = config(data, models=("rssm",))
    make(settings)
    made: list[int] = []
    evaluate = runs.evaluate

    def count(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(runs, "evaluate", count)
    make(settings)
    assert not made
    benchmark(settings, recipe=RECIPE, protocol=dataclasses.replace(PROTOCOL, clips=4))
    assert len(made) == 1, "another protocol"
    make(settings)
    assert len(made) == 2, "and back"
    report = settings.out / TASK / "rssm" / "evaluation" / "evaluation.json"
    report.write_text(report.read_text()[:100])
    make(settings)
    assert len(made) == 3, "half of one is none"
    (report.parent / "clip-scores.safetensors").unlink()
    make(settings)
    assert len(made) == 4, "without the scores of each clip nothing is paired"


def test_what_is_not_the_planned_run_is_refused_before_anything_is_trained(
    data: Path, nothing_more_is_made: Forbid
) -> None:
    settings = config(data, models=("rssm",))
    make(settings)
    nothing_more_is_made()
    for changes, words in (
        ({"minutes": 2 * MINUTES}, "max_minutes is 0.01 there, 0.02 here.*--out"),
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"peer_learning_rate": 0.1}, "learning_rate is 0.001 there, 0.1 here"),
    ):
        with pytest.raises(ConfigError, match=words):  # AIME comes first and is not there yet: it is not begun
            make(dataclasses.replace(settings, models=("aime", "rssm"), **changes))
    assert not (settings.out / TASK / "aime").exists()


def test_all_runs_have_one_precision_whatever_a_second_measurement_would_say(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aime.training import device

    measured = iter([0.5, 5.0])  # then it fails when it is asked again
    monkeypatch.setattr(device, "cpu_bf16_gain", lambda _: next(measured))
    make(config(data, models=("rssm",)))
    make(config(data))  # in what AIME rests has to be found out now
    make(config(data))
    written = json.loads((config(data).out / "benchmark.json").read_text())
    precisions = ((run["model"], run["precision"], run["consolidation_precision"]) for run in written["runs"])
    assert list(precisions) == [("aime", "float32", "bf16"), ("rssm", "float32", "auto")]


def test_a_run_on_other_data_is_refused(data: Path, nothing_more_is_made: Forbid) -> None:
    settings = config(data, models=("rssm",))
    make(settings)
    nothing_more_is_made()
    write_store(data.parent / "others" / TASK, seed=1)
    with pytest.raises(CheckpointError, match=r"trained on data of fingerprint \w+.*--data-dir"):
        make(dataclasses.replace(settings, data_dir=data.parent / "others"))


def test_models_have_the_same_data_minutes_sizes_and_seed_and_their_own_optimizers(tmp_path: Path) -> None:
    settings = BenchmarkConfig(seed=3, out=tmp_path)
    plan = settings.plan()
    assert [(run.config.data.env, run.name) for run in plan] == [
        (task, model) for task in FIXED_MINUTES for model in ("aime", "rssm")
    ]
    for ours, theirs in zip(plan[::2], plan[1::2], strict=True):
        assert ours.config.data == theirs.config.data and ours.config.model == theirs.config.model
        assert ours.config.max_minutes == theirs.config.max_minutes == FIXED_MINUTES[ours.config.data.env]
        assert ours.config.seed == theirs.config.seed == 3
        assert ours.config.optimizer == preset_config("tiny").optimizer
        assert theirs.config.optimizer.learning_rate == 0.001
        assert RunFolder(ours.config.run_path) != RunFolder(theirs.config.run_path)
    (peer,) = BenchmarkConfig(tasks=(TASK,), models=("rssm",), preset="base").plan()
    assert peer.config.optimizer.learning_rate == 0.0001 and peer.config.max_minutes == 15.0


@pytest.mark.parametrize(
    "changes",
    [{"tasks": ()}, {"models": ("aime", "aime")}, {"minutes": 0.0}, {"clips": 1}, {"samples": -1}],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        BenchmarkConfig(**changes)


def result(values: torch.Tensor, name: str) -> Result:
    """A run that scored these, with the curve that an evaluation would have made of them."""
    from aime.config import TrainConfig
    from aime.evaluation.bootstrap import resamples, summarise

    places = [[clip // 2, clip] for clip in range(len(values))]
    draws = resamples(torch.tensor([episode for episode, _ in places]), 500, 0)
    curve = dataclasses.asdict(summarise(values, draws))
    found = {
        "config": {"resamples": 500, "seed": 0},
        "data": {"places": places},
        "scores": {"dream": {"moving_psnr": curve}},
    }
    return Result(name, TrainConfig(), 1, 1, 1.0, found, {"dream": {"moving_psnr": values}})


def test_a_small_gain_on_every_clip_is_seen_though_the_clips_differ_more() -> None:
    generator = torch.Generator().manual_seed(0)
    hard = 5 * torch.randn(64, 4, generator=generator, dtype=torch.float64)
    better = hard + 1.0 + 0.1 * torch.randn(64, 4, generator=generator, dtype=torch.float64)
    hard[3, 1] = better[3, 1] = torch.nan  # nothing moves there
    found = compare(result(better, "aime"), result(hard, "rssm"))
    assert found["difference"]["average"] == pytest.approx(1.0, abs=0.05)
    assert 0.9 < found["difference"]["low"] < found["difference"]["high"] < 1.1
    assert not found["apart"], "the intervals of the two overlap all the same"
    assert compare(result(hard + 20, "aime"), result(hard, "rssm"))["apart"]
    assert compare(result(hard, "aime"), result(hard + 20, "rssm"))["apart"]
