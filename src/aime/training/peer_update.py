"""One training step of a peer: one loss, one gradient, its own optimizer. See `aime.training.update` for AIME's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aime.config import TrainConfig
from aime.peers import RSSM
from aime.training.average import WeightAverage
from aime.training.device import autocast
from aime.training.distributed import World, any_rank, average_gradients, broadcast_from_first
from aime.training.guard import BufferGuard
from aime.training.update import Outcome


class Unbalanced:
    """The balancer of a model with a single objective: nothing to balance, nothing to remember."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes nothing."""


class PeerUpdater:
    """A peer and its optimizer; the arguments and `step` are those of `aime.training.update.Updater`."""

    def __init__(self, model: RSSM, config: TrainConfig, precision: str, world: World | None = None) -> None:
        self.model = model
        self._config = config.optimizer
        self._precision = precision
        self._world = world or World()
        self.balancer = Unbalanced()
        self.memory = None
        self.average = WeightAverage(model, self._config.average_power)
        rate, decay = self._config.learning_rate, self._config.weight_decay
        adam = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": adam}
        self._guard = BufferGuard(model)

    def step(self, batch: Mapping[str, Tensor], *, lr_factor: float, beta: float) -> Outcome:
        """Train on a batch of clips. `beta` has no part in this objective."""
        del beta
        optimizer = self.optimizers["model"]
        for group in optimizer.param_groups:
            group["lr"] = self._config.learning_rate * lr_factor
        self._guard.remember()
        with autocast(self.model.device, self._precision):
            loss, scalars = self.model.compute_loss(batch["observations"], batch["actions"], batch["is_first"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.model.parameters(), self._world)
        scalars["gradient_norm"] = nn.utils.clip_grad_norm_(self.model.parameters(), self._config.grad_clip)
        finite = {
            "total_vae_loss": torch.isfinite(scalars["total_vae_loss"]),
            "gradient of the update": torch.isfinite(scalars["gradient_norm"]),
        }
        bad = any_rank(~torch.stack(list(finite.values())).all(), self._world)
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.step()
        self.average.follow()
        self._guard.restore_if(bad)
        broadcast_from_first(self.model.buffers(), self._world)
        return Outcome(scalars, finite, bad, None)
