"""One training step: losses → balanced gradients → clipping → AdamW, and the adversary's own update beside it.

A step whose loss or gradient is not finite changes nothing: not the weights, not the optimizers, not the buffers. On a
GPU that is decided there, without waiting: the optimizers take the verdict as a mask (their `found_inf`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from aime.config import LossConfig, TrainConfig, replace
from aime.learning import discriminator_loss
from aime.learning.balancers import GradientBalancer
from aime.lesson import placed, spread_out
from aime.outputs import Judged, SequenceOutput
from aime.reach import (
    decoder_parameters,
    dynamics_parameters,
    generator_parameters,
    hearing_parameters,
    matrices,
    objective_reach,
    perception_parameters,
    reader_matrices,
)
from aime.rehearsal import (
    WHOLE_HALF_QUARTER,
    Glimpses,
    Recollection,
    rehearse_decoder,
    rehearse_dynamics,
    rehearse_perception,
)
from aime.training.album import Album
from aime.training.average import WeightAverage
from aime.training.decay import FoundDecay, follow_heed
from aime.training.device import autocast
from aime.training.distributed import World, any_rank, average_gradients, broadcast_from_first
from aime.training.guard import BufferGuard
from aime.training.memory import Memory
from aime.training.muon import Muon
from aime.world_model import WorldModel

OBJECTIVES = ("total_vae_loss", "perceiver_loss", "attention_loss", "adversarial_loss")
"""The losses that are balanced against each other."""
MODEL, MATRICES, CRITIC = "model", "matrices", "discriminator"
"""The optimizers: Muon of the filters and matrices that rehearse and of the Perceiver's, AdamW of all else but the
adversary, and of that."""
ADVERSARY = "discriminator_loss"
"""The loss that trains the discriminator alone."""
REHEARSAL = "rehearsal_loss"
"""The loss of dynamics and prior while perception rests."""
UNSEEN = "unseen_rehearsal_loss"
"""The same of clips that nothing is learned from."""
SMALLEST = 1e-3
"""Norm that a parameter is taken to have at least, when its gradient is clipped in proportion."""
RELOCATE_EVERY = 10
"""Steps between two looks for a component of the mixture that is better off elsewhere."""
SECOND_MOMENTS = 0.95
"""β₂ of AdamW beside Muon: gradients change as fast as Muon moves what they come through."""


@dataclass(frozen=True)
class Outcome:
    """What a step did."""

    scalars: dict[str, Tensor]
    """Every loss and part, and the norms of the gradients, detached."""
    finite: dict[str, Bool[Tensor, ""]]
    """Which losses and gradients were finite."""
    skipped: Bool[Tensor, ""]
    """Whether the step was skipped, on any rank and so on all."""
    balance: Any
    """The balancer's report; None if it was not asked: a loss was not finite, or there was one objective alone."""
    headline: str = "total_vae_loss"
    """The scalar that says in one number how training goes."""


