"""The log: whole lines, nothing told twice after a resume, and means that a checkpoint keeps exactly."""

import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from aime.config import TrainConfig
from aime.errors import ConfigError, TrainingError
from aime.training.meter import MeanMeter
from aime.training.metrics import MetricsLog, drop_after
from tests.training.limits import disk_of

QUIET = TrainConfig(tensorboard=False)
YES, NO = torch.tensor(True), torch.tensor(False)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, steps: list[int], from_step: int = 0) -> None:
    log = MetricsLog(path, QUIET, from_step=from_step)
    for step in steps:
        log.write(step, {"loss": 1.0 / step})
    log.close()


def test_a_resumed_run_drops_what_came_after_the_step_it_goes_on_from(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [10, 20, 30])
    write(path, [30, 40], from_step=20)
    assert [line["step"] for line in lines(path)] == [10, 20, 30, 40]


def test_a_line_that_was_torn_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [10, 20])
    with path.open("a") as file:
        file.write('{"step": 25, "lo')
    write(path, [30], from_step=25)
    assert [line["step"] for line in lines(path)] == [10, 20, 30]


@pytest.mark.parametrize("rest", ['{"step": 25, "loss": 1}', "{}\n", "[]\n", "garbage\n", "\n"])
def test_only_whole_lines_with_a_step_are_kept(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [10])
    whole = path.read_bytes()
    path.write_bytes(whole + rest.encode())
    drop_after(path, 100)
    assert path.read_bytes() == whole


def test_a_new_run_forgets_what_a_run_without_a_checkpoint_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [10, 20])
    write(path, [10])
    assert [line["step"] for line in lines(path)] == [10]


def test_values_that_are_not_finite_are_null_so_that_every_line_is_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, QUIET)
    log.write(1, {"a": float("nan"), "b": float("inf"), "c": 0.1})
    log.close()

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line == {"step": 1, "a": None, "b": None, "c": 0.1}


def test_a_full_disk_is_a_sentence_and_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, QUIET)
    with disk_of(100), pytest.raises(TrainingError, match=r"step \d+ could not be written .*disk is full"):
        for step in range(1, 100):
            log.write(step, {"loss": 0.123456789})
    log.close()
    written = lines(path)
    assert written and path.read_bytes().endswith(b"\n")
    assert [line["step"] for line in written] == list(range(1, len(written) + 1))
    assert os.path.getsize(path) <= 100


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path / "metrics.jsonl", TrainConfig())
    log.write(5, {"loss": 2.5, "nothing": float("nan")})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(5, 2.5)]


def test_wandb_that_is_not_installed_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'aime\[wandb\]'.*--no-wandb"):
        MetricsLog(tmp_path / "metrics.jsonl", TrainConfig(tensorboard=False, wandb=True))


def test_wandb_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            seen.append((step, values))

        def finish(self) -> None:
            seen.append("finished")

    fake = ModuleType("wandb")
    fake.init = lambda **options: seen.append(options) or Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = MetricsLog(tmp_path / "metrics.jsonl", TrainConfig(tensorboard=False, wandb=True), identity="run-1")
    log.write(3, {"loss": 1.0, "bad": float("nan")})
    log.close()
    options, line, end = seen
    assert options["id"] == "run-1" and options["config"]["latent_dim"] == 36
    assert line == (3, {"loss": 1.0}) and end == "finished"


def test_means_leave_out_skipped_steps_and_values_that_are_not_finite() -> None:
    meter = MeanMeter(torch.device("cpu"))
    meter.add({"a": torch.tensor(1.0), "b": torch.tensor(float("nan"))}, YES)
    meter.add({"a": torch.tensor(100.0), "b": torch.tensor(100.0)}, NO)
    meter.add({"a": torch.tensor(2.0), "c": torch.tensor(5.0)}, YES)
    means = meter.means()
    assert means["a"] == 1.5 and means["c"] == 5.0 and math.isnan(means["b"])
    meter.reset()
    meter.add({"a": torch.tensor(7.0)}, YES)
    assert meter.means()["a"] == 7.0


def test_means_survive_a_checkpoint_exactly() -> None:
    values = torch.rand(10, generator=torch.Generator().manual_seed(0)) * 1e3
    whole, first = MeanMeter(torch.device("cpu")), MeanMeter(torch.device("cpu"))
    for value in values:
        whole.add({"a": value, "b": value.sqrt()}, YES)
    for value in values[:4]:
        first.add({"a": value, "b": value.sqrt()}, YES)
    second = MeanMeter(torch.device("cpu"))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for value in values[4:]:
        second.add({"a": value, "b": value.sqrt()}, YES)
    assert second.means() == whole.means()
