"""What of a batch is learned from."""

from __future__ import annotations

import pytest
import torch

from aime.config import LossConfig
from aime.lesson import spread_out


@pytest.mark.parametrize("time", [1, 3, 4, 31, 32, 48])
def test_as_many_frames_are_decoded_in_every_step_and_each_has_its_turn(time: int) -> None:
    settings = LossConfig(decode_every=6)
    drawn = [spread_out(time, settings) for _ in range(300)]
    assert {len(at) for at in drawn} == {max(1, time // 6)}
    assert all(bool((at.diff() == 6).all()) for at in drawn)
    assert set(torch.cat(drawn).tolist()) == set(range(time))
