"""FVD: the distance of Gaussians in closed form, through a network that is found on the machine, or said to be missing.

I3D itself is not here: a small network with its call stands in for it, so what is held is all but its weights.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from aime.data.store import EpisodeStore
from aime.errors import ConfigError
from aime.evaluation import EvaluationConfig, evaluate
from aime.evaluation.fvd import NETWORK, find_video_network, frechet_distance, video_features
from tests.evaluation.conftest import SMALL
from tests.evaluation.test_protocol import printed
from tests.toys import CopyModel, PerfectModel

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # in which I3D is at hand

CPU = torch.device("cpu")
HUB = Path("checkpoints")


class Brightness(nn.Module):
    """Called as I3D is: the mean brightness of each half of a video, and how much it changes."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if x.shape[1] != 3 or x.shape[3] != 224 or x.shape[4] != 224 or rescale or resize or not return_features:
            raise RuntimeError("not what I3D is given")
        half = x.shape[2] // 2
        first, last = x[:, :, :half].mean(dim=(1, 2, 3, 4)), x[:, :, half:].mean(dim=(1, 2, 3, 4))
        change = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(1, 2, 3, 4))
        return torch.stack([first, last, change], dim=1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where torch.hub keeps what it has loaded."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / HUB).mkdir()
    return tmp_path / HUB


def install(network: nn.Module, folder: Path) -> None:
    torch.jit.script(network).save(str(folder / NETWORK))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("clips", [8, 500])
def test_the_distance_is_that_of_two_gaussians(clips: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(clips, 20)) @ rng.normal(size=(20, 20))
    b = rng.normal(size=(clips + 3, 20)) + rng.normal(size=20)
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    # With fewer clips than features the covariances are singular, where their product's root is known to some digits.
    close = 1e-9 if clips > 20 else 1e-4
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=close)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0.0, abs=1e-9)


def test_what_is_not_finite_has_no_distance() -> None:
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    broken = features.clone()
    broken[2, 1] = torch.nan
    assert np.isnan(frechet_distance(broken, features)) and np.isnan(frechet_distance(features, broken))


def test_videos_are_given_as_i3d_wants_them(hub: Path) -> None:
    install(Brightness(), hub)
    videos = torch.cat([torch.zeros(5, 12, 3, 8, 8), torch.ones(1, 12, 3, 8, 8)])
    videos[4, 6:] = 1.0
    found = video_features(find_video_network(CPU), videos)
    change = 2 / 11
    expected = [[-1, -1, 0]] * 4 + [[-1, 1, change], [1, 1, 0]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_it_is_measured_where_it_is_asked_for(hub: Path, toy_store: EpisodeStore) -> None:
    install(Brightness(), hub)
    asked = dataclasses.replace(SMALL, context_frames=2, horizon=12, fvd=True)
    perfect, copying = (evaluate(model, toy_store, asked) for model in (PerfectModel(), CopyModel()))
    assert perfect.fvd.keys() == {"dream", "sample", "ceiling"}
    assert perfect.fvd["dream"] == pytest.approx(0.0, abs=1e-6)
    assert copying.fvd["dream"] > 1e-4
    assert copying.summary()["fvd"] == copying.to_json()["fvd"]["dream"] == copying.fvd["dream"]
    assert "FVD of" in printed(copying)
    unasked = evaluate(CopyModel(), toy_store, dataclasses.replace(asked, fvd=False))
    assert unasked.fvd == {} and "fvd" not in unasked.summary() and "FVD" not in printed(unasked)


def test_what_is_missing_is_said_before_the_work(hub: Path, toy_store: EpisodeStore) -> None:
    asked = dataclasses.replace(SMALL, context_frames=2, horizon=12, fvd=True)
    with pytest.raises(ConfigError, match="nothing is downloaded: put the file there"):
        evaluate(CopyModel(), toy_store, asked)
    (hub / NETWORK).write_bytes(b"not a network")
    with pytest.raises(ConfigError, match="is not a TorchScript network"):
        evaluate(CopyModel(), toy_store, asked)
    with pytest.raises(ConfigError, match="10 frames at least, so horizon 9"):
        EvaluationConfig(horizon=9, fvd=True)


class Wrong(nn.Module):
    """Called as I3D is, and gives one number for all."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        return x.mean()


class Stranger(nn.Module):
    """Knows nothing of I3D's call."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(("network", "problem"), [(Wrong(), "where I3D gives a row"), (Stranger(), "as I3D does")])
def test_another_network_is_named(hub: Path, network: nn.Module, problem: str) -> None:
    install(network, hub)
    with pytest.raises(ConfigError, match=problem):
        video_features(find_video_network(CPU), torch.zeros(2, 12, 3, 8, 8))
