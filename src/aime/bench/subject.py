"""What is measured: a preset on a device in a precision, and random clips for it to train on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aime.config import ModelConfig, TrainConfig
from aime.config import replace as changed
from aime.training.device import autocast
from aime.training.update import Updater
from aime.world_model import WorldModel

ACTIONS = 21
"""Numbers in an action: the humanoid's."""


@dataclass(frozen=True)
class Subject:
    """A preset as `aime train` would train it here."""

    preset: str
    config: TrainConfig
    """With a resolved precision, `data.batch_size` clips in a batch and `model.sequence_length` frames in a clip."""
    device: torch.device

    @property
    def precision(self) -> str:
        return self.config.precision

    @property
    def clips(self) -> int:
        return self.config.data.batch_size

    @property
    def frames(self) -> int:
        """Frames in one batch."""
        return self.clips * self.config.model.sequence_length

    @property
    def sizes(self) -> ModelConfig:
        return self.config.model.for_actions(ACTIONS)

    def model(self) -> WorldModel:
        """A fresh model, the same for every subject of its preset."""
        torch.manual_seed(0)
        return WorldModel(self.sizes).to(self.device).train()

    def updater(self) -> Updater:
        """What trains a fresh model."""
        return Updater(self.model(), self.config, self.precision)

    def batch(self, clips: int | None = None, time: int | None = None) -> dict[str, Tensor]:
        """Clips of noise, where a run has them: frames and actions on the device, episode starts on the host."""
        clips, time, size = clips or self.clips, time or self.config.model.sequence_length, self.config.model.input_dim
        generator = torch.Generator().manual_seed(1)
        frames = torch.randint(0, 256, (clips, time, 3, size, size), dtype=torch.uint8, generator=generator)
        actions = torch.rand(clips, time, ACTIONS, generator=generator) * 2 - 1
        return {
            "observations": frames.to(self.device),
            "actions": actions.to(self.device),
            "is_first": torch.zeros(clips, time, dtype=torch.bool),
        }

    def stepper(self) -> Callable[[], object]:
        """Whole training steps of a fresh model, always on the same batch."""
        updater, batch = self.updater(), self.batch()
        return lambda: updater.step(batch, lr_factor=1.0, beta=1.0)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision, as a context for a forward pass."""
        return autocast(self.device, self.precision)

    def at(self, precision: str) -> Subject:
        """The same in another precision."""
        return replace(self, config=changed(self.config, precision=precision))

    def unrehearsed(self) -> Subject:
        """The same, whose steps are of their clips alone: no second looks, no rehearsals."""
        optimizer = changed(self.config.optimizer, second_looks=0, rehearsals=0)
        return replace(self, config=changed(self.config, optimizer=optimizer))
