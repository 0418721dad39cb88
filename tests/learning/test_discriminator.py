"""The adversary: clips of any length, patches that see along time, motion that it tells from disorder."""

import pytest
import torch
from torch import Tensor

from aime.errors import AimeError
from aime.learning.discriminator import TemporalPatchDiscriminator
from aime.learning.objectives import discriminator_loss


def small(**changes: int) -> TemporalPatchDiscriminator:
    torch.manual_seed(0)
    sizes = {"channels": 16, "image_size": 16, "layers": 3, "heads": 2, "max_frames": 8} | changes
    return TemporalPatchDiscriminator(**sizes)


def moving(n: int, time: int, generator: torch.Generator, size: int = 16) -> Tensor:
    """A soft bright spot that drifts steadily over a torus: (n, time, 3, size, size) in [0, 1]."""
    start = torch.rand(n, 1, 2, generator=generator) * size
    velocity = 1.5 * torch.nn.functional.normalize(torch.randn(n, 1, 2, generator=generator), dim=-1)
    position = (start + velocity * torch.arange(time)[:, None]) % size
    distance = (torch.arange(size) - position[..., None]).abs()
    profile = (1 - torch.minimum(distance, size - distance) / 3).clamp(0, 1)
    return (profile[..., 0, :, None] * profile[..., 1, None, :])[:, :, None].repeat(1, 1, 3, 1, 1)


def shuffled(clips: Tensor, generator: torch.Generator) -> Tensor:
    """The same frames in another order, for each clip its own."""
    orders = torch.rand(clips.shape[:2], generator=generator).argsort(dim=1)
    return torch.gather(clips, 1, orders[:, :, None, None, None].expand_as(clips))


@pytest.mark.parametrize("time", [1, 2, 8, 9, 20])
def test_any_length_of_clip(time: int) -> None:
    out = small()(torch.rand(2, time, 3, 16, 16))
    assert out.logits.shape == (2, time, 4)
    assert out.logits.dtype == torch.float32
    assert [tuple(f.shape) for f in out.features[:3]] == [
        (2 * time, 16, 8, 8),
        (2 * time, 32, 4, 4),
        (2 * time, 32, 2, 2),
    ]
    assert all(tuple(f.shape) == (2 * 4, time, 32) for f in out.features[3:]) and len(out.features) == 5


def test_clips_are_judged_apart_from_each_other() -> None:
    discriminator, clips = small(), torch.rand(3, 5, 3, 16, 16)
    together = discriminator(clips).logits
    torch.testing.assert_close(discriminator(clips[1:2]).logits, together[1:2], rtol=1e-4, atol=1e-5)


def test_a_patch_sees_along_time_as_far_as_max_frames_and_no_further() -> None:
    discriminator = TemporalPatchDiscriminator(channels=8, image_size=16, layers=2, heads=2, max_frames=4, blocks=1)
    clips = torch.rand(1, 12, 3, 16, 16)
    changed = clips.clone()
    changed[:, 6] = 1 - changed[:, 6]
    difference = (discriminator(clips).logits - discriminator(changed).logits).abs().amax(dim=(0, 2))
    # Frame 6 shows in the tokens of frames 6 and 7 (as a change); one block looks three frames both ways.
    seen = [t for t in range(12) if difference[t] > 1e-6]
    assert seen == list(range(3, 11))


def test_the_order_of_time_matters_but_not_where_the_clip_starts() -> None:
    discriminator = small()
    generator = torch.Generator().manual_seed(0)
    clips = moving(2, 8, generator)
    forwards, backwards = discriminator(clips).logits, discriminator(clips.flip(1)).logits.flip(1)
    assert not torch.allclose(forwards, backwards, atol=1e-4)
    still = clips[:, :1].expand(-1, 8, -1, -1, -1)
    logits = discriminator(still).logits
    torch.testing.assert_close(logits, logits[:, :1].expand_as(logits), rtol=1e-3, atol=1e-4)


def test_it_learns_to_tell_motion_from_the_same_frames_shuffled() -> None:
    discriminator = small()
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.99))
    generator = torch.Generator().manual_seed(0)

    def batch(n: int) -> tuple[Tensor, Tensor]:
        return moving(n, 8, generator), shuffled(moving(n, 8, generator), generator)

    for _ in range(90):
        loss, _ = discriminator_loss(discriminator, *batch(16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _, stats = discriminator_loss(discriminator.eval(), *batch(64))
    assert stats["disc_real_accuracy"] > 0.9 and stats["disc_fake_accuracy"] > 0.9


@pytest.mark.parametrize(
    "sizes", [{"channels": 24, "heads": 4}, {"channels": 5, "heads": 3}, {"layers": 4, "image_size": 48}, {"layers": 1}]
)
def test_sizes_need_not_fit_each_other(sizes: dict[str, int]) -> None:
    discriminator = small(**sizes)
    size = discriminator.image_size
    discriminator(torch.rand(1, 3, 3, size, size)).logits.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in discriminator.parameters())


def test_it_runs_in_bfloat16_and_answers_in_float32() -> None:
    discriminator, clips = small(), torch.rand(2, 4, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = discriminator(clips)
    assert out.logits.dtype == torch.float32
    torch.testing.assert_close(out.logits, discriminator(clips).logits, rtol=0, atol=0.05)


def test_bad_sizes_get_a_sentence() -> None:
    with pytest.raises(AimeError, match="img_disc_layers=5 would halve frames of 16 pixels below one: at most 4"):
        small(layers=5)
    with pytest.raises(AimeError, match="frames of 16×16, not 32×32"):
        small()(torch.rand(1, 2, 3, 32, 32))
