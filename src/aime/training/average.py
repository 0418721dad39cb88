"""The weights that a run hands on: a moving average of those that learn.

The rate of learning keeps weights in motion around where they are best. Their average lies nearer to it than any of
them, as if the rate had been brought down to nothing, and knows the training episodes less by heart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        found: names of buffers that training finds as it finds weights, and that fit no other step's.
    """

    def __init__(self, model: nn.Module, power: float, found: Sequence[str] = ()) -> None:
        self._model, self._power, self._found = model, power, found
        self._means = [weight.clone() for weight in self._weights().values()]
        self.steps = 0

    def _weights(self) -> dict[str, Tensor]:
        """What is averaged, as it is now."""
        weights = {name: parameter.detach() for name, parameter in self._model.named_parameters()}
        return weights | {name: self._model.get_buffer(name) for name in self._found}

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        share = 1 - (1 - 1 / self.steps) ** (self._power + 1)
        torch._foreach_lerp_(self._means, list(self._weights().values()), share)

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
        for mean, weight in zip(self._means, self._weights().values(), strict=True):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)

    @torch.no_grad()
    def restart(self, steps: int) -> None:
        """Take the model's weights of now for the average after so many steps."""
        for mean, weight in zip(self._means, self._weights().values(), strict=True):
            mean.copy_(weight)
        self.steps = steps

    @torch.no_grad()
    def settle(self) -> None:
        """The model goes on from the average, which begins anew."""
        for mean, weight in zip(self._means, self._weights().values(), strict=True):
            weight.copy_(mean)
        self.steps = 0

    def learning(self) -> dict[str, Tensor]:
        """While the average is in place: the weights that learn, by name."""
        return dict(zip(self._weights(), self._means, strict=True))
