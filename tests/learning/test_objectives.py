"""The adversarial game: what each side is charged for, where its gradient goes, and the rein on the adversary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aime.errors import AimeError
from aime.learning import objectives
from aime.learning.discriminator import DiscriminatorOutput, TemporalPatchDiscriminator
from aime.learning.objectives import discriminator_loss, generator_loss


@pytest.fixture
def discriminator() -> TemporalPatchDiscriminator:
    torch.manual_seed(0)
    return TemporalPatchDiscriminator(channels=8, image_size=16, layers=3, heads=2, max_frames=8)


class Brightness(TemporalPatchDiscriminator):
    """Stands in for the adversary: every logit is `scale` · (mean brightness) + `shift`."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__(channels=2, image_size=16, layers=1, heads=1)
        self.scale, self.shift = nn.Parameter(torch.tensor(scale)), nn.Parameter(torch.tensor(shift))

    def forward(self, frames: Tensor) -> DiscriminatorOutput:
        means = frames.mean(dim=(2, 3, 4))
        return DiscriminatorOutput((self.scale * means + self.shift)[..., None], [means])


def clips(brightness: float, n: int = 2) -> Tensor:
    return torch.full((n, 3, 3, 16, 16), brightness)


def test_hinge_charges_nothing_beyond_the_margins_and_linearly_within(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "REIN", 0.0)
    # logits: +1.5 for white, −1.5 for black
    loss, stats = discriminator_loss(Brightness(3.0, -1.5), clips(1.0), clips(0.0))
    assert loss.item() == 0.0
    assert float(stats["disc_real_accuracy"]) == 1.0 and float(stats["disc_fake_accuracy"]) == 1.0
    # +0.5 for white, −0.25 for black: half of the margin on one side, three quarters on the other
    loss, _ = discriminator_loss(Brightness(0.75, -0.25), clips(1.0), clips(0.0))
    assert loss.item() == pytest.approx(0.5 + 0.75)
    # the wrong way round
    loss, stats = discriminator_loss(Brightness(-3.0, 1.5), clips(1.0), clips(0.0))
    assert loss.item() == pytest.approx(2.5 + 2.5)
    assert float(stats["disc_real_accuracy"]) == 0.0 and float(stats["disc_fake_accuracy"]) == 0.0


def test_accuracies_are_shares_of_patches() -> None:
    real = torch.cat([clips(1.0, 3), clips(0.0, 1)])
    _, stats = discriminator_loss(Brightness(2.0, -1.0), real, clips(0.0, 4))
    assert float(stats["disc_real_accuracy"]) == 0.75 and float(stats["disc_fake_accuracy"]) == 1.0
    assert all(not value.requires_grad and value.ndim == 0 for value in stats.values())


def trained_gap(discriminator: TemporalPatchDiscriminator, steps: int) -> float:
    """How far apart it judges white and black clips after training on them."""
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=3e-3)
    for _ in range(steps):
        loss, stats = discriminator_loss(discriminator, clips(1.0), clips(0.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(stats["disc_real_logit"] - stats["disc_fake_logit"])


def test_the_rein_holds_back_an_adversary_that_wins(
    discriminator: TemporalPatchDiscriminator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained_gap(discriminator, 80) < 2.0, "the hinge alone pushes on until the margins of ±1 are passed"
    monkeypatch.setattr(objectives, "REIN", 0.0)
    assert trained_gap(discriminator, 80) > 2.0


def test_anchors_follow_the_logits_in_training_only_and_are_part_of_the_state() -> None:
    adversary = Brightness(2.0, -1.0)
    discriminator_loss(adversary.eval(), clips(1.0), clips(0.0))
    assert not adversary.anchored
    adversary.train()
    discriminator_loss(adversary, clips(1.0), clips(0.0))
    assert adversary.anchored
    assert float(adversary.anchor_real) == pytest.approx(1.0) and float(adversary.anchor_fake) == pytest.approx(-1.0)
    discriminator_loss(adversary, clips(0.5), clips(0.0))
    assert 0.9 < float(adversary.anchor_real) < 1.0
    state = adversary.state_dict()
    other = Brightness(0.0, 0.0)
    other.load_state_dict(state)
    mine, theirs = (discriminator_loss(each, clips(0.7), clips(0.2))[0] for each in (adversary, other))
    assert torch.equal(mine, theirs)


def test_generator_gradient_reaches_the_fake_and_nothing_else(discriminator: TemporalPatchDiscriminator) -> None:
    real = torch.rand(2, 4, 3, 16, 16, requires_grad=True)
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    for part in range(2):
        fake = torch.rand(2, 4, 3, 16, 16, requires_grad=True)
        generator_loss(discriminator, real, fake)[part].backward()
        assert fake.grad is not None and fake.grad.abs().amax(dim=(0, 2, 3, 4)).min() > 0, "in every frame"
    assert all(p.grad is None for p in discriminator.parameters()) and real.grad is None
    assert all(p.requires_grad for p in discriminator.parameters())
    assert all(torch.equal(before[name], value) for name, value in discriminator.state_dict().items())


def test_discriminator_gradient_reaches_every_parameter_and_no_clip(discriminator: TemporalPatchDiscriminator) -> None:
    real, fake = (torch.rand(2, 4, 3, 16, 16, requires_grad=True) for _ in range(2))
    loss, _ = discriminator_loss(discriminator, real, fake)
    loss.backward()
    assert real.grad is None and fake.grad is None
    assert all(p.grad is not None and p.grad.any() for p in discriminator.parameters())


def test_the_adversarial_loss_falls_as_fakes_look_more_real() -> None:
    adversary = Brightness(2.0, -1.0)
    losses = [generator_loss(adversary, clips(1.0), clips(b))[0].item() for b in (0.0, 0.3, 0.6, 1.0, 1.5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] - losses[-2] == pytest.approx(-1.0), "no margin: the generator's gradient never dies"


def test_feature_matching_is_zero_for_the_same_clip_and_grows_with_the_difference(
    discriminator: TemporalPatchDiscriminator,
) -> None:
    torch.manual_seed(1)
    real = torch.rand(2, 4, 3, 16, 16)
    noise = torch.randn_like(real)
    losses = [generator_loss(discriminator, real, real + share * noise)[1].item() for share in (0.0, 0.01, 0.1, 0.5)]
    assert losses[0] == 0.0
    assert losses == sorted(losses) and losses[1] > 0


def test_feature_matching_does_not_change_with_the_size_of_the_features() -> None:
    class Louder(Brightness):
        def forward(self, frames: Tensor) -> DiscriminatorOutput:
            out = super().forward(frames)
            return DiscriminatorOutput(out.logits, [100 * feature for feature in out.features])

    quiet = generator_loss(Brightness(1.0, 0.0), clips(0.8), clips(0.2))[1]
    loud = generator_loss(Louder(1.0, 0.0), clips(0.8), clips(0.2))[1]
    torch.testing.assert_close(loud, quiet)
    assert quiet.item() == pytest.approx(0.75)


def test_clips_of_different_shapes_get_a_sentence(discriminator: TemporalPatchDiscriminator) -> None:
    real, fake = torch.rand(2, 4, 3, 16, 16), torch.rand(2, 5, 3, 16, 16)
    for loss in (discriminator_loss, generator_loss):
        with pytest.raises(AimeError, match="same shape"):
            loss(discriminator, real, fake)
