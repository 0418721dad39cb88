"""Sizes of everything in one word: what each preset changes of the defaults in `aime.config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aime.config import LossConfig, TrainConfig, replace
from aime.errors import unknown


@dataclass(frozen=True)
class PresetValues:
    """What a preset changes, per group of settings; everything else keeps its default."""

    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)


PRESETS: dict[str, PresetValues] = {
    # Learns on two CPU cores in minutes.
    "tiny": PresetValues(
        model={
            "sequence_length": 48,
            "img_perceiver_channels": 16,
            "num_codebook_perceiver": 256,
            "perceiver_code_dim": 64,
            "num_latent_perceiver": 96,
            "num_latent_channels_perceiver": 64,
            "perceiver_layers": 2,
            "context_dim": 64,
            "max_components": 10,
            "latent_dim": 24,
            "hidden_dim": 256,
            "attention_dim": 32,
            "num_slots": 4,
        },
        loss={"decode_every": 6},
        optimizer={"learning_rate": 0.001, "warmup_epochs": 3.0},
    ),
    # The quickstart's Card 1: the defaults above.
    "base": PresetValues(),
    # For a big GPU.
    "large": PresetValues(
        model={
            "img_perceiver_channels": 128,
            "num_codebook_perceiver": 4096,
            "num_latent_perceiver": 256,
            "num_latent_channels_perceiver": 512,
            "perceiver_layers": 8,
            "perceiver_heads": 8,
            "context_dim": 512,
            "max_components": 30,
            "latent_dim": 96,
            "hidden_dim": 1536,
            "attention_dim": 128,
            "num_slots": 8,
        },
        optimizer={"learning_rate": 0.0001},
    ),
}


def peer_config(config: TrainConfig) -> TrainConfig:
    """The same settings for training the peer, with its own optimizer's, DreamerV3's (arXiv 2301.04104), and none of
    AIME's objectives."""
    optimizer = replace(config.optimizer, learning_rate=1e-4, weight_decay=0.0, grad_clip=1000.0)
    return replace(config, world_model="rssm", loss=LossConfig(), optimizer=optimizer)


def preset_config(name: str, world_model: str = "aime") -> TrainConfig:
    """The settings of a preset, ``tiny``, ``base`` or ``large``, for AIME or for ``rssm``, its peer."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    values = PRESETS[name]
    base = TrainConfig()
    config: TrainConfig = replace(
        base,
        preset=name,
        model=replace(base.model, **values.model),
        loss=replace(base.loss, **values.loss),
        optimizer=replace(base.optimizer, **values.optimizer),
    )
    return peer_config(config) if world_model == "rssm" else config
