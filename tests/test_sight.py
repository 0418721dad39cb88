"""What a lesson leaves out of learning is seen all the same."""

from __future__ import annotations

import torch

from aime.lesson import Lesson
from aime.transition import started
from tests.helpers import random_clip, small_model


def test_a_lesson_sees_every_frame_alike_and_gives_a_graph_to_those_that_teach():
    model = small_model().eval()  # a codebook that learns would move between the two looks
    frames, _ = random_clip(batch=3, time=6)
    pixels = (frames.float() / 255).requires_grad_()
    first = started(torch.zeros(3, 6, dtype=torch.bool))
    lesson = Lesson(studied=1, decoded=torch.tensor([1, 4]), starts=[])

    whole = model.sight(pixels, first)
    part = model.sight(pixels, first, lesson=lesson)

    assert [look.rows for look in part.looks] == [slice(0, 1), slice(1, 3)]
    assert [look.learns for look in part.looks] == [True, False]
    assert torch.equal(part.indices, whole.indices)
    torch.testing.assert_close(part.context, whole.context)
    torch.testing.assert_close(part.features.embedding, whole.features.embedding)
    torch.testing.assert_close(part.slots.maps, whole.slots.maps)
    assert whole.cache is not None
    assert part.cache is None

    (embedded,) = torch.autograd.grad(part.features.embedding.sum(), pixels, retain_graph=True)
    teaches = embedded.abs().sum(dim=(2, 3, 4)) > 0
    assert teaches.tolist() == [[True] * 6, *[[False, True, False, False, True, False]] * 2]
    (slotted,) = torch.autograd.grad((part.slots.maps[..., 0, 0]).sum(), pixels)
    assert (slotted.abs().sum(dim=(2, 3, 4)) > 0).all(dim=1).tolist() == [True, False, False]
