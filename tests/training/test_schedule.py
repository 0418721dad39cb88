"""Schedules: rise, peak, fall; and beta's warm-up."""

from itertools import pairwise

import pytest

from aime.config import LossConfig, OptimizerConfig, TrainConfig
from aime.presets import preset_config
from aime.training.schedule import FINAL_SHARE, REST_FROM, REST_TO, beta_at, consolidates, lr_factor


def test_learning_rate_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    config = OptimizerConfig(lr_warmup_steps=20)
    factors = [lr_factor(step, config, 1000) for step in range(1001)]
    assert factors[0] == pytest.approx(1 / 20)
    assert all(a < b for a, b in pairwise(factors[:20]))
    assert max(factors) == factors[20] == 1.0
    assert all(a > b for a, b in pairwise(factors[20:]))
    assert factors[1000] == pytest.approx(FINAL_SHARE)
    assert lr_factor(5000, config, 1000) == pytest.approx(FINAL_SHARE)


def test_the_last_share_of_a_run_is_for_consolidation_with_a_fall_of_its_own() -> None:
    config = OptimizerConfig(lr_warmup_steps=20)
    factors = [lr_factor(step, config, 1000, consolidation=0.2) for step in range(1001)]
    assert [step for step in range(1001) if consolidates(step, 0.2, 1000)] == list(range(800, 1001))
    assert all(a > b for a, b in pairwise(factors[20:800])) and factors[799] == pytest.approx(FINAL_SHARE, abs=1e-4)
    assert factors[800] == REST_FROM and all(a > b for a, b in pairwise(factors[800:]))
    assert factors[1000] == pytest.approx(REST_TO)
    by_time = [lr_factor(30, config, 10**9, time_over=0.001 * t, consolidation=0.2) for t in range(100, 1001)]
    assert by_time[700] == REST_FROM and by_time[699] < 0.11 and by_time[900] == pytest.approx(REST_TO)
    assert consolidates(30, 0.2, 10**9, time_over=0.8) and not consolidates(30, 0.2, 10**9, time_over=0.79)
    assert not consolidates(1000, 0.0, 1000), "there is none without a share for it"


def test_perception_rests_however_often_dynamics_rehearses_beside_it_and_a_peer_never_rests() -> None:
    for rehearsals in (0, 3):
        optimizer = OptimizerConfig(consolidation=0.2, rehearsals=rehearsals)
        assert TrainConfig(optimizer=optimizer).consolidation == 0.2
    assert preset_config("tiny", "rssm").consolidation == 0


def test_a_limit_of_time_ends_the_schedule_too() -> None:
    config = OptimizerConfig(lr_warmup_steps=20)
    assert lr_factor(30, config, 10_000, time_over=1.0) == pytest.approx(FINAL_SHARE)
    assert lr_factor(30, config, 10_000, time_over=0.5) == pytest.approx((1 + FINAL_SHARE) / 2)
    assert lr_factor(900, config, 1000, time_over=0.1) == lr_factor(900, config, 1000)
    assert lr_factor(900, config, 10_000, time_over=0.05) < 1, "after warming up it never rises again"


def test_a_slow_run_by_the_clock_has_warmed_up_after_a_tenth_of_its_time() -> None:
    config = OptimizerConfig(lr_warmup_steps=20)
    assert lr_factor(3, config, 10_000, time_over=0.001) == pytest.approx(4 / 20), "a fast one goes by its steps"
    assert lr_factor(3, config, 10_000, time_over=0.05) == pytest.approx(0.5)
    late = [lr_factor(3, config, 10_000, time_over=0.01 * t) for t in range(10, 101)]
    assert late == [lr_factor(30, config, 10_000, time_over=0.01 * t) for t in range(10, 101)]


def test_constant_schedule_stays_at_its_peak() -> None:
    config = OptimizerConfig(lr_warmup_steps=20, lr_schedule="constant")
    assert {lr_factor(step, config, 1000) for step in range(20, 1200)} == {1.0}


@pytest.mark.parametrize("max_steps", [1, 2, 9, 10, 100])
def test_a_run_shorter_than_its_warmup_still_trains_at_full_rate(max_steps: int) -> None:
    factors = [lr_factor(step, OptimizerConfig(lr_warmup_steps=100), max_steps) for step in range(max_steps)]
    assert all(0 < f <= 1 for f in factors)
    assert max(factors) == pytest.approx(1.0)


def test_no_warmup_starts_at_the_peak() -> None:
    assert lr_factor(0, OptimizerConfig(lr_warmup_steps=0), 100) == 1.0


def test_beta_rises_over_its_epochs_and_a_fraction_of_an_epoch_counts() -> None:
    config, loss = OptimizerConfig(warmup_epochs=25.0), LossConfig(beta=0.8)
    assert beta_at(0.0, loss, config) == 0.0
    assert beta_at(12.5, loss, config) == pytest.approx(0.4)
    assert beta_at(0.1, loss, config) == pytest.approx(0.8 * 0.1 / 25)
    assert beta_at(25.0, loss, config) == beta_at(1000.0, loss, config) == pytest.approx(0.8)


def test_without_warmup_beta_is_there_at_once() -> None:
    assert beta_at(0.0, LossConfig(beta=0.7), OptimizerConfig(warmup_epochs=0.0)) == 0.7
