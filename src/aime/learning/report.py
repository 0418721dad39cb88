"""What a gradient balancer saw and did in one step, as tensors that cost nothing until they are read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor


@dataclass(frozen=True)
class BalanceReport:
    """What the balancer saw and did, over N objectives. Float64 tensors on the model's device; angles in radians.

    An objective that is absent, or whose gradient is zero or not finite, has zeros everywhere.
    """

    names: tuple[str, ...]
    norms: Float64[Tensor, " n"]
    """Norm of each gradient over all that the objective reaches; NaN or infinite where the gradient is."""
    shared_norms: Float64[Tensor, " n"]
    """The same over the balanced parameters alone."""
    cosines: Float64[Tensor, "n n"]
    """Cosine between each two gradients over the balanced parameters, in [-1, 1]."""
    angles: Float64[Tensor, " n"]
    """Angle between each gradient and the update over the balanced parameters, in [0, π]."""
    rotations: Float64[Tensor, " n"]
    """Angle α by which RGB turned each gradient; zeros for other balancers."""
    limits: Float64[Tensor, " n"]
    """Angle between each gradient and RGB's consensus, the most it may turn; zeros for other balancers."""
    weights: Float64[Tensor, " n"]
    """Coefficient of each gradient in the update."""
    active: Bool[Tensor, " n"]
    """Objectives that had a say."""
    conflicts: Int64[Tensor, ""]
    """Pairs of objectives whose cosine is negative."""

    def as_metrics(self) -> dict[str, float]:
        """Everything as plain numbers, for a log. The host waits for the device once."""
        columns = {"norm": self.norms, "angle": self.angles, "rotation": self.rotations, "limit": self.limits}
        keys = [f"gradient/{kind}/{name}" for kind in columns for name in self.names]
        values = [*columns.values()]
        for i, name in enumerate(self.names):
            for j in range(i + 1, len(self.names)):
                keys.append(f"gradient/cosine/{name}/{self.names[j]}")
                values.append(self.cosines[i, j].reshape(1))
        keys += ["gradient/conflicts", "gradient/active_objectives"]
        values += [self.conflicts.double().reshape(1), self.active.sum().double().reshape(1)]
        return dict(zip(keys, torch.cat(values).tolist(), strict=True))