class Updater:
    """A model, its optimizers and the balancer between its objectives.

    Args:
        model: on its device already.
        config: the weights of the losses, the balancer's and the optimizers' settings.
        precision: float32 or bf16, resolved.
        world: gradients are averaged over its ranks.
    """

    def __init__(self, model: WorldModel, config: TrainConfig, precision: str, world: World | None = None) -> None:
        self.model = model
        self.config = config
        self._precision = precision
        rest = config.optimizer.consolidation_precision
        self._rest_precision = precision if rest == "auto" else rest
        self._world = world or World()
        settings = config.optimizer
        self.balancer = GradientBalancer(objective_reach(model), config.balancer)
        self._peaks = {
            MODEL: settings.learning_rate,
            MATRICES: settings.muon_learning_rate,
            CRITIC: settings.discriminator_learning_rate,
        }
        dynamics = matrices(model, dynamics_parameters(model))
        perception = matrices(model, perception_parameters(model)) + reader_matrices(model)
        turned = {id(p) for p in (*dynamics, *perception)}
        self._dynamics, self.decay = dynamics, FoundDecay(dynamics, settings)
        groups = [(self.decay.value, dynamics), (settings.weight_decay, perception)]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            MODEL: _adamw(
                self._peaks[MODEL],
                settings.weight_decay,
                [p for p in generator_parameters(model) if id(p) not in turned],
                SECOND_MOMENTS,
            ),
            MATRICES: Muon(
                [{"params": some, "weight_decay": decay} for decay, some in groups],
                lr=self._peaks[MATRICES],
            ),
            CRITIC: _adamw(self._peaks[CRITIC], settings.weight_decay, list(model.discriminator.parameters())),
        }
        self.memory = Memory()
        self.average = WeightAverage(model, settings.average_power, found=("core.heed",))
        self._guard = BufferGuard(model)

    def step(self, batch: Mapping[str, Tensor], *, lr_factor: float, beta: float) -> Outcome:
        """Train on a batch of clips.

        Args:
            batch: observations (B, T, 3, H, W), actions (B, T, A) and is_first (B, T), on the model's device.
            lr_factor: share of the peak learning rates.
            beta: weight of the KL terms.
        """
        self.decay.restart()
        self.model.core.unhear()
        self._set_rates(lr_factor)
        self._guard.remember()
        with autocast(self.model.device, self._precision):
            losses, output = self.model.compute_total_loss(
                batch["observations"], batch["actions"], batch["is_first"], loss=self.config.loss, beta=beta
            )
        scalars = {name: value.detach() for name, value in losses.items()}
        objectives = {name: losses[name] for name in OBJECTIVES if name in losses}
        against = losses.get(ADVERSARY)  # None where there is no adversary
        finite = {name: torch.isfinite(scalars[name]) for name in (*objectives, ADVERSARY) if name in scalars}
        bad = any_rank(_not_all(finite), self._world)
        balance = None
        if not self._knows(bad):
            balance = self.balancer.backward(objectives)
            scalars["gradient_norm"] = self._clip(MODEL, MATRICES)
            finite |= {f"gradient of {n}": torch.isfinite(balance.norms[i]) for i, n in enumerate(OBJECTIVES)}
            finite["gradient of the update"] = torch.isfinite(scalars["gradient_norm"])
            critic_waits: Tensor | None = None  # stays so where it is known to take no step
            if against is not None and not self._knows(wins := self._critic_wins(scalars)):
                critic_waits = wins
                scalars["discriminator_gradient_norm"] = self._critic_backward(against)
                finite[f"gradient of {ADVERSARY}"] = torch.isfinite(scalars["discriminator_gradient_norm"])
            bad = bad | _not_all(finite)
            self._apply(bad, MODEL, MATRICES)
            if critic_waits is not None:
                self._apply(bad | critic_waits, CRITIC)
            if output.judged is not None:
                self._critic_again(output.judged, bad)
            self.model.prior.follow(output.latents.detach())
            self._remember(batch, output, bad)
            self._rehearse(beta, bad)
            # An idle component of the mixture moves where it is needed, which gradients alone do not make it do.
            if self.balancer.step % RELOCATE_EVERY == 0:
                self.model.prior.relocate(output.latents.detach(), output.prior.detach(), unless=bad)
        self.average.follow()
        self._guard.restore_if(bad)
        broadcast_from_first(self.model.buffers(), self._world)
        return Outcome(scalars, finite, bad, balance)

    def consolidate(self, album: Album, unseen: Album | None = None, *, lr_factor: float, beta: float) -> Outcome:
        """While perception rests, dynamics and prior learn from its latents, which no longer change, and the decoder
        from what they guess.

        Where perception learns, dynamics runs after latents that move, and has to do with the few clips that were
        watched since they last moved far. The context is heard from now on.

        Args:
            unseen: episodes that nothing is learned from but how much the matrices of dynamics should decay, and how
                far it should believe the context.
        """
        self._set_rates(lr_factor)
        self._guard.remember()
        model, settings = self.model, self.config.optimizer
        loss = replace(self.config.loss, beta=beta)
        scalars: dict[str, Tensor] = {}

        def dynamics() -> Tensor:
            seen, _ = album.draw(settings.consolidation_clips)
            objective = rehearse_dynamics(model, seen, loss, WHOLE_HALF_QUARTER)
            scalars[REHEARSAL] = objective.detach()
            return objective

        def decoder() -> Tensor:
            seen, windows = album.draw(self.config.data.batch_size)
            objective, parts = rehearse_decoder(model, seen, partial(album.frames, windows), loss)
            scalars.update(parts)
            return objective

        if unseen is not None:
            scalars[UNSEEN] = self._follow_unseen(unseen, loss)
            scalars |= {"dynamics_decay": self.decay.as_set, "context_heed": model.core.heed.clone()}
        bad = torch.zeros((), dtype=torch.bool, device=model.device)
        times, precision = settings.consolidation_rehearsals, self._rest_precision
        # AdamW has what hears the context: Muon moves a map in all directions alike, also where that tells nothing.
        learners = dynamics_parameters(model) + hearing_parameters(model)
        bad = self._again(dynamics, learners, times, bad, precision)
        bad = self._again(decoder, decoder_parameters(model), 1, bad, self._precision)
        self.average.follow()
        self._guard.restore_if(bad)
        broadcast_from_first(model.buffers(), self._world)
        finite = {name: torch.isfinite(value) for name, value in scalars.items() if name != UNSEEN}
        finite["gradient of the rehearsals"] = ~bad
        return Outcome(scalars, finite, bad, None, headline=REHEARSAL)

    def _follow_unseen(self, unseen: Album, loss: LossConfig) -> Tensor:
        """Move the weight decay of dynamics, and how far it believes the context, towards what foretells unseen clips
        better; their loss as it is."""
        for parameter in generator_parameters(self.model):
            parameter.grad = None
        with autocast(self.model.device, self._rest_precision):
            seen, _ = unseen.draw(self.config.optimizer.rehearsal_clips)
            objective = rehearse_dynamics(self.model, seen, loss, WHOLE_HALF_QUARTER)
        asked = self._dynamics + hearing_parameters(self.model)
        objective.backward(inputs=asked)  # type: ignore[no-untyped-call]
        average_gradients(asked, self._world)
        self.decay.follow()
        follow_heed(self.model.core, self.config.optimizer.dynamics_decay_step)
        return objective.detach()

    def _remember(self, batch: Mapping[str, Tensor], output: SequenceOutput, bad: Tensor) -> None:
        """Keep the latents of the clips, and as many of their frames as a step decodes."""
        seen = (output.latent_mean, output.latent_log_var, output.context, batch["actions"], batch["is_first"])
        self.memory.clips.add(Recollection(*(x.detach() for x in seen)), bad)
        frames = batch["observations"]
        at = placed(spread_out(frames.shape[1], self.config.loss), frames)
        self.memory.frames.add(Glimpses(frames[:, at].flatten(0, 1)), bad)

    def _rehearse(self, beta: float, bad: Tensor) -> None:
        """Perception and dynamics learn again from what was watched lately, at a fraction of the price of a step."""
        model, memory, settings = self.model, self.memory, self.config.optimizer
        loss = replace(self.config.loss, beta=beta)

        def perception() -> Tensor:
            return rehearse_perception(model, memory.frames.draw(memory.frames.batch_size), loss)

        def dynamics() -> Tensor:
            return rehearse_dynamics(model, memory.clips.draw(settings.rehearsal_clips), loss)

        precision = self._precision
        bad = self._again(perception, perception_parameters(model), settings.second_looks, bad, precision)
        self._again(dynamics, dynamics_parameters(model), settings.rehearsals, bad, precision)

    def _again(
        self, objective: Callable[[], Tensor], learners: list[nn.Parameter], times: int, bad: Tensor, precision: str
    ) -> Tensor:
        """Updates of these parameters by one objective; what was `bad` before, or has become so."""
        for _ in range(times):
            if self._knows(bad):
                break
            for parameter in generator_parameters(self.model):
                parameter.grad = None
            with autocast(self.model.device, precision):
                loss = objective()
            loss.backward(inputs=learners)  # type: ignore[no-untyped-call]
            average_gradients(learners, self._world)
            norm = self._clip(MODEL, MATRICES)
            bad = bad | any_rank(~torch.isfinite(loss.detach()), self._world) | ~norm.isfinite()
            self._apply(bad, MODEL, MATRICES)
        return bad

    def _critic_again(self, judged: Judged, bad: Tensor) -> None:
        """The critic's further steps on what it has judged once (n_critic of them in all)."""
        for _ in range(self.config.optimizer.n_critic - 1):
            if self._knows(bad):
                return
            with autocast(self.model.device, self._precision):
                loss, stats = discriminator_loss(self.model.discriminator, judged.real, judged.made.detach())
            wins = self._critic_wins(stats)
            if self._knows(wins):
                return
            norm = self._critic_backward(loss)
            self._apply(bad | wins | any_rank(~torch.isfinite(loss.detach()), self._world) | ~norm.isfinite(), CRITIC)

    def _critic_wins(self, stats: Mapping[str, Tensor]) -> Bool[Tensor, ""]:
        """Whether the critic is right so often that it takes no step until the model has caught up.

        One that always wins teaches nothing: whatever the model makes, it is told the same.
        """
        right = (stats["disc_real_accuracy"] + stats["disc_fake_accuracy"]) / 2
        return any_rank(right > self.config.optimizer.critic_limit, self._world)

    def _critic_backward(self, loss: Tensor) -> Tensor:
        """Fill in the critic's gradients; their norm before clipping."""
        self.optimizers[CRITIC].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.model.discriminator.parameters(), self._world)
        return self._clip(CRITIC)

    @torch.no_grad()
    def _clip(self, *names: str) -> Tensor:
        groups = [group for name in names for group in self.optimizers[name].param_groups]
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad.detach() for p in parameters]
        norms = torch.stack(torch._foreach_norm(gradients))
        allowed = self.config.optimizer.grad_clip * torch.stack(
            torch._foreach_norm([p.detach() for p in parameters])
        ).clamp_min(SMALLEST)
        torch._foreach_mul_(gradients, list((allowed / norms.clamp_min(1e-12)).clamp_max(1.0)))
        return torch.linalg.vector_norm(norms)

    def _apply(self, bad: Tensor, *names: str) -> None:
        """Take the steps of optimizers, unless they are `bad`: they read that where it lies."""
        for name in names:
            optimizer = self.optimizers[name]
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.step()

    def _knows(self, bad: Tensor) -> bool:
        """Whether a step is known to be bad at no cost: on the CPU. A GPU goes on, and masks what it did."""
        return not bad.is_cuda and bool(bad)

    def _set_rates(self, factor: float) -> None:
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._peaks[name] * factor
        # An optimizer that was given its state back has copied its groups, and would not see this one change.
        self.optimizers[MATRICES].param_groups[0]["weight_decay"] = self.decay.value


def _adamw(
    learning_rate: float, decay: float, parameters: Sequence[nn.Parameter], beta2: float = 0.999
) -> torch.optim.AdamW:
    """AdamW in one fused kernel; matrices and filters decay, biases and gains do not."""
    decaying, others = ([p for p in parameters if (p.ndim >= 2) == large] for large in (True, False))
    groups = [{"params": decaying, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=(0.9, beta2), fused=True)


def _not_all(finite: Mapping[str, Tensor]) -> Tensor:
    return ~torch.stack(list(finite.values())).all()
