"""LPIPS: equal to torchmetrics' on the same backbone, and a reason where its weights are missing."""

from pathlib import Path

import pytest
import torch
import torchmetrics.functional.image.lpips as reference
from torch import nn

from aime.evaluation.lpips import find_lpips


def alexnet_features() -> nn.Sequential:
    """AlexNet's convolutions as torchvision lays them out, with random weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1),
        nn.ReLU(),
    )


def save_backbone(folder: Path, backbone: nn.Sequential) -> Path:
    weights = {f"features.{name}": value for name, value in backbone.state_dict().items()}
    torch.save(weights, folder / "alexnet-owt-7be5be79.pth")
    return folder


def test_it_is_torchmetrics_lpips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = alexnet_features()
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_args, **_kwargs: backbone)
    theirs = reference._LPIPS(net="alex")
    ours, _ = find_lpips(save_backbone(tmp_path, backbone))
    assert ours is not None
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 3, 3, 64, 64, generator=generator), torch.rand(2, 3, 3, 64, 64, generator=generator)
    expected = theirs(a.flatten(0, 1), b.flatten(0, 1), normalize=True).view(2, 3)
    torch.testing.assert_close(ours(a, b), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(ours(a, a), torch.zeros(2, 3))


def test_without_weights_there_is_a_reason_and_no_download(tmp_path: Path) -> None:
    lpips, reason = find_lpips(tmp_path)
    assert lpips is None
    assert str(tmp_path) in reason
    assert "nothing is downloaded" in reason


def test_a_reason_does_not_name_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes into reports, and those are given away."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    missing = find_lpips(folder)[1]
    torch.save({"weight": torch.zeros(1)}, folder / "alexnet-owt-1.pth")
    for reason in (missing, find_lpips(folder)[1]):
        assert "~/hub/checkpoints" in reason and str(tmp_path) not in reason


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "alexnet-owt-1.pth")
    lpips, reason = find_lpips(tmp_path)
    assert lpips is None
    assert "is not AlexNet" in reason
