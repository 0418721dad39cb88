"""Means over the steps since the last line of the log, gathered where the numbers are, without waiting for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor


class MeanMeter:
    """Running means of scalars on one device; nothing is copied to the host before `means` asks for it.

    A value that is not finite counts for nothing, and a step that was skipped neither.
    """

    def __init__(self, device: torch.device) -> None:
        self._names: list[str] = []
        self._sums = torch.zeros(2, 0, dtype=torch.float64, device=device)

    def add(self, values: Mapping[str, Tensor], counts: Bool[Tensor, ""]) -> None:
        """Take in one step.

        Args:
            values: scalars by name; names may come and go.
            counts: false for a step that was skipped.
        """
        new = [name for name in values if name not in self._names]
        if new:
            self._names += new
            self._sums = torch.cat([self._sums, self._sums.new_zeros(2, len(new))], dim=1)
        nothing = self._sums.new_full((), float("nan"))
        row = torch.stack([values.get(name, nothing).detach().to(nothing) for name in self._names])
        valid = torch.isfinite(row) & counts
        self._sums += torch.stack([torch.where(valid, row, 0.0), valid.to(row.dtype)])

    def means(self) -> dict[str, float]:
        """The mean of each scalar since the last `reset`; nan where no step counted."""
        sums, counts = self._sums.tolist()
        return {
            name: total / count if count else float("nan")
            for name, total, count in zip(self._names, sums, counts, strict=True)
        }

    def reset(self) -> None:
        """Begin again, also with the names: a run's last part has others."""
        self._names = []
        self._sums = self._sums.new_zeros(2, 0)

    def state_dict(self) -> dict[str, Any]:
        """The sums so far as JSON values, exact: a checkpoint between two lines of the log keeps them."""
        return {"names": list(self._names), "sums": self._sums.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self._names = list(state["names"])
        self._sums = torch.tensor(state["sums"], dtype=torch.float64, device=self._sums.device).reshape(2, -1)
