"""PSNR, SSIM and PSNR on moving pixels: by hand, against torchmetrics, and their properties."""

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from aime.evaluation.metrics import FINEST_MSE, StructuralSimilarity, moving_psnr, psnr
from aime.observation import moving_pixels


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, 3, 32, 24, generator=torch.Generator().manual_seed(seed))


def test_psnr_by_hand() -> None:
    truth = torch.full((2, 3, 3, 8, 8), 0.5)
    # An error of 0.1 everywhere is a mean squared error of 0.01, which is 20 dB.
    torch.testing.assert_close(psnr(truth + 0.1, truth), torch.full((2, 3), 20.0), atol=1e-4, rtol=0)


def test_psnr_is_torchmetrics_per_frame() -> None:
    a, b = frames(4), frames(4, seed=1)
    expected = torch.stack([peak_signal_noise_ratio(p, t, data_range=1.0) for p, t in zip(a, b, strict=True)])
    torch.testing.assert_close(psnr(a, b), expected)


def test_a_perfect_frame_is_worth_as_much_as_8_bits_can_tell() -> None:
    a = frames(1)
    best = -10 * math.log10(FINEST_MSE)
    assert psnr(a, a).item() == pytest.approx(best)
    # Rounding the truth to 8 bits costs nothing more, on average.
    rounded = (a * 255).round() / 255
    assert psnr(a, rounded).item() == pytest.approx(best, abs=0.3)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
def test_ssim_is_torchmetrics_per_frame(noise: float) -> None:
    truth = frames(3, 7)
    prediction = (truth + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    expected = structural_similarity_index_measure(
        prediction.flatten(0, 1), truth.flatten(0, 1), data_range=1.0, reduction="none"
    )
    assert isinstance(expected, torch.Tensor)
    similarity = StructuralSimilarity(truth)
    for _ in range(2):  # the second prediction finds of the truth what the first one left
        torch.testing.assert_close(similarity(prediction), expected.view(3, 7), atol=2e-6, rtol=0)


def test_moving_pixels_are_where_truth_left_and_where_it_arrived() -> None:
    last = torch.zeros(1, 3, 8, 8)
    last[..., 2, 2] = 1.0
    truth = torch.zeros(1, 2, 3, 8, 8)
    truth[:, 0, :, 2, 2] = 1.0  # horizon 1: as before
    truth[:, 1, :, 5, 6] = 1.0  # horizon 2: it has jumped
    moving = moving_pixels(truth, last)
    assert moving[0, 0].sum() == 0
    assert moving[0, 1].nonzero().tolist() == [[2, 2], [5, 6]]


def test_one_channel_moving_is_enough_and_the_threshold_is_exclusive() -> None:
    last = torch.zeros(1, 3, 8, 8)
    truth = torch.zeros(1, 1, 3, 8, 8)
    truth[0, 0, 2, 1, 1] = 0.25
    truth[0, 0, :, 4, 4] = 0.125
    assert moving_pixels(truth, last, threshold=0.125)[0, 0].nonzero().tolist() == [[1, 1]]


def test_moving_psnr_sees_moving_pixels_only() -> None:
    truth, prediction = frames(2, 5), frames(2, 5, seed=3)
    moving = torch.rand(2, 5, 32, 24, generator=torch.Generator().manual_seed(4)) > 0.8
    score = moving_psnr(prediction, truth, moving)
    elsewhere = torch.where(moving.unsqueeze(2), prediction, frames(2, 5, seed=5))
    torch.testing.assert_close(moving_psnr(elsewhere, truth, moving), score)
    by_hand = (prediction[1, 3][:, moving[1, 3]] - truth[1, 3][:, moving[1, 3]]).square().mean()
    assert score[1, 3].item() == pytest.approx(-10 * math.log10(by_hand), abs=1e-4)


def test_moving_psnr_of_every_pixel_is_psnr() -> None:
    truth, prediction = frames(2, 5), frames(2, 5, seed=3)
    everywhere = torch.ones(2, 5, 32, 24, dtype=torch.bool)
    torch.testing.assert_close(moving_psnr(prediction, truth, everywhere), psnr(prediction, truth))


def test_where_nothing_moves_there_is_no_score() -> None:
    truth = frames(1, 2)
    moving = torch.zeros(1, 2, 32, 24, dtype=torch.bool)
    moving[0, 1, 3, 3] = True
    assert moving_psnr(truth, truth, moving).isnan().tolist() == [[True, False]]
