"""What unseen clips decide: how much the matrices of dynamics forget, and how far dynamics believes the context.

Nothing else is learned from those. With little decay dynamics learns its clips by heart, with much it learns slowly,
and where the two meet depends on the task: a walker's falls want ten times what a cart's swing can bear.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aime.config import OptimizerConfig
from aime.dynamics import RecurrentCore

LEAST_LOST, MOST_LOST = 0.0004, 0.2
"""Share of a matrix that decay takes away in one update at the peak rate, at least and at most, where it is found."""

LEAST_HEED = 0.001
"""What is left at least of the context: it may be found to be worth more later."""


class FoundDecay:
    """A decoupled weight decay δ of matrices that Muon moves, begun at a setting.

    An update leaves a matrix W smaller by η δ W, so that a little more of δ changes the loss L of unseen clips by
    −η ⟨∇L, W⟩: the hypergradient of one update (Luketina et al., 2016, arXiv 1511.06727). Its sign alone counts.

    Args:
        matrices: what decays, as one.
        settings: `dynamics_decay`, which is counted by `learning_rate` (AdamW moved these matrices once, and runs of
            that time go on with as much of it), `dynamics_decay_step` and the rates.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], settings: OptimizerConfig) -> None:
        self._matrices = matrices
        self._step = settings.dynamics_decay_step
        self._counted = settings.muon_learning_rate / settings.learning_rate
        self._first = settings.dynamics_decay / self._counted
        self._least, self._most = (lost / settings.muon_learning_rate for lost in (LEAST_LOST, MOST_LOST))
        self.value = torch.tensor(self._first, device=matrices[0].device)
        """δ by Muon's rate, a tensor that stays where it is, so that nobody has to wait for it."""

    @property
    def as_set(self) -> Tensor:
        """δ as the setting counts it."""
        return self.value * self._counted

    def restart(self) -> None:
        """Begin at the setting again."""
        self.value.fill_(self._first)

    @torch.no_grad()
    def follow(self) -> None:
        """Move a step by the gradients of the loss of unseen clips, which lie in the matrices' `grad`.

        Gradients that are not numbers say nothing.
        """
        gain = torch.stack([(p.grad * p).sum() for p in self._matrices if p.grad is not None]).sum()
        step = self._step * gain.sign().nan_to_num(0.0)
        self.value.mul_(step.exp()).clamp_(self._least, self._most)


@torch.no_grad()
def follow_heed(core: RecurrentCore, step: float) -> None:
    """Believe the context a step more or less, by the gradient of the loss of unseen clips in its map's `grad`.

    By its many numbers dynamics comes to know its clips by heart, where it tells little else. With a little less of
    their map W the loss L of unseen clips changes by −⟨∇L, W⟩; its sign alone counts, and one that is no number says
    nothing.
    """
    weight = core.from_context.weight
    if weight.grad is not None:
        gain = (weight.grad * weight).sum().sign().nan_to_num(0.0)
        core.heed.mul_((-step * gain).exp()).clamp_(LEAST_HEED, 1.0)
