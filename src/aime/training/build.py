"""From settings to what trains: AIME itself, or a peer to compare it with, each with its own kind of step."""

from __future__ import annotations

from typing import Any

from aime.config import ModelConfig, TrainConfig, WorldModelName
from aime.peers import RSSM
from aime.training.distributed import World
from aime.training.peer_update import PeerUpdater
from aime.training.update import Updater
from aime.world_model import WorldModel


def build_model(name: WorldModelName, config: ModelConfig) -> Any:
    """A fresh world model of these sizes: a `WorldModel`, or an `RSSM` of as many parameters, which has its verbs."""
    return RSSM(config) if name == "rssm" else WorldModel(config)


def build_updater(model: Any, config: TrainConfig, precision: str, world: World) -> Updater | PeerUpdater:
    """What takes the training steps of this model."""
    if isinstance(model, RSSM):
        return PeerUpdater(model, config, precision, world)
    return Updater(model, config, precision, world)
