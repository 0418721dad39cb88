"""Where to compute and with which numbers; random states come back."""

import json
import logging
import random

import numpy as np
import pytest
import torch

from aime.config import replace
from aime.presets import preset_config
from aime.training import device
from aime.training.device import (
    autocast,
    cpu_bf16_gain,
    cpu_bf16_recurrent_gain,
    resolve_device,
    resolve_precision,
    resolve_precisions,
)
from aime.training.random_state import random_state, restore_random_state, seed_everything

CPU = torch.device("cpu")
TINY = preset_config("tiny").model


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_that_is_not_there_is_the_cpu_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "aime"):
        assert resolve_device("cuda") == CPU
    assert "no CUDA device" in caplog.text and "runs on the CPU" in caplog.text
    caplog.clear()
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    assert caplog.text == ""


def test_precision_that_is_asked_for_is_taken_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_bf16_gain", lambda _: pytest.fail("measured"))
    assert resolve_precision("float32", CPU, TINY) == "float32"
    assert resolve_precision("bf16", CPU, TINY) == "bf16"


@pytest.mark.parametrize(("gain", "expected"), [(0.2, "float32"), (1.02, "float32"), (1.8, "bf16")])
def test_auto_takes_bf16_on_a_cpu_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, gain: float, expected: str
) -> None:
    monkeypatch.setattr(device, "cpu_bf16_gain", lambda _: gain)
    assert resolve_precision("auto", CPU, TINY) == expected


@pytest.mark.parametrize(
    ("asked", "gains", "expected"),
    [
        (("auto", "auto"), (0.9, 1.6), ("float32", "bf16")),
        (("auto", "auto"), (0.9, 1.02), ("float32", "float32")),
        (("auto", "auto"), (1.6, None), ("bf16", "bf16")),
        (("auto", "float32"), (1.6, None), ("bf16", "float32")),
        (("float32", "auto"), (None, None), ("float32", "float32")),  # whoever asks for float32 is given nothing else
        (("bf16", "auto"), (None, None), ("bf16", "bf16")),
        (("float32", "bf16"), (None, None), ("float32", "bf16")),
    ],
)
def test_rest_has_a_precision_of_its_own_where_that_is_measured_and_faster(
    monkeypatch: pytest.MonkeyPatch,
    asked: tuple[str, str],
    gains: tuple[float | None, float | None],
    expected: tuple[str, str],
) -> None:
    for name, gain in zip(("cpu_bf16_gain", "cpu_bf16_recurrent_gain"), gains, strict=True):
        monkeypatch.setattr(device, name, lambda *_, gain=gain: pytest.fail("measured") if gain is None else gain)
    config = preset_config("tiny")
    config = replace(config, precision=asked[0], optimizer=replace(config.optimizer, consolidation_precision=asked[1]))
    settled = resolve_precisions(config, CPU)
    assert (settled.precision, settled.optimizer.consolidation_precision) == expected
    assert resolve_precisions(settled, CPU) == settled


def test_a_peer_has_no_rest_whose_precision_could_be_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_bf16_gain", lambda _: 0.9)
    assert resolve_precisions(preset_config("tiny", "rssm"), CPU).optimizer.consolidation_precision == "auto"


def test_the_measurements_answer_and_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert 0 < cpu_bf16_gain(TINY, rounds=1) < 1000
    assert 0 < cpu_bf16_recurrent_gain(64, 8, rounds=1) < 1000
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_changes_nothing_in_float32() -> None:
    x = torch.ones(4, 4)
    with autocast(CPU, "float32"):
        assert (x @ x).dtype == torch.float32
    with autocast(CPU, "bf16"):
        assert (x @ x).dtype == torch.bfloat16


def test_random_states_come_back_through_json() -> None:
    seed_everything(5)
    torch.rand(3), np.random.normal(), random.gauss(0, 1)  # both Gaussians leave a second number waiting
    state = json.loads(json.dumps(random_state()))

    def draws() -> list[float]:
        return [torch.rand(()).item(), torch.randn(()).item(), np.random.normal(), random.gauss(0, 1), random.random()]

    first = draws()
    draws()
    restore_random_state(state)
    assert draws() == first


def test_one_seed_starts_every_generator() -> None:
    def draws() -> list[float]:
        return [torch.rand(()).item(), float(np.random.rand()), random.random()]

    seed_everything(3)
    first = draws()
    seed_everything(3)
    assert draws() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
