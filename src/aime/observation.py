"""The observation model's other half, beside the decoder: how sure it is, of which pixels, and which ones move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

MOTION_THRESHOLD = 16.0 / 255.0
"""A pixel moves where one of its channels differs from the last context frame by more than this."""


class ObservationNoise(nn.Module):
    """Variances of the observation models, kept at their optimum: a running mean of the squared error.

    The optimal variance of a Gaussian decoder is its mean squared error (Rybkin et al., 2021, arXiv 2006.13202).
    Following it, rather than learning it by gradient, makes it right from the first steps. Latents learn at a larger
    one (`taught`): at the optimum each pixel is worth so many nats that they tell what no dynamics can foresee.
    """

    def __init__(self, initial_sigma: float = 0.2, floor: float = 0.01, decay: float = 0.95) -> None:
        super().__init__()
        self.floor, self.decay = floor**2, decay
        # Frames under even maps and under those of attention, whose weighted errors are several times as large.
        self.register_buffer("frame", torch.full((2,), initial_sigma**2))
        self.register_buffer("dream", torch.full((2,), initial_sigma**2))
        self.register_buffer("token", torch.full((1,), initial_sigma**2))
        self.frame: Tensor
        self.dream: Tensor
        self.token: Tensor
        for name in ("frame", "dream", "token"):
            self.register_buffer(f"{name}_steps", torch.zeros_like(getattr(self, name)))

    def log_sigma(self, name: str) -> Tensor:
        """log σ of the observation model `name`: frame or dream (under even maps; under attention), or token."""
        return 0.5 * getattr(self, name).log()

    def taught(self, name: str, floor: float) -> Tensor:
        """log σ with which latents are taught (see `LossConfig.sigma_floor`): where frames under even maps are known
        better than to `floor`, both σ are raised by the factor that brings that one there.

        So both kinds of frames have an equal say. With one floor for both those of attention had seven times that of
        the others, and all detail beside what moves was learned from half of the frames.
        """
        variance: Tensor = getattr(self, name)
        return 0.5 * (variance * (floor**2 / variance[0]).clamp_min(1.0)).log()

    def follow(self, name: str, kinds: Int64[Tensor, " n"], errors: Float[Tensor, " n"]) -> None:
        """Move each variance towards the mean of the squared errors of its kind.

        The first errors count in full: a variance that took fifty steps to come down from a guess left the latents
        asleep for as long, with a likelihood that hardly weighed against the KL. A kind that was not seen, and one
        with an error that is not finite, stays as it is.
        """
        buffer, steps = getattr(self, name), getattr(self, f"{name}_steps")
        seen = torch.full_like(buffer, torch.nan)
        seen = seen.scatter_reduce(0, kinds, errors.detach().to(buffer.dtype), "mean", include_self=False)
        known = torch.isfinite(seen)
        steps += known
        weight = torch.where(known, (1 / steps.clamp_min(1)).clamp_min(1 - self.decay), 0.0)
        buffer.lerp_(torch.where(known, seen, buffer).clamp_min(self.floor), weight)


@dataclass(frozen=True)
class Shown:
    """The maps under which frames are decoded in training."""

    maps: Float[Tensor, "batch time grid grid"]
    attended: Bool[Tensor, "batch time"]
    """False where an even map stands in for the one that attention expected."""


def veil(attention: Float[Tensor, "batch time grid grid"]) -> Shown:
    """The maps with which training decodes: in half of the frames an even one takes their place.

    There the latent must carry the whole frame, and every pixel counts alike; in the other half attention refines it.
    Without, the likelihood asks only what is at the attended place, and the latent need not know where that is.
    """
    attended = torch.rand(*attention.shape[:2], device=attention.device) < 0.5
    return Shown(torch.where(attended[..., None, None], attention, 1.0 / attention.shape[-1] ** 2), attended)


def moving_pixels(
    truth: Float[Tensor, "*batch horizon channels height width"],
    last: Float[Tensor, "*batch channels height width"],
    threshold: float = MOTION_THRESHOLD,
) -> Bool[Tensor, "*batch horizon height width"]:
    """Pixels of the true frames that differ from the last context frame by more than `threshold` in some channel.

    That is where something has moved to, and where something has moved away from. It depends on the truth alone, so
    that every predictor is scored on the same pixels.
    """
    return ((truth - last.unsqueeze(-4)).abs() > threshold).any(dim=-3)
