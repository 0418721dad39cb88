"""`aime bench` as a whole, on a model of milliseconds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from aime.bench import growth, loading, probe, run, steps, watching
from aime.bench.config import CLIPS, SECTIONS, BenchConfig
from aime.bench.figures import Figure, NotMeasured
from aime.bench.probe import machine
from aime.bench.run import MEASURES, measure
from aime.bench.subject import Subject
from aime.bench.table import Report, cell, quantity
from aime.bench.timing import Timing
from aime.cli import main
from aime.config import DataConfig, ModelSettings, TrainConfig
from aime.errors import ConfigError, DataError
from aime.presets import PRESETS
from aime.training import update
from tests.data.making import make_store
from tests.helpers import small_config


def small_preset(**settings: Any) -> TrainConfig:
    sizes = {name: getattr(small_config(), name) for name in ModelSettings.__dataclass_fields__}
    return TrainConfig(model=ModelSettings(**sizes), data=DataConfig(batch_size=2), **settings)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The presets are a small model, and no process is started for memory (`test_memory` does that)."""
    monkeypatch.setattr(run, "preset_config", lambda name: small_preset())
    monkeypatch.setattr(run, "probe", lambda precision, device: Timing((0.1, 0.1)))
    monkeypatch.setattr(probe, "SIZE", 64)
    monkeypatch.setattr(probe, "_emulates_bf16", lambda: False)
    monkeypatch.setattr(growth, "GROWTH", (8, 16))
    monkeypatch.setattr(loading, "LENGTH", 40)
    monkeypatch.setattr(watching, "CROWD", 32)

    def refuse(*_: Any) -> None:
        raise NotMeasured("no process for it in this test")

    for module in (growth, steps):
        monkeypatch.setattr(module, "in_a_fresh_process", refuse)


def test_every_section_is_in_the_table_and_in_the_file(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "bench.json"
    flags = ["--repeats", "1", "--presets", "tiny", "--batch-size", "2", "--sequence-length", "6", "--out", str(out)]
    assert main(["bench", *flags]) == 0
    table = capsys.readouterr().out
    content = json.loads(out.read_text(encoding="utf-8"))
    figures = [Figure(**figure) for figure in content["figures"]]
    assert set(MEASURES) == set(SECTIONS) == {f.section for f in figures} - {"probe"}
    for section in SECTIONS:
        assert f"| {section} " in table
    for figure in figures:
        assert cell(figure) in table, figure
        assert figure.value is not None or figure.note, "what is not measured has a reason"
        if figure.least is not None and figure.most is not None and figure.value is not None:
            assert figure.least <= figure.value <= figure.most
    places = Counter((f.section, f.what, f.preset, f.precision) for f in figures)
    assert max(places.values()) == 1, "two figures would share a cell"
    assert {f.precision for f in figures if f.section == "step"} == {"float32", "bf16"}
    assert sum(f.value or 0 for f in figures if f.section == "pillars") == pytest.approx(1)
    assert {f.note for f in figures if f.value is None} == {"no process for it in this test"}
    assert content["machine"]["gpu"] is None or content["machine"]["device"] == "cuda"


def test_a_step_is_told_apart_from_what_rehearses_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed: list[str] = []
    for name in ("rehearse_perception", "rehearse_dynamics"):
        found = getattr(update, name)
        monkeypatch.setattr(update, name, lambda *a, f=found, n=name: (rehearsed.append(n), f(*a))[1])
    config = small_preset(precision="float32")
    subject = Subject("tiny", config, torch.device("cpu"))
    subject.unrehearsed().stepper()()
    assert rehearsed == []
    subject.stepper()()
    assert len(rehearsed) == config.optimizer.second_looks + config.optimizer.rehearsals


def test_bf16_that_is_emulated_is_not_measured(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_emulates_bf16", lambda: True)
    report = measure(BenchConfig(presets=("tiny",), only=("step",), quick=True, sequence_length=6))
    assert {f.precision for f in report.figures if f.section == "step"} == {"float32"}
    assert {f.note for f in report.figures if f.precision == "bf16"} == {"this device has none"}
    with pytest.raises(ConfigError, match="bf16 is not in this device's arithmetic"):
        measure(BenchConfig(presets=("tiny",), only=("step",), precision="bf16"))


def test_only_what_is_asked_for_is_measured(small: None) -> None:
    report = measure(BenchConfig(presets=("tiny",), only=("streaming",), quick=True, sequence_length=6))
    assert {f.section for f in report.figures} == {"probe", "streaming"}


@pytest.mark.parametrize("lengths", [None, (5,) * 6, (7,) * 3], ids=["no store", "short episodes", "few windows"])
def test_data_that_cannot_be_loaded_are_refused_before_anything_is_measured(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...] | None
) -> None:
    monkeypatch.setattr(run, "probe", lambda *_: pytest.fail("measured"))
    if lengths is not None:
        make_store(tmp_path / "data", list(lengths))
    config = BenchConfig(presets=("tiny",), sequence_length=6, batch_size=2, data_dir=tmp_path / "data")
    with pytest.raises(DataError, match="data"):
        measure(config)


def test_a_machine_that_is_too_small_gets_a_reason(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> Any:
        yield Figure("first", 1.0, "s")
        raise MemoryError

    monkeypatch.setitem(MEASURES, "peer", greedy)
    report = measure(BenchConfig(presets=("tiny",), only=("peer",), quick=True, sequence_length=6))
    first, rest = [f for f in report.figures if f.section == "peer"]
    assert first.value == 1 and rest.value is None
    assert cell(rest) == "not measured: out of memory; a smaller --batch-size may fit"


def test_every_preset_has_a_batch() -> None:
    assert set(CLIPS) == set(PRESETS)


def test_a_busy_machine_is_told() -> None:
    found: dict[str, Any] = {**machine(torch.device("cpu")), "load_after": 2.0}

    def said(before: float, after: float) -> str:
        probes = [
            Figure(f"2048² product {when}", speed, "FLOP/s", section="probe", precision="float32")
            for when, speed in (("before", before), ("after", after))
        ]
        return "\n".join(Report(found, BenchConfig(), probes).lines())

    assert "busy" in said(2e11, 1e11) and "busy" not in said(1e11, 1.05e11)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (1.234, "s", "1.23 s"),
        (3 * 2**30, "B", "3.00 GiB"),
        (5.5 * 2**20, "B", "5.50 MiB"),
        (1.9e11, "FLOP/s", "190 GFLOP/s"),
        (17_612_000, "parameters", "17.6 M"),
        (12_345.6, "frames/s", "12,346 frames/s"),
        (0.25, "share", "25.0 %"),
        (1.5, "times", "1.50 ×"),
        (0.0, "s", "0 ms"),
    ],
)
def test_numbers_have_three_digits_and_a_unit_of_their_size(value: float, unit: Any, text: str) -> None:
    assert quantity(value, unit) == text
