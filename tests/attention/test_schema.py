"""Properties of the schema: it expects maps from belief and latent, and fuses what it sees with what it expected."""

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


def test_expectation_is_a_map_and_even_at_first():
    expected = make()(torch.randn(2, 4), torch.randn(2, 2))
    torch.testing.assert_close(expected, torch.full((2, GRID, GRID), 1 / GRID**2))


def test_belief_is_read_without_gradient():
    schema, hidden = make(), torch.randn(2, 4, requires_grad=True)
    expected = schema(hidden, torch.randn(2, 2))
    assert torch.autograd.grad(expected[0, 0, 0], hidden, allow_unused=True)[0] is None


@torch.no_grad()
def test_fusion_lies_between_and_agrees_with_agreement():
    schema = make()
    seen, expected = blob(torch.tensor([[4.0, 4.0]])), blob(torch.tensor([[8.0, 8.0]]))
    fused = schema.fuse(seen, expected)
    torch.testing.assert_close(fused.sum(dim=(-2, -1)), torch.ones(1))
    assert float(map_kl(seen, fused)) < float(map_kl(seen, expected))
    assert float(map_kl(expected, fused)) < float(map_kl(expected, seen))
    torch.testing.assert_close(schema.fuse(seen, seen), seen, atol=1e-5, rtol=1e-3)


def test_schema_learns_where_the_latent_says_that_something_is():
    """The latent names a place and the belief a velocity; after training, attention is expected where both lead."""
    schema = make()
    optimizer = torch.optim.Adam(schema.parameters(), lr=3e-3)

    def scene(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        place, velocity = torch.rand(n, 2) * 10 + 5, (torch.rand(n, 2) - 0.5) * 6
        return blob(place + velocity), torch.cat([velocity / 2, torch.zeros(n, 2), (place - 10) / 3], dim=1)

    for _ in range(300):
        there, condition = scene(32)
        loss = map_kl(there, schema(condition[:, :4], condition[:, 4:])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    there, condition = scene(64)
    even = torch.full_like(there, 1 / GRID**2)
    assert float(map_kl(there, schema(condition[:, :4], condition[:, 4:])).mean()) < 0.2 * float(
        map_kl(there, even).mean()
    )
