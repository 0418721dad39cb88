"""Frames and actions of any kind come out as a store has them."""

from __future__ import annotations

import numpy as np
import pytest

from aime.data.formats.actions import ActionScale, align, measured_scale, stated_scale
from aime.data.formats.episode import Episode
from aime.data.formats.frames import FrameFit, area_resize, to_rgb
from aime.data.formats.passport import Tail
from aime.errors import DataError


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (100, 37), (20, 20)])
def test_area_resizing_keeps_flat_colour_and_mean(shape: tuple[int, int]) -> None:
    flat = np.full((*shape, 3), (7, 200, 33), np.uint8)
    assert (area_resize(flat, 32) == [7, 200, 33]).all()
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert abs(area_resize(noise, 16).mean() - noise.mean()) < 0.5


def test_area_resizing_by_a_whole_factor_is_the_mean_of_blocks() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    blocks = frame.reshape(32, 2, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(area_resize(frame, 32) - blocks).max() <= 0.501


def test_the_first_frame_decides_the_size_where_none_is_asked_for() -> None:
    for shape, size in (((48, 48, 3), 48), ((50, 50, 3), 64), ((48, 64, 3), 64)):
        fit = FrameFit()
        assert fit.stack([np.zeros(shape, np.uint8)] * 2, "it").shape == (2, size, size, 3)
        assert fit.stack([np.zeros((96, 96, 3), np.uint8)], "it").shape == (1, size, size, 3)


def test_a_frame_of_the_right_size_is_left_alone() -> None:
    frame = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(FrameFit(32)(frame, "it"), frame)


def test_cropping_takes_the_middle() -> None:
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, 16:48] = 255
    assert FrameFit(32, crop=True)(frame, "it").min() == 255
    assert FrameFit(32)(frame, "it").min() == 0


def test_masks_go_with_their_frames() -> None:
    mask = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4), np.ones((8, 16), np.uint8))
    fit = FrameFit(16)
    assert (fit.mask(mask[None])[0] == np.kron(np.arange(16).reshape(4, 4), np.ones((4, 4)))).all()
    assert FrameFit(32, crop=True).mask(mask[None]).shape == (1, 32, 32)


def test_frames_of_every_kind_become_rgb() -> None:
    frame = np.random.default_rng(3).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    opaque = np.concatenate([frame, np.full((20, 24, 1), 255, np.uint8)], axis=2)
    for other in (frame, opaque, np.moveaxis(frame, 2, 0), frame / 255.0, (frame / 255.0).astype(np.float32)):
        np.testing.assert_array_equal(to_rgb(other, "it"), frame)
    grey = to_rgb(frame[..., 0], "it")
    assert (grey == frame[..., :1]).all() and grey.shape == frame.shape


def of(action: np.ndarray, frames: int, tail: Tail | None = None, **columns: np.ndarray) -> Episode:
    return Episode("it", frames, {"action": action, **columns}, tail=tail)


def test_actions_stand_with_the_frame_after_which_they_were_taken() -> None:
    taken = np.arange(1.0, 5.0)[:, None]  # after frames 0 to 3 of 5
    ends = np.concatenate([taken, [[9.0]]])
    for episode, leads, invalid in (
        (of(taken, 5), "after", False),
        (of(np.concatenate([[[0.0]], taken]), 5), "before", False),
        (of(ends, 5), "after", True),
        (of(np.concatenate([taken, [[np.nan]]]), 5), "after", False),
    ):
        action, reward = align(episode, leads, invalid)  # type: ignore[arg-type]
        assert action[:, 0].tolist() == [1, 2, 3, 4, 0]
        assert reward.tolist() == [0] * 5
    assert align(of(ends, 5), "after")[0][:, 0].tolist() == [1, 2, 3, 4, 9]
    last = Tail(np.array([7.0]), 3.0)
    action, reward = align(of(taken, 5, last, reward=np.ones(4)), "after")
    assert action[-1].tolist() == [7] and reward.tolist() == [1, 1, 1, 1, 3]


def test_bounds_become_minus_one_and_one() -> None:
    scale = stated_scale([-2.0, 0.0], [2.0, 10.0], 2)
    scaled = scale(np.array([[-2.0, 10.0], [0.0, 5.0], [2.0, 0.0]]), "it")
    assert scaled.tolist() == [[-1, 1], [0, 0], [1, -1]] and scaled.dtype == np.float32


def test_actions_in_range_are_left_alone_to_the_bit() -> None:
    action = np.random.default_rng(4).uniform(-1, 1, (50, 3)).astype(np.float32)
    for scale in (ActionScale(), stated_scale([-1.0], [1.0], 3)):
        np.testing.assert_array_equal(scale(action.astype(np.float64), "it"), action)


def test_measured_bounds_are_those_of_all_the_data_and_what_is_still_becomes_zero() -> None:
    parts = [np.array([[1.0, 5.0], [2.0, 5.0]]), np.array([[-4.0, 5.0]])]
    scale = measured_scale(parts)
    assert np.concatenate([scale(part, "it") for part in parts])[:, 0].tolist() == pytest.approx([2 / 3, 1, -1])
    assert scale(parts[0], "it")[:, 1].tolist() == [0, 0]


def test_a_hair_past_the_bounds_is_at_the_bounds_and_more_is_refused() -> None:
    scale = stated_scale([0.0], [1.0], 1)
    assert scale(np.array([[1.0 + 1e-7]]), "it").max() == 1.0
    with pytest.raises(DataError, match="number 0 of the action goes from"):
        scale(np.array([[1.1]]), "it")
