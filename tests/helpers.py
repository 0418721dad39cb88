"""Small models and clips that several tests share."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from aime.config import ModelConfig, ModelSettings
from aime.presets import PRESETS
from aime.world_model import WorldModel

ACTIONS = 3


def small_config(**changes: object) -> ModelConfig:
    """A model that runs in milliseconds: 32×32 frames, 6-frame clips, every part present."""
    settings = dataclasses.replace(
        ModelSettings(),
        **PRESETS["tiny"].model
        | {
            "input_dim": 32,
            "sequence_length": 6,
            "img_perceiver_channels": 8,
            "num_codebook_perceiver": 32,
            "perceiver_code_dim": 16,
            "num_latent_perceiver": 12,
            "num_latent_channels_perceiver": 32,
            "context_dim": 24,
            "max_components": 5,
            "latent_dim": 8,
            "hidden_dim": 48,
            "attention_dim": 16,
            "num_slots": 3,
            "img_disc_layers": 2,
        }
        | changes,
    )
    return settings.for_actions(ACTIONS)


def small_model(seed: int = 0, **changes: object) -> WorldModel:
    torch.manual_seed(seed)
    return WorldModel(small_config(**changes))


def random_clip(batch: int = 2, time: int = 6, size: int = 32, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Noise frames (uint8) and actions in [-1, 1]: for properties that must hold on anything."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (batch, time, 3, size, size), dtype=torch.uint8, generator=generator)
    return frames, torch.rand(batch, time, ACTIONS, generator=generator) * 2 - 1


def pushed_ball(batch: int, time: int, size: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A bright disc that bounces off the walls and that the first two numbers of the action push."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand(batch, 2, generator=generator) * (size - 12) + 6
    speed = (torch.rand(batch, 2, generator=generator) - 0.5) * 5
    actions = torch.rand(batch, time, ACTIONS, generator=generator) * 2 - 1
    axis = torch.arange(size) + 0.5
    frames = []
    for t in range(time):
        distance = (axis - place[:, :1])[:, :, None] ** 2 + (axis - place[:, 1:])[:, None, :] ** 2
        disc = torch.sigmoid(2 * (4 - distance.sqrt()))
        frames.append(torch.stack([0.15 + 0.8 * disc, 0.2 + 0.3 * disc, 0.35 - 0.2 * disc], dim=1))
        speed = speed + actions[:, t, :2]
        place = place + speed
        outside = (place < 5) | (place > size - 5)
        speed = torch.where(outside, -speed, speed).clamp(-3, 3)
        place = place.clamp(5, size - 5)
    return (torch.stack(frames, dim=1).clamp(0, 1) * 255).round().to(torch.uint8), actions
