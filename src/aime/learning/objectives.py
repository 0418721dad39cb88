"""The adversarial game: hinge losses, feature matching, and a rein on the adversary.

    discriminator:  E max(0, 1 − D(real)) + E max(0, 1 + D(fake)) + rein
    generator:      −E D(fake)   and   mean_l ‖features_l(fake) − features_l(real)‖₁ / ‖features_l(real)‖₁

The rein is LeCam regularisation (Tseng et al., 2021, arXiv 2104.03310): moving averages remember how the adversary
judged real and fake clips lately, and it is charged for judging real clips far above its usual fake, or fakes far below
its usual real. It costs two means, needs no second differentiation, and bounds how far ahead the adversary can get.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from aime.errors import ShapeError
from aime.learning.discriminator import DiscriminatorOutput, TemporalPatchDiscriminator

REIN = 0.3
"""Weight of the rein, as in the paper: it balances the hinge's slope where real and fake are 1 / (2 REIN) = 1.7 apart,
within the hinge's margins of 2."""

ANCHOR_DECAY = 0.95
"""Share of its past that an anchor keeps at each step of the discriminator: it remembers some twenty steps."""


def discriminator_loss(
    discriminator: TemporalPatchDiscriminator,
    real: Float[Tensor, "batch time 3 h w"],
    fake: Float[Tensor, "_ _ 3 _ _"],
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """The adversary's loss on real and generated clips, both in [0, 1]; neither gets a gradient.

    In training mode the anchors of the rein follow the logits.

    Returns:
        The loss, and detached scalars: `disc_real_accuracy` and `disc_fake_accuracy` (shares of patches judged rightly,
        in [0, 1]), `disc_real_logit`, `disc_fake_logit` (means) and `disc_rein` (the regulariser, unweighted).

    Raises:
        ShapeError: real and fake clips differ in shape.
    """
    _check_alike(real, fake)
    logits = discriminator(torch.cat([real, fake.to(real.dtype)]).detach()).logits
    of_real, of_fake = logits.chunk(2)
    hinge = F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()
    anchor_real, anchor_fake = _anchors(discriminator, of_real.detach().mean(), of_fake.detach().mean())
    rein = F.relu(of_real - anchor_fake).square().mean() + F.relu(anchor_real - of_fake).square().mean()
    stats = {
        "disc_real_accuracy": (of_real > 0).float().mean(),
        "disc_fake_accuracy": (of_fake < 0).float().mean(),
        "disc_real_logit": of_real.mean(),
        "disc_fake_logit": of_fake.mean(),
        "disc_rein": rein,
    }
    return hinge + REIN * rein, {name: value.detach() for name, value in stats.items()}


def _anchors(
    discriminator: TemporalPatchDiscriminator, real: Float[Tensor, ""], fake: Float[Tensor, ""]
) -> tuple[Tensor, Tensor]:
    """The moving averages of the mean logits, as they stood before this step (at the very first: of this step)."""
    past_real = torch.where(discriminator.anchored, discriminator.anchor_real, real)
    past_fake = torch.where(discriminator.anchored, discriminator.anchor_fake, fake)
    if discriminator.training:
        with torch.no_grad():
            discriminator.anchor_real.copy_(torch.lerp(real, past_real, ANCHOR_DECAY))
            discriminator.anchor_fake.copy_(torch.lerp(fake, past_fake, ANCHOR_DECAY))
            discriminator.anchored.fill_(True)
    return past_real, past_fake


def generator_loss(
    discriminator: TemporalPatchDiscriminator,
    real: Float[Tensor, "batch time 3 h w"],
    fake: Float[Tensor, "_ _ 3 _ _"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The generator's side of the game: (adversarial, feature matching).

    The gradient reaches `fake` and nothing else: the discriminator's parameters take part as constants.

    Feature matching is the mean absolute difference of the features relative to the mean absolute feature of the real
    clip, averaged over layers, so the adversary cannot change its weight by growing its features.

    Raises:
        ShapeError: real and fake clips differ in shape.
    """
    _check_alike(real, fake)
    constants = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    with torch.no_grad():
        target: DiscriminatorOutput = discriminator(real.detach())
    judged: DiscriminatorOutput = functional_call(discriminator, constants, (fake,))
    differences = [
        (ours - theirs).abs().mean(dtype=torch.float32) / theirs.abs().mean(dtype=torch.float32).clamp(min=1e-6)
        for ours, theirs in zip(judged.features, target.features, strict=True)
    ]
    return -judged.logits.mean(), torch.stack(differences).mean()


def _check_alike(real: Tensor, fake: Tensor) -> None:
    if real.shape != fake.shape:
        raise ShapeError(
            f"real and fake clips must have the same shape, but have {tuple(real.shape)} and {tuple(fake.shape)}"
        )
