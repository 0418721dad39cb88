"""What the numbers of a physical state are, and how a state is put so that a linear map can speak of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from aime.data.store import EpisodeStore


@dataclass(frozen=True)
class StateColumns:
    """The numbers of a state by name, and which of them are angles that may go round."""

    names: Sequence[str]
    turning: Sequence[int] = ()
    """Angles of joints without limits: they grow by 2π with every turn, of which no frame tells."""

    @classmethod
    def of(cls, store: EpisodeStore, count: int) -> StateColumns:
        """Those of a store's states: ``qpos 0``, … where it tells how many there are of each, else ``state 0``, …"""
        details = store.index.info.details
        names = [f"{part} {index}" for part, size in details.get("state", {}).items() for index in range(size)]
        if len(names) != count:
            return cls([f"state {index}" for index in range(count)])
        return cls(names, [index for index in details.get("turning", ()) if 0 <= index < count])

    def visible(self, states: Float[Tensor, "*batch states"]) -> Float[Tensor, "*batch visible"]:
        """The states with the sine and the cosine of each turning angle in its place."""
        columns = []
        for index in range(states.shape[-1]):
            column = states[..., index : index + 1]
            columns += [column.sin(), column.cos()] if index in self.turning else [column]
        return torch.cat(columns, dim=-1)

    def visible_names(self) -> list[str]:
        """What the numbers of `visible` are called."""
        names: list[str] = []
        for index, name in enumerate(self.names):
            names += [f"sin {name}", f"cos {name}"] if index in self.turning else [name]
        return names
