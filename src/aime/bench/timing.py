"""Seconds, fairly: a GPU is waited for, and whatever is compared takes turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """What several runs of one thing took, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def most(self) -> float:
        return max(self.seconds)

    def each(self, share: float) -> Timing:
        """The same for a share of what was done."""
        return Timing(tuple(share * taken for taken in self.seconds))


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call, from an idle device to an idle device."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def take_turns(runs: Mapping[Name, Callable[[], object]], rounds: int, device: torch.device) -> dict[Name, Timing]:
    """Time several things A B C A B C …, so that a busy moment harms them alike; one round before that warms up."""
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            taken = seconds(run, device)
            if turn > 0:
                times[name].append(taken)
    return {name: Timing(tuple(taken)) for name, taken in times.items()}
