"""The weights that a run hands on: a moving average of those that learn.

The rate of learning keeps weights in motion around where they are best. Their average lies nearer to it than any of
them, as if the rate had been brought down to nothing, and knows the training episodes less by heart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """A moving average of a model's weights over the last part of the training so far.

    Step t counts in proportion to t^power (the power function average of Karras et al., 2024, arXiv 2312.02696): so the
    weights of step t are 1 / (power + 2) of t old in the mean, after a hundred steps as after a million.

    Args:
        model: the model that learns.
        power: larger is younger; infinite are the weights themselves.
    """

    def __init__(self, model: nn.Module, power: float) -> None:
        self._model, self._power = model, power
        self._means = [parameter.detach().clone() for parameter in model.parameters()]
        self.steps = 0

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        share = 1 - (1 - 1 / self.steps) ** (self._power + 1)
        torch._foreach_lerp_(self._means, [parameter.detach() for parameter in self._model.parameters()], share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """For a while the model has the average's weights: to look at, draw and save."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for mean, parameter in zip(self._means, self._model.parameters(), strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)

    @torch.no_grad()
    def restart(self, steps: int) -> None:
        """Take the model's weights of now for the average after so many steps."""
        for mean, parameter in zip(self._means, self._model.parameters(), strict=True):
            mean.copy_(parameter)
        self.steps = steps

    @torch.no_grad()
    def settle(self) -> None:
        """The model goes on from the average, which begins anew."""
        for mean, parameter in zip(self._means, self._model.parameters(), strict=True):
            parameter.copy_(mean)
        self.steps = 0

    def learning(self) -> dict[str, Tensor]:
        """While the average is in place: the weights that learn, by name."""
        names = (name for name, _ in self._model.named_parameters())
        return dict(zip(names, self._means, strict=True))
