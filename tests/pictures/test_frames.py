"""Frames as images: nothing is lost on the way, and wrong ones are refused."""

import numpy as np
import pytest
import torch

from aime.errors import ShapeError
from aime.pictures import style
from aime.pictures.frames import enlarge, factor_for, spread_over, to_images


def test_bytes_stay_as_they_are_and_floats_are_rounded() -> None:
    frames = torch.randint(0, 256, (2, 5, 3, 8, 6), dtype=torch.uint8)
    images = to_images(frames)
    assert images.shape == (2, 5, 8, 6, 3)
    assert np.array_equal(to_images(frames.float() / 255), images)
    assert np.array_equal(to_images(frames.numpy()), images)
    assert to_images(torch.full((1, 3, 4, 4), 1.7)).max() == 255


def test_frames_without_three_channels_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(…, 3, height, width\), not \(2, 8, 8, 3\)"):
        to_images(torch.zeros(2, 8, 8, 3))


def test_enlarging_repeats_pixels() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    big = enlarge(image, 3)
    assert big.shape == (1, 6, 6, 3)
    assert np.array_equal(big[:, 1::3, 1::3], image)
    assert (factor_for(64, 128), factor_for(32, 128), factor_for(300, 128)) == (2, 4, 1)


def test_maps_are_spread_smoothly_and_in_place() -> None:
    maps = np.zeros((1, 4, 4), dtype=np.float32)
    maps[0, 1, 2] = 1.0
    big = spread_over(maps, 16, 16)
    assert big.shape == (1, 16, 16)
    row, column = np.unravel_index(big[0].argmax(), (16, 16))
    # Cell (1, 2) of four covers rows 4 to 7 and columns 8 to 11.
    assert row in (5, 6) and column in (9, 10)
    assert big.min() >= 0 and (big[0] > 0.05).sum() > 16


def test_colours_never_repeat_where_it_matters_and_are_never_pale() -> None:
    first = [style.colour(i) for i in range(18)]
    assert len(set(first)) == 18
    assert first[:6] == list(style.PALETTE)
    luminance = [np.dot(style.rgb(c), (0.2126, 0.7152, 0.0722)) for c in style.PALETTE]
    assert max(luminance) < 200, "a line of this colour would vanish on white"
