"""FVD, the Fréchet distance of two sets of videos in the features of I3D (Unterthiner et al. 2018, arXiv 1812.01717).

It is asked for (``--fvd``), since it sends every video through a large network. Nothing is downloaded: the network is
``i3d_torchscript.pt``, the TorchScript file with which FVD is commonly measured, looked for where torch.hub keeps what
it has loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from aime.errors import ConfigError
from aime.places import from_home

NETWORK = "i3d_torchscript.pt"
"""The file of the network."""
SHORTEST = 10
"""Frames that I3D needs at least."""
_SIDE = 224
_AT_ONCE = 4
"""Videos that go through the network at once: its first layers hold some 60 MB of each."""

VideoNetwork = Callable[[Float[Tensor, "clips 3 time height width"]], Float[Tensor, "clips features"]]
"""Videos in [0, 1] to their features."""


def find_video_network(device: torch.device, folder: Path | None = None) -> VideoNetwork:
    """I3D, from this machine.

    Args:
        device: where it is to run.
        folder: where its file may be; by default where torch.hub keeps what it has loaded.

    Raises:
        ConfigError: the file is not there, or is not a network; with what to do.
    """
    path = (folder or Path(torch.hub.get_dir()) / "checkpoints") / NETWORK
    if not path.is_file():
        raise ConfigError(
            f"FVD needs I3D as {from_home(path)}, which is not there, and nothing is downloaded: put the file there, "
            "or leave out --fvd"
        )
    try:
        network: Any = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ConfigError(f"{from_home(path)} is not a TorchScript network: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def features(videos: Float[Tensor, "clips 3 time height width"]) -> Float[Tensor, "clips features"]:
        clips, time = videos.shape[0], videos.shape[2]
        frames = videos.transpose(1, 2).flatten(0, 1)
        large = F.interpolate(frames, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
        pixels = (2 * large - 1).unflatten(0, (clips, time)).transpose(1, 2)
        try:
            found = network(pixels, rescale=False, resize=False, return_features=True)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            raise ConfigError(f"{from_home(path)} does not take videos as I3D does: {last}") from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != clips:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"{from_home(path)} gives {shape} for {clips} videos, where I3D gives a row for each")
        return found

    return features


def video_features(
    network: VideoNetwork, videos: Float[Tensor, "clips time 3 height width"]
) -> Float[Tensor, "clips features"]:
    """The features of videos in [0, 1], few at a time; in float64, on the CPU."""
    ordered = videos.float().clamp(0, 1).transpose(1, 2)
    return torch.cat([network(some) for some in ordered.split(_AT_ONCE)]).double().cpu()


def frechet_distance(a: Float[Tensor, "n features"], b: Float[Tensor, "m features"]) -> float:
    """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), of the Gaussians that two sets of features are taken for.

    With Σ = X Xᵀ for centred, scaled features, the trace of (Σ_a Σ_b)^½ is the sum of the singular values of X_aᵀ X_b:
    exact also where there are fewer clips than features, as a root of the product of two covariances is not.
    NaN where a feature is not finite, as of dreams that are not.
    """
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return math.nan
    means = (a.mean(0) - b.mean(0)).square().sum()
    x, y = ((s - s.mean(0)) / (len(s) - 1) ** 0.5 for s in (a.double(), b.double()))
    shared = torch.linalg.svdvals(x @ y.T).sum()
    return float(means + x.square().sum() + y.square().sum() - 2 * shared)
