"""Properties of attention as precision."""

import math

import torch

from aime.attention import gaussian_nll, motion_target, precision_map

GRID, SIZE = 21, 64


def corner_map(weight: float) -> torch.Tensor:
    """Attention with `weight` of its mass on the upper left quarter of the frame."""
    quarter = torch.zeros(GRID, GRID)
    quarter[:10, :10] = 1
    rest = 1 - quarter
    return (weight * quarter / quarter.sum() + (1 - weight) * rest / rest.sum())[None]


def nll(error_at: tuple[slice, slice], attention: torch.Tensor, size: float = 0.3) -> float:
    frame, mean = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 3, SIZE, SIZE)
    mean[:, :, error_at[0], error_at[1]] = size
    precision = precision_map(attention, SIZE, floor=0.25)
    return float(gaussian_nll(frame, mean, torch.tensor(math.log(0.1)), precision))


INSIDE, OUTSIDE, NOWHERE = (slice(2, 12), slice(2, 12)), (slice(48, 58), slice(48, 58)), (slice(0, 0), slice(0, 0))


def test_precision_averages_to_one_and_never_vanishes():
    precision = precision_map(corner_map(0.99), SIZE, floor=0.25)
    torch.testing.assert_close(precision.mean(dim=(-2, -1)), torch.ones(1))
    assert float(precision.min()) >= 0.25
    assert torch.equal(precision_map(corner_map(0.99), SIZE, floor=1.0), torch.ones(1, SIZE, SIZE))


def test_error_outside_attention_costs_less_but_not_nothing():
    attention = corner_map(0.9)
    right = nll(NOWHERE, attention)
    inside, outside = nll(INSIDE, attention) - right, nll(OUTSIDE, attention) - right
    assert 0 < outside < 0.5 * inside


def test_ignoring_a_region_has_its_price():
    """Where nothing is wrong anywhere, spreading the precision evenly is the best: the normaliser sees to it."""
    uniform = torch.full((1, GRID, GRID), 1 / GRID**2)
    assert nll(NOWHERE, uniform) < nll(NOWHERE, corner_map(0.9)) < nll(NOWHERE, corner_map(0.99))


def test_nll_is_the_gaussian_density_in_nats():
    frame, mean = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    ours = gaussian_nll(frame, mean, torch.tensor(math.log(0.2)), torch.ones(2, 8, 8))
    theirs = -torch.distributions.Normal(mean, 0.2).log_prob(frame).sum(dim=(1, 2, 3))
    torch.testing.assert_close(ours, theirs)


def test_motion_target_is_where_things_moved():
    frames = torch.zeros(1, 3, 3, SIZE, SIZE)
    frames[:, 1, :, 30:36, 9:15] = 1.0  # appears at frame 1, stays at frame 2
    target, weight = motion_target(frames, GRID)
    torch.testing.assert_close(target[0, 1].sum(), torch.tensor(1.0))
    row, column = divmod(int(target[0, 1].argmax()), GRID)
    assert abs(row * SIZE / GRID - 33) < 5 and abs(column * SIZE / GRID - 12) < 5
    assert float(weight[0, 0]) == 0.0 and float(weight[0, 1]) > 0.9
    still, none = motion_target(torch.zeros(1, 2, 3, SIZE, SIZE), GRID)
    assert torch.isfinite(still).all() and float(none.sum()) == 0.0
