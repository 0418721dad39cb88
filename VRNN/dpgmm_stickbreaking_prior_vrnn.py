"""The quickstart's model by its name and arguments: `aime.WorldModel` with its optimizers at hand (Cards 1 and 2).

Two things differ from `aime.WorldModel`, so that the cards run as they stand on any machine and any data:

- ``device=torch.device('cuda')`` and ``.to('cuda')`` stay on the CPU where there is no GPU, with a warning.
- The cards say ``action_dim=6``, and a humanoid has 21 actions. The first clip decides: where its actions have another
  size, the (still untrained) recurrent core is made anew for it, with a warning. From then on another size is an error.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aime import config
from aime.attention import AttentionSchema
from aime.attention import SlotAttention as AttentionPosterior
from aime.belief import DPGMMPrior
from aime.dynamics import RecurrentCore
from aime.learning import BalanceReport, GradientBalancer
from aime.outputs import SequenceOutput
from aime.reach import generator_parameters, objective_reach
from aime.world_model import WorldModel
from VRNN.devices import at_hand

__all__ = ["AttentionPosterior", "AttentionSchema", "DPGMMPrior", "DPGMMVariationalRecurrentAutoencoder"]


class RGBOptimizer:
    """The gradient half of a training step: `backward` of the four objectives, balanced, and of the adversary's loss.

    Attributes:
        report: norms, cosines and angles of the last `backward` (the quickstart's grad_diagnostics).
    """

    def __init__(
        self, model: DPGMMVariationalRecurrentAutoencoder, settings: config.BalancerConfig, clip: float
    ) -> None:
        self.balancer = GradientBalancer(objective_reach(model), settings)
        self.clip = clip
        self.report: BalanceReport | None = None
        self.adversary_loss: Tensor | None = None
        self._generator = generator_parameters(model)
        self._adversary = list(model.discriminator.parameters())

    def backward(self, losses: Sequence[Tensor]) -> BalanceReport:
        """Write the balanced gradient of the four losses of `compute_total_loss`, in Card 2's order, clipped.

        The discriminator's gradient is that of its own loss in the same `compute_total_loss`, so that Card 2's one
        `optimizer.step()` trains everything.
        """
        self.report = self.balancer.backward(losses)
        torch.nn.utils.clip_grad_norm_(self._generator, self.clip)
        if self.adversary_loss is not None:
            for parameter in self._adversary:
                parameter.grad = None
            self.adversary_loss.backward()
            torch.nn.utils.clip_grad_norm_(self._adversary, self.clip)
            self.adversary_loss = None
        return self.report


class DPGMMVariationalRecurrentAutoencoder(WorldModel):
    """The world model of Card 1.

    Args:
        action_dim: numbers in one action; the first clip may correct it (see this module's docstring).
        device: where to put the model; ``cuda`` falls back to the CPU.
        learning_rate, weight_decay, grad_clip: of `optimizer` and of the clipping in `rgb_optimizer.backward`.
        balancer: settings of the balancing of gradients.
        settings: any other field of `aime.ModelConfig`, such as ``latent_dim=36``.

    Attributes:
        optimizer: AdamW over the whole model, the discriminator included.
        rgb_optimizer: `RGBOptimizer`.

    Raises:
        ConfigError: an argument that does not exist (with the nearest that do) or a value that cannot work.
    """

    def __init__(
        self,
        *,
        action_dim: int = 6,
        device: torch.device | str | None = None,
        learning_rate: float = config.OptimizerConfig.learning_rate,
        weight_decay: float = config.OptimizerConfig.weight_decay,
        grad_clip: float = config.OptimizerConfig.grad_clip,
        balancer: config.BalancerConfig | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(config.replace(config.ModelConfig(action_dim=action_dim), **settings))
        if device is not None:
            self.to(device)
        self._balancer_settings = balancer or config.BalancerConfig()
        self._grad_clip = grad_clip
        self._met_actions = False
        self.optimizer = torch.optim.AdamW(self._groups(), lr=learning_rate, weight_decay=weight_decay)
        self.rgb_optimizer = RGBOptimizer(self, self._balancer_settings, grad_clip)

    def _groups(self) -> list[dict[str, Any]]:
        return [{"params": generator_parameters(self)}, {"params": list(self.discriminator.parameters())}]

    def to(self, *args: Any, **kwargs: Any) -> DPGMMVariationalRecurrentAutoencoder:
        """`torch.nn.Module.to`, staying on the CPU where there is no GPU."""
        args = tuple(at_hand(a) for a in args)
        kwargs = {name: at_hand(value) for name, value in kwargs.items()}
        return super().to(*args, **kwargs)

    def cuda(self, device: torch.device | int | None = None) -> DPGMMVariationalRecurrentAutoencoder:
        """`torch.nn.Module.cuda`, staying on the CPU where there is no GPU."""
        return self.to(torch.device("cuda", device) if isinstance(device, int) else torch.device("cuda"))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """`torch.nn.Module.load_state_dict`; loaded weights settle the size of an action."""
        self._met_actions = True
        return super().load_state_dict(*args, **kwargs)

    def forward_sequence(
        self, observations: Tensor, actions: Tensor, is_first: Tensor | None = None, **options: Any
    ) -> SequenceOutput:
        """`aime.WorldModel.forward_sequence`, for tensors on any device."""
        self._meet(actions)
        return super().forward_sequence(self._here(observations), self._here(actions), is_first, **options)

    def compute_total_loss(
        self, observations: Tensor, actions: Tensor, is_first: Tensor | None = None, **weights: Any
    ) -> tuple[dict[str, Tensor], SequenceOutput]:
        """`aime.WorldModel.compute_total_loss`, for tensors on any device."""
        self._meet(actions)
        losses, output = super().compute_total_loss(self._here(observations), self._here(actions), is_first, **weights)
        adversary = losses["discriminator_loss"]
        self.rgb_optimizer.adversary_loss = adversary if adversary.requires_grad else None
        return losses, output

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    def _meet(self, actions: Tensor) -> None:
        """Let the first actions decide what size an action has."""
        if self._met_actions or actions.ndim != 3:
            return
        self._met_actions = True
        said, found = self.config.action_dim, actions.shape[-1]
        if found == said:
            return
        warnings.warn(
            f"the model was made for actions of size {said}, but this data has {found}: its recurrent core, which has "
            f"not learned anything yet, is made anew for {found}",
            stacklevel=3,
        )
        self.config = dataclasses.replace(self.config, action_dim=found)
        sizes = self.config
        self.core = RecurrentCore(
            latent_dim=sizes.latent_dim,
            context_dim=sizes.context_dim,
            action_dim=sizes.action_dim,
            hidden_dim=sizes.hidden_dim,
        ).to(self.device)
        for group, fresh in zip(self.optimizer.param_groups, self._groups(), strict=True):
            group["params"] = fresh["params"]
        self.rgb_optimizer = RGBOptimizer(self, self._balancer_settings, self._grad_clip)
