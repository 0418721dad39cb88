"""The frame decoder: a latent and an attention map become a frame; attention acts at every scale."""

import pytest
import torch
from torch import Tensor, nn

from aime.errors import ConfigError
from aime.perception import FrameDecoder
from aime.perception.decoder import resize_matrix, trust_weights


def small(image_size: int = 32, grid: int = 10, seed: int = 0) -> FrameDecoder:
    torch.manual_seed(seed)
    return FrameDecoder(channels=8, image_size=image_size, latent_dim=6, hidden_dim=16, attention_grid=grid)


def trained_like(decoder: FrameDecoder) -> FrameDecoder:
    """With weights of a size as after training, where a fresh one's last layer is almost zero."""
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return decoder


def uniform(n: int, grid: int = 10) -> Tensor:
    return torch.full((n, grid, grid), 1 / grid**2)


def spot(n: int, grid: int = 10) -> Tensor:
    """Half of the attention in one corner."""
    attention = uniform(n, grid) / 2
    attention[:, :2, :2] += 1 / 8
    return attention


@pytest.mark.parametrize(("size", "grid"), [(16, 5), (48, 15), (64, 21), (80, 26)])
@torch.no_grad()
def test_a_fresh_decoder_is_mid_grey_at_any_size(size: int, grid: int) -> None:
    frames = small(size, grid)(torch.randn(3, 6), uniform(3, grid))
    assert frames.shape == (3, 3, size, size)
    assert (frames - 0.5).abs().max() < 0.1


@torch.no_grad()
def test_frames_are_independent_to_the_bit() -> None:
    decoder = trained_like(small())
    latents, attention = torch.randn(4, 6), spot(4)
    before = decoder(latents, attention)
    latents[2] += 1
    attention[2] = uniform(1)[0]
    after = decoder(latents, attention)
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert not torch.equal(before[2], after[2])


@torch.no_grad()
def test_latents_decide_the_frame() -> None:
    decoder = trained_like(small())
    attention = uniform(64)
    frames = decoder(torch.randn(64, 6), attention)
    assert frames.std(0).mean() > 0.05


@torch.no_grad()
def test_doubt_moves_the_frame_and_none_is_no_doubt() -> None:
    decoder = small()
    latents, doubt = torch.randn(4, 6), torch.rand(4, 6)
    assert torch.equal(decoder(latents, uniform(4), doubt), decoder(latents, uniform(4))), "unheard at first"
    trained_like(decoder)
    sure, certain = decoder(latents, uniform(4)), decoder(latents, uniform(4), torch.zeros(4, 6))
    assert torch.equal(sure, certain)
    assert not torch.allclose(decoder(latents, uniform(4), doubt), sure, atol=1e-3)


def test_degrees_of_doubt_are_shares_of_the_variance_and_linear_in_between() -> None:
    doubt = torch.tensor([0.0, 0.5, 0.75, 1.0, 3.0]).sqrt()[:, None].expand(-1, 6)
    near = trust_weights(doubt * torch.tensor([2.0, 0, 2, 0, 1, 1]).sqrt())  # it is the mean that counts
    expected = [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]
    torch.testing.assert_close(near, torch.tensor(expected).float())
    torch.testing.assert_close(trust_weights(torch.full((6,), 0.3**0.5)), torch.tensor([0, 0.8, 0.2, 0, 0]))


@torch.no_grad()
def test_a_guess_moves_from_the_mean_frame_as_far_as_it_is_trusted() -> None:
    decoder = trained_like(small())
    decoder.mean_frame.copy_(torch.rand_like(decoder.mean_frame))
    latents, doubt = torch.randn(3, 6), torch.tensor([0.0, 0.5**0.5, 1.0])[:, None].expand(-1, 6)
    seen, full = decoder(latents, uniform(3)), decoder(latents, uniform(3), doubt)
    decoder.trust.copy_(torch.tensor([1.0, 1.0, 0.25, 1.0, 0.0]))
    assert torch.equal(decoder(latents, uniform(3)), seen), "what was seen is not doubted"
    less = decoder(latents, uniform(3), doubt) - decoder.mean_frame
    torch.testing.assert_close(less, (full - decoder.mean_frame) * torch.tensor([1, 0.25, 0])[:, None, None, None])


