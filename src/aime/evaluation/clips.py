"""The clips that an evaluation is made on, and the predictions that need no model: they are the floor.

Clips are fixed by (split, length, count, seed): the same for every model and every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from aime.data.dataset import fixed_clips
from aime.data.store import EpisodeStore
from aime.errors import DataError


@dataclass(frozen=True)
class Clips:
    """Clips of equal length."""

    observations: UInt8[Tensor, "clips time 3 height width"]
    actions: Float[Tensor, "clips time action"]
    is_first: Bool[Tensor, "clips time"]
    episode: Int[Tensor, " clips"]
    """The episode that each clip comes from."""
    start: Int[Tensor, " clips"]
    """Its first frame there."""
    states: Float[Tensor, "clips time state"] | None = None
    segmentation: UInt8[Tensor, "clips time height width"] | None = None

    def __len__(self) -> int:
        return len(self.observations)

    def __getitem__(self, rows: slice | Tensor) -> Clips:
        return self._map(lambda values: values[rows])

    def to(self, device: torch.device) -> Clips:
        """The same clips on a device."""
        return self._map(lambda values: values.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Clips:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(value) for name, value in held.items() if value is not None})

    def batches(self, size: int, device: torch.device) -> Iterator[Clips]:
        """The clips in order, `size` at a time, on a device."""
        for start in range(0, len(self), size):
            yield self[start : start + size].to(device)


def load_clips(
    store: EpisodeStore, split: str, length: int, count: int, seed: int, keys: tuple[str, ...] = ("states",)
) -> Clips:
    """Fixed clips of a split; `keys` are loaded too where the store has them.

    Raises:
        DataError: if the split is empty, its episodes are too short, or it has fewer clips than `count`.
    """
    items = fixed_clips(store, split, length, count, seed, ("observations", "actions", "is_first", *keys))
    known = {f.name for f in fields(Clips)}
    clips = {name: value for name, value in items.items() if name in known}
    if "states" in clips:
        clips["states"] = clips["states"].float()
    return Clips(**clips)


def count_clips(store: EpisodeStore, split: str, length: int) -> int:
    """How many different clips of `length` frames a split has."""
    return sum(max(0, store.record(id).length - length + 1) for id in store.split(split))


def longest_episode(store: EpisodeStore, split: str) -> int:
    """Frames of the longest episode of a split."""
    return max(store.record(id).length for id in store.split(split))


def somebody_elses(episode: Int[Tensor, " clips"], seed: int) -> Int[Tensor, " clips"]:
    """For each clip another clip, from another episode wherever none holds more than half of them; each is used once.

    Raises:
        DataError: if there is only one clip.
    """
    clips = len(episode)
    if clips < 2:
        raise DataError("actions cannot be exchanged between clips when there is only one")
    shuffled = torch.randperm(clips, generator=torch.Generator().manual_seed(seed))
    order = shuffled[torch.argsort(episode[shuffled], stable=True)]
    # In the order of episodes, a step as long as the largest episode's share always leaves the episode.
    largest = int(torch.unique(episode, return_counts=True)[1].max())
    step = largest if 2 * largest <= clips else clips // 2
    partner = torch.empty_like(order)
    partner[order] = order.roll(-step)
    return partner


def copy_last(observations: Float[Tensor, "clips time 3 h w"], horizon: int) -> Float[Tensor, "clips horizon 3 h w"]:
    """The last frame watched, for every horizon."""
    return observations[:, -1:].expand(-1, horizon, -1, -1, -1)
