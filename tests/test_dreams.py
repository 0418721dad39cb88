"""A dream is better than no dream: a tiny model, trained for a minute, on a ball that bounces and is pushed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from aime.config import OptimizerConfig
from aime.presets import preset_config
from aime.training.schedule import lr_factor
from aime.training.update import Updater
from aime.world_model import WorldModel
from tests.helpers import pushed_ball, small_model

WATCHED, DREAMED, CLIP, STEPS = 8, 16, 8, 300


@pytest.fixture(scope="module")
def dreamer() -> WorldModel:
    """Trained as `aime train` trains: the default objectives and balancer, the weights of the presets."""
    model = small_model(
        sequence_length=CLIP,
        num_latent_perceiver=2 * CLIP,
        img_perceiver_channels=16,
        latent_dim=16,
        hidden_dim=96,
    ).train()
    settings = OptimizerConfig(learning_rate=2e-3, lr_warmup_steps=50)
    config = dataclasses.replace(preset_config("tiny"), optimizer=settings)
    updater = Updater(model, config, "float32")
    frames, actions = pushed_ball(256, 24, seed=1)
    starts = torch.zeros(8, CLIP, dtype=torch.bool)
    for step in range(STEPS):
        clips, at = torch.randint(len(frames), (8,)), int(torch.randint(frames.shape[1] - CLIP + 1, ()))
        batch = {
            "observations": frames[clips, at : at + CLIP],
            "actions": actions[clips, at : at + CLIP],
            "is_first": starts,
        }
        updater.step(batch, lr_factor=lr_factor(step, settings, STEPS), beta=config.loss.beta * min(1.0, step / 100))
    return model.eval()


def psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """Mean over clips, by horizon, in dB."""
    return -10 * (frames - truth).square().mean(dim=(2, 3, 4)).clamp_min(1e-8).log10().mean(dim=0)


def test_a_tiny_model_beats_copying_the_last_frame_in_its_dreams(dreamer: WorldModel) -> None:
    frames, actions = pushed_ball(32, WATCHED + DREAMED, seed=2)
    belief = dreamer.observe(frames[:, :WATCHED], actions[:, :WATCHED])
    dream = dreamer.imagine(belief, actions[:, WATCHED:], sample=False).observations
    truth = frames[:, WATCHED:].float() / 255
    dreamed = psnr(dream, truth)
    copied = psnr(frames[:, WATCHED - 1 : WATCHED].float().expand_as(truth) / 255, truth)
    average = psnr(frames.float().mean(dim=(0, 1)).expand_as(truth) / 255, truth)
    assert dreamed.mean() > copied.mean() + 0.5
    assert (dreamed[2:CLIP] > copied[2:CLIP]).all()  # later ones are further than any that it was trained on
    # Not by hedging alone, as the mean of all frames does: it knows where the ball goes next.
    assert dreamed[0] > average[0] + 0.75


def test_what_it_watches_goes_through_the_latent(dreamer: WorldModel) -> None:
    """Reconstructions hold, and they hold because of z: with the latents of another clip they are of that clip."""
    frames, actions = pushed_ball(16, CLIP, seed=3)
    watched = dreamer.forward_sequence(frames, actions)
    truth = frames.float() / 255
    assert psnr(watched.reconstructions, truth).mean() > 27
    swapped = dreamer.decode(watched.latents.roll(1, dims=0), watched.attention_prior).clamp(0, 1)
    assert psnr(swapped, truth.roll(1, dims=0)).mean() > psnr(swapped, truth).mean() + 5