@torch.no_grad()
@pytest.mark.parametrize("scale", range(4))
def test_attention_acts_at_every_scale(scale: int) -> None:
    """With attention switched off at all scales but one, that one still changes the frame."""
    decoder = trained_like(small())
    latents = torch.randn(2, 6)
    for i, precision in enumerate(decoder.precisions):
        if i != scale:
            precision.to_film.weight.zero_()
    change = (decoder(latents, spot(2)) - decoder(latents, uniform(2))).abs()
    assert change.max() > 1e-3
    decoder.precisions[scale].to_film.weight.zero_()
    assert torch.equal(decoder(latents, spot(2)), decoder(latents, uniform(2)))


@torch.no_grad()
def test_uniform_attention_is_neutral_whatever_was_learned() -> None:
    decoder = trained_like(small())
    latents = torch.randn(2, 6)
    learned = decoder(latents, uniform(2))
    for precision in decoder.precisions:
        precision.to_film.weight.zero_()
    torch.testing.assert_close(learned, decoder(latents, uniform(2)), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_no_map_is_an_even_one() -> None:
    decoder = trained_like(small())
    latents = torch.randn(2, 6)
    torch.testing.assert_close(decoder(latents, None), decoder(latents, uniform(2)), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_finest_scale_acts_where_attention_is() -> None:
    decoder = trained_like(small())
    for precision in list(decoder.precisions)[:-1]:
        precision.to_film.weight.zero_()
    latents, there = torch.randn(2, 6), torch.zeros(2, 10, 10)
    there[:, :2, :2] = 0.25 - 0.01
    attention = uniform(2)
    attention[:, :2, :2] += there[:, :2, :2]  # more there, and the rest as it was
    change = (decoder(latents, attention) - decoder(latents, uniform(2))).abs().amax((0, 1))
    assert change[:6, :6].max() > 1e-3
    assert change[12:, 12:].max() < 1e-5


def test_gradients_reach_latents_attention_and_every_parameter_also_under_autocast() -> None:
    decoder = trained_like(small())
    latents = torch.randn(4, 6, requires_grad=True)
    attention = spot(4).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frames = decoder(latents, attention, torch.rand(4, 6))
    assert frames.dtype == torch.float32
    (frames - torch.rand_like(frames)).square().sum().backward()
    for name, x in [("latents", latents), ("attention", attention), *decoder.named_parameters()]:
        assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0, name


def test_it_learns_to_put_things_in_their_place() -> None:
    """Two numbers of the latent say where a block is; the decoder draws it there."""
    decoder = small(16, 5)
    cells = torch.arange(16) + 0.5

    def draw(place: Tensor) -> Tensor:
        inside = [(3.5 - (cells - (p[:, None] * 5 + 8)).abs()).clamp(0, 1) for p in place.unbind(1)]
        return (0.2 + 0.6 * inside[0][:, :, None] * inside[1][:, None, :])[:, None].expand(-1, 3, -1, -1)

    optimiser = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    for _ in range(400):
        place = torch.rand(32, 2) * 2 - 1
        loss = (decoder(place.repeat(1, 3), uniform(32, 5)) - draw(place)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        place = torch.rand(256, 2) * 2 - 1
        truth = draw(place)
        error = (decoder(place.repeat(1, 3), uniform(256, 5)) - truth).square().mean()
    assert error < 0.15 * truth.var(0).mean(), "far better than the mean picture"


@pytest.mark.parametrize(("size", "new"), [(21, 4), (21, 8), (21, 32), (5, 5), (12, 4)])
def test_resize_keeps_flat_maps_flat(size: int, new: int) -> None:
    matrix = resize_matrix(size, new)
    assert matrix.shape == (new, size)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(new))
    if new <= size:  # area averaging keeps the mean of any map
        torch.testing.assert_close(matrix.mean(0), torch.full((size,), 1 / size))


def test_resize_averages_areas_and_interpolates() -> None:
    image = torch.rand(1, 1, 12, 12)
    down = resize_matrix(12, 4)
    torch.testing.assert_close(down @ image[0, 0] @ down.T, nn.functional.avg_pool2d(image, 3)[0, 0])
    up = resize_matrix(12, 30)
    expected = nn.functional.interpolate(image, size=30, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up @ image[0, 0] @ up.T, expected[0, 0])


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        small(24)
