"""The average of the weights that a run hands on."""

from __future__ import annotations

import pytest
import torch

from aime.training.average import WeightAverage


def set_weight(model: torch.nn.Linear, weight: float) -> None:
    with torch.no_grad():
        model.weight.fill_(weight)


def test_each_step_counts_by_its_power_and_the_average_ages_with_the_run() -> None:
    model = torch.nn.Linear(1, 1)
    average = WeightAverage(model, power=3.0)
    for step in range(1, 401):
        set_weight(model, float(step))
        average.follow()
        if step in (1, 100, 400):
            with average.in_place():
                mean = float(model.weight)
            # Of steps that count t³ each, the mean age is a fifth of the run.
            assert mean == pytest.approx(step - step / 5, abs=0.5 if step > 1 else 0.21)


def test_the_weights_that_learn_are_back_to_the_bit() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average = WeightAverage(model, power=2.0)
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.follow()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError), average.in_place():
        learning = average.learning()
        assert all(torch.equal(value, before[name]) for name, value in learning.items())
        assert not torch.equal(model[0].weight, before["0.weight"])
        raise RuntimeError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_goes_on_from_the_average_which_begins_anew() -> None:
    model = torch.nn.Linear(1, 1)
    average = WeightAverage(model, power=3.0)
    for weight in (1.0, 2.0, 3.0):
        set_weight(model, weight)
        average.follow()
    with average.in_place():
        mean = float(model.weight)
    average.settle()
    assert float(model.weight) == mean != 3.0 and average.steps == 0
    set_weight(model, 7.0)
    average.follow()
    with average.in_place():
        assert float(model.weight) == 7.0, "of what it began with nothing is left"


def test_a_very_large_power_hands_on_the_last_weights() -> None:
    model = torch.nn.Linear(2, 2)
    average = WeightAverage(model, power=1e9)
    for _ in range(5):
        with torch.no_grad():
            model.weight.normal_()
        average.follow()
    last = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), last)
