"""The frame encoder: the right grid, each frame on its own, and an embedding that knows where things are."""

import pytest
import torch
from torch import Tensor

from aime.errors import ConfigError
from aime.perception import FrameEncoder


def dots(n: int, size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Frames with one bright 5×5 body on a shaded ground, and where it is (y, x) in pixels."""
    g = torch.Generator().manual_seed(seed)
    frames = torch.linspace(0.2, 0.5, size)[:, None].expand(n, 3, size, size).clone()
    places = torch.randint(0, size - 5, (n, 2), generator=g)
    for frame, (y, x) in zip(frames, places.tolist(), strict=True):
        frame[:, y : y + 5, x : x + 5] = 0.9
    return frames, places.float()


@pytest.mark.parametrize("size", [16, 48, 64, 80])
def test_grids(size: int) -> None:
    encoder = FrameEncoder(channels=8, image_size=size, embed_dim=20)
    out = encoder(torch.rand(2, 3, size, size))
    grid = (size - 4) // 3 + 1
    assert encoder.grid_size == grid
    assert out.grid.shape == (2, encoder.grid_channels, grid, grid)
    assert out.embedding.shape == (2, 20)


@torch.no_grad()
def test_frames_are_independent_to_the_bit() -> None:
    encoder = FrameEncoder(channels=8, image_size=64, embed_dim=20)
    frames, _ = dots(5)
    other = frames.clone()
    other[3] = torch.rand(3, 64, 64)
    a, b = encoder(frames), encoder(other)
    kept = [0, 1, 2, 4]
    assert torch.equal(a.grid[kept], b.grid[kept]) and torch.equal(a.embedding[kept], b.embedding[kept])
    assert not torch.equal(a.embedding[3], b.embedding[3])


def test_it_learns_to_place_a_small_body() -> None:
    """A body of 0.6% of the pixels is placed to about a pixel after a few batches."""
    torch.manual_seed(0)
    encoder = FrameEncoder(channels=16, image_size=64, embed_dim=64)
    readout = torch.nn.Linear(64, 2)
    parameters = [*encoder.parameters(), *readout.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3)
    for step in range(120):
        frames, places = dots(32, seed=step)
        loss = (readout(encoder(frames).embedding) - (places / 30 - 1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
    with torch.no_grad():
        frames, places = dots(200, seed=10**6)
        error = (30 * (readout(encoder(frames).embedding) + 1) - places).square().mean().sqrt()
    assert error < 2.5, f"{error:.2f} pixels"


@torch.no_grad()
def test_position_is_part_of_the_grid() -> None:
    """The same patch gives different features in different places."""
    torch.manual_seed(0)
    encoder = FrameEncoder(channels=8, image_size=64, embed_dim=20)
    grid = encoder(torch.full((1, 3, 64, 64), 0.5)).grid[0].flatten(1).T
    nearest = torch.cdist(grid, grid).fill_diagonal_(float("inf")).min()
    assert nearest > 1e-3


def test_gradients_reach_every_parameter_also_under_autocast() -> None:
    encoder = FrameEncoder(channels=8, image_size=32, embed_dim=20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = encoder(torch.rand(4, 3, 32, 32))
        loss = out.embedding.square().mean() + out.grid.float().square().mean() + out.places.square().mean()
    assert out.embedding.dtype == out.places.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    encoder.zero_grad()
    with torch.no_grad():  # the residual branches start at zero, which hides what lies before their last layer
        for p in encoder.parameters():
            p.add_(0.01)
    out = encoder(torch.rand(4, 3, 32, 32))
    (out.embedding.square().mean() + out.grid.square().mean() + out.places.square().mean()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_fresh_keypoints_move_with_what_moves() -> None:
    """A small body on an even ground: where it is must be told from the first step on, in units of the frame."""
    torch.manual_seed(0)
    encoder = FrameEncoder(channels=8, image_size=64, embed_dim=20)
    frames = torch.full((2, 3, 64, 64), 0.3)
    frames[0, :, 28:36, 8:16] = 1.0
    frames[1, :, 28:36, 48:56] = 1.0
    with torch.no_grad():
        left, right = encoder(frames).places
    rows, columns = (right - left).chunk(2)
    assert columns.abs().max() > 0.5 and columns.abs().mean() > rows.abs().mean()


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        FrameEncoder(channels=8, image_size=60, embed_dim=20)
