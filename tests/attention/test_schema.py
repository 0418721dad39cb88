"""Properties of the schema: it expects maps, learns to follow motion, and fuses what it sees with what it expected."""

import torch

from aime.attention import AttentionSchema, map_kl

GRID = 21


def blob(centre: torch.Tensor) -> torch.Tensor:
    axis = torch.arange(GRID, dtype=torch.float32)
    rows, columns = (axis - centre[:, :1]) ** 2, (axis - centre[:, 1:]) ** 2
    image = torch.exp(-(rows[:, :, None] + columns[:, None, :]) / 6)
    return image / image.sum(dim=(-2, -1), keepdim=True)


def make() -> AttentionSchema:
    torch.manual_seed(0)
    return AttentionSchema(grid=GRID, condition_dim=6)


def test_expectation_is_a_map_and_starts_as_persistence():
    schema, previous = make(), blob(torch.tensor([[5.0, 8.0], [12.0, 3.0]]))
    expected = schema(previous, torch.randn(2, 4), torch.randn(2, 2))
    torch.testing.assert_close(expected.sum(dim=(-2, -1)), torch.ones(2))
    assert float(map_kl(previous, expected).max()) < 1e-2


def test_belief_is_read_without_gradient():
    schema, hidden = make(), torch.randn(2, 4, requires_grad=True)
    expected = schema(blob(torch.tensor([[5.0, 8.0], [12.0, 3.0]])), hidden, torch.randn(2, 2))
    assert torch.autograd.grad(expected[0, 0, 0], hidden, allow_unused=True)[0] is None


def test_fusion_lies_between_and_agrees_with_agreement():
    schema = make()
    seen, expected = blob(torch.tensor([[4.0, 4.0]])), blob(torch.tensor([[8.0, 8.0]]))
    fused = schema.fuse(seen, expected)
    torch.testing.assert_close(fused.sum(dim=(-2, -1)), torch.ones(1))
    assert float(map_kl(seen, fused)) < float(map_kl(seen, expected))
    assert float(map_kl(expected, fused)) < float(map_kl(expected, seen))
    torch.testing.assert_close(schema.fuse(seen, seen), seen, atol=1e-5, rtol=1e-3)


def test_schema_learns_a_motion_that_the_belief_announces():
    """The condition names the velocity; after training, the expected map has moved with it."""
    schema = make()
    optimizer = torch.optim.Adam(schema.parameters(), lr=3e-3)

    def scene(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        centre, velocity = torch.rand(n, 2) * 10 + 5, (torch.rand(n, 2) - 0.5) * 6
        return blob(centre), blob(centre + velocity), torch.cat([velocity, torch.zeros(n, 4)], dim=1)

    for _ in range(200):
        now, then, condition = scene(32)
        loss = map_kl(then, schema(now, condition[:, :4], condition[:, 4:])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    now, then, condition = scene(64)
    expected = schema(now, condition[:, :4], condition[:, 4:])
    assert float(map_kl(then, expected).mean()) < 0.35 * float(map_kl(then, now).mean())
