"""Properties of the slots: they are distributions over places, per frame, and diversity keeps them apart."""

import pytest
import torch

from aime.attention import SlotAttention, map_kl, slot_overlap, slot_spread

GRID = 21


def make(num_slots: int = 4) -> SlotAttention:
    torch.manual_seed(0)
    return SlotAttention(in_channels=8, grid=GRID, slot_dim=16, num_slots=num_slots, iterations=3)


def test_maps_gates_and_attention_sum_to_one():
    slots = make()(torch.randn(5, 8, GRID, GRID))
    torch.testing.assert_close(slots.maps.sum(dim=(-2, -1)), torch.ones(5, 4))
    torch.testing.assert_close(slots.gates.sum(-1), torch.ones(5))
    torch.testing.assert_close(slots.attention.sum(dim=(-2, -1)), torch.ones(5))
    assert slots.summary().shape == (5, make().summary_dim)


def test_each_frame_is_on_its_own():
    attention, features = make(), torch.randn(3, 8, GRID, GRID)
    before = attention(features)
    changed = features.clone()
    changed[1] = torch.randn(8, GRID, GRID)
    after = attention(changed)
    assert torch.equal(before.maps[[0, 2]], after.maps[[0, 2]])
    assert not torch.allclose(before.maps[1], after.maps[1])


def test_overlap_and_spread_at_their_ends():
    point = torch.zeros(1, 2, GRID, GRID)
    point[0, 0, 3, 3] = point[0, 1, 15, 10] = 1
    assert float(slot_overlap(point)) == 0.0
    torch.testing.assert_close(slot_spread(point), torch.zeros(1, 2), atol=1e-6, rtol=0)
    same = point[:, :1].expand(-1, 2, -1, -1)
    torch.testing.assert_close(slot_overlap(same), torch.ones(1))
    uniform = torch.full((1, 1, GRID, GRID), 1 / GRID**2)
    assert float(slot_spread(uniform)) == pytest.approx(2 / 3 * (GRID + 1) / (GRID - 1), rel=1e-5)
    assert float(slot_overlap(uniform)) == 0.0  # a single slot overlaps with nobody


@pytest.mark.parametrize("diversity", [True, False])
def test_diversity_keeps_slots_apart_and_its_absence_collapses_them(diversity: bool):
    """All slots are drawn to the same blob, as a moving body draws them; only diversity can keep them apart."""
    torch.manual_seed(1)
    attention = make(num_slots=3)
    stem = torch.nn.Conv2d(1, 8, 5, padding=2)
    optimizer = torch.optim.Adam([*attention.parameters(), *stem.parameters()], lr=3e-3)
    axis = torch.arange(GRID, dtype=torch.float32)
    for _ in range(150):
        centre = torch.rand(8, 2) * 12 + 4
        rows, columns = (axis - centre[:, :1]) ** 2, (axis - centre[:, 1:]) ** 2
        blob = torch.exp(-(rows[:, :, None] + columns[:, None, :]) / 8)
        target = blob / blob.sum(dim=(-2, -1), keepdim=True)
        slots = attention(stem(blob[:, None]))
        loss = map_kl(target, slots.attention).mean()
        loss = loss + 0.1 * map_kl(target[:, None].expand_as(slots.maps), slots.maps).mean()
        if diversity:
            loss = loss + 10 * (slot_overlap(slots.maps) + slot_spread(slots.maps).mean(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    overlap = float(slot_overlap(slots.maps).mean())
    assert overlap < 0.2 if diversity else overlap > 0.8
