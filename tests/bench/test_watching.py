"""The loop that the parallel pass is compared with does the same work."""

from __future__ import annotations

import torch

from aime.bench.watching import all_at_once, frame_by_frame
from tests.helpers import random_clip, small_model


def test_frame_by_frame_gives_what_all_at_once_gives():
    """Beyond the Perceiver's window, too, and with gradients."""
    model = small_model().eval()
    clip = random_clip(time=9)
    once, loop = all_at_once(model, *clip), frame_by_frame(model, *clip)
    torch.testing.assert_close(loop, once, atol=1e-4, rtol=1e-3)
    watching = list(model.encoder.parameters())
    gradients = [torch.autograd.grad(mean.square().mean(), watching) for mean in (once, loop)]
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-2)
