"""Calibration: what a calibrated model scores, and one that is too sure or too timid."""

import pytest
import torch

from aime.evaluation.bootstrap import resamples
from aime.evaluation.calibration import Calibration, CalibrationCounter, calibrate, levels

SAMPLES = 8


def measure(claimed: float, real: float = 0.1, samples: int = SAMPLES) -> Calibration:
    """Truth is 0.5 ± real, dreams are 0.5 ± claimed."""
    generator = torch.Generator().manual_seed(0)
    truth = 0.5 + real * torch.randn(6, 4, 3, 16, 16, generator=generator)
    counter = CalibrationCounter(truth, torch.ones(6, 4, 16, 16, dtype=torch.bool))
    for _ in range(samples):
        counter.add(0.5 + claimed * torch.randn(truth.shape, generator=generator))
    return calibrate(counter.terms(), samples, resamples(torch.arange(6), 100, seed=0))


def test_levels_are_those_of_order_statistics() -> None:
    assert levels(8) == pytest.approx([7 / 9, 5 / 9, 3 / 9, 1 / 9])
    assert levels(3) == pytest.approx([2 / 4])


@pytest.mark.parametrize("samples", [3, 8])
def test_truth_as_one_more_sample_is_calibrated(samples: int) -> None:
    result = measure(claimed=0.1, samples=samples)
    # Half a grey level to either side counts as inside, which widens the narrow intervals a little.
    for level, curve in zip(result.levels, result.coverage, strict=True):
        assert curve.average == pytest.approx(level, abs=0.03)
    assert result.spread_to_error.average == pytest.approx(1.0, abs=0.03)


def test_too_sure_and_too_timid() -> None:
    sure, timid = measure(claimed=0.03), measure(claimed=0.3)
    assert sure.spread_to_error.average < 0.5 < 2.0 < timid.spread_to_error.average
    assert sure.coverage[0].average < 0.5 < levels(SAMPLES)[0] < timid.coverage[0].average


def test_only_moving_pixels_count() -> None:
    truth = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    moving = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
    moving[..., :4] = True
    counter = CalibrationCounter(truth, moving)
    for sample in range(2):
        dream = truth + (0.2 if sample else -0.2)
        dream[..., 4:] = 0.0  # wrong, and nobody asks
        counter.add(dream)
    terms = counter.terms()
    assert torch.equal(terms.pixels, torch.full((2, 3), 3.0 * 8 * 4, dtype=torch.float64))
    assert torch.equal(terms.inside[0], terms.pixels)
    torch.testing.assert_close(terms.error, torch.zeros_like(terms.error), atol=1e-8, rtol=0)
    torch.testing.assert_close(counter.mean()[..., :4], truth[..., :4])
