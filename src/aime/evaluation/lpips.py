"""LPIPS, the distance of two frames in AlexNet's eyes (Zhang et al. 2018), where its weights are on the machine.

Nothing is downloaded. The backbone is looked for where torch.hub keeps it (``alexnet-owt-*.pth``, left there by
torchvision), the small linear heads inside torchmetrics. The network is spelled out here because torchvision, which has
it, does not import beside every torch.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from aime.places import from_home

_EPSILON = 1e-8


class LPIPS(nn.Module):
    """LPIPS with AlexNet: 0 for equal frames, larger the less alike they look. Frames at least 32 pixels wide."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, 64, 11, stride=4, padding=2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
            ]
        )
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(c)) for c in (64, 192, 384, 256, 256)])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def forward(
        self, a: Float[Tensor, "*batch 3 height width"], b: Float[Tensor, "*batch 3 height width"]
    ) -> Float[Tensor, "*batch"]:
        """The distance of frames in [0, 1], pair by pair."""
        distance = torch.zeros(a.shape[:-3].numel(), device=a.device)
        for head, x, y in zip(self.heads, self._features(a), self._features(b), strict=True):
            distance = distance + ((x - y).square() * head[:, None, None]).sum(1).mean(dim=(-2, -1))
        return distance.reshape(a.shape[:-3])

    def _features(self, frames: Tensor) -> list[Tensor]:
        x = ((2 * frames - 1 - self.shift) / self.scale).flatten(0, -4)
        features = []
        for layer, convolution in enumerate(self.convolutions):
            if layer in (1, 2):
                x = F.max_pool2d(x, 3, stride=2)
            x = F.relu(convolution(x))
            features.append(x / (x.square().sum(1, keepdim=True) + _EPSILON).sqrt())
        return features


def find_lpips(folder: Path | None = None) -> tuple[LPIPS | None, str]:
    """LPIPS if its weights are on this machine, else None and the reason.

    Args:
        folder: where AlexNet's weights may be; by default where torch.hub keeps what it has loaded.
    """
    folder = folder or Path(torch.hub.get_dir()) / "checkpoints"
    backbones = sorted(folder.glob("alexnet-owt-*.pth"))
    if not backbones:
        return None, f"AlexNet's weights (alexnet-owt-*.pth) are not in {from_home(folder)}, and nothing is downloaded"
    found = importlib.util.find_spec("torchmetrics")
    heads = Path(found.origin or "").parent / "functional/image/lpips_models/alex.pth" if found else Path()
    if not heads.is_file():
        return None, "the linear heads of LPIPS (lpips_models/alex.pth) are not in the installed torchmetrics"
    # Foreign files: only tensors are read from them, no code.
    backbone = torch.load(backbones[0], map_location="cpu", weights_only=True)
    linear = torch.load(heads, map_location="cpu", weights_only=True)
    lpips = LPIPS()
    weights: dict[str, Tensor] = {}
    for index, layer in enumerate((0, 3, 6, 8, 10)):
        for part in ("weight", "bias"):
            if (key := f"features.{layer}.{part}") not in backbone:
                return None, f"{from_home(backbones[0])} is not AlexNet: it has no {key}"
            weights[f"convolutions.{index}.{part}"] = backbone[key]
        weights[f"heads.{index}"] = linear[f"lin{index}.model.1.weight"].flatten()
    lpips.load_state_dict(weights | {"shift": lpips.shift, "scale": lpips.scale})
    return lpips.eval().requires_grad_(False), "measured"
