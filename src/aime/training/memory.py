"""What was watched lately, to learn from again between two steps (`aime.rehearsal`).

    memory = Memory()
    memory.clips.add(recollection, bad)     # after each step; the oldest is forgotten
    memory.clips.draw(16)                   # clips at random

A step that watches clips costs some ten times what dynamics costs by itself, or encoder and decoder on single frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor

from aime.rehearsal import Glimpses, Recollection

Remembered = TypeVar("Remembered", Recollection, Glimpses)


class Ring(Generic[Remembered]):
    """The last batches of something; what is drawn of it is not too old.

    Args:
        kind: what a batch is: a dataclass of tensors, with one row for each thing that can be drawn.
        batches: how many it holds.
        fresh: of how many of the latest it always draws …
        share: … and of how many more as training goes on, as a share of all that were added.
    """

    def __init__(self, kind: type[Remembered], batches: int, fresh: int, share: float = 0.0) -> None:
        self.kind: type[Remembered] = kind
        self.batches, self.fresh, self.share = batches, fresh, share
        self._ring: dict[str, Tensor] = {}
        self._added = 0

    def __len__(self) -> int:
        """Rows that it draws from."""
        return self._recent() * self.batch_size

    @property
    def batch_size(self) -> int:
        """Rows in a batch; 0 before the first."""
        return next(iter(self._ring.values())).shape[1] if self._ring else 0

    def _recent(self) -> int:
        """Batches that are not too old to be drawn."""
        return min(self._added, self.batches, max(self.fresh, int(self.share * self._added)))

    @torch.no_grad()
    def add(self, batch: Remembered, bad: Bool[Tensor, ""]) -> None:
        """Remember a batch in place of the oldest, unless it is `bad`. A batch of another shape makes it start anew."""
        if not bad.is_cuda and bad:
            return
        new = asdict(batch)
        if {name: x.shape for name, x in new.items()} != {name: x.shape[1:] for name, x in self._ring.items()}:
            self._ring = {name: x.new_zeros(self.batches, *x.shape) for name, x in new.items()}
            self._added = 0
        place = self._added % self.batches
        for name, value in new.items():
            slot, last = self._ring[name][place], self._ring[name][place - 1]
            if bad.is_cuda and self._added < self.batches:  # nothing is there to stay: the last one is held twice
                slot.copy_(last)
            # What stays on the host while a GPU computes holds no results that could be bad; it is not waited for.
            slot.copy_(torch.where(bad, slot, value) if bad.device == slot.device else value)
        self._added += 1

    def draw(self, rows: int) -> Remembered:
        """Rows at random, each that is not too old as likely as the next; the same one may be drawn twice."""
        chosen = torch.randint(len(self), (rows,))
        batches = (self._added - 1 - chosen // self.batch_size) % self.batches
        places = chosen % self.batch_size
        at = {
            device: (batches.to(device, non_blocking=True), places.to(device, non_blocking=True))
            for device in {x.device for x in self._ring.values()}
        }
        return self.kind(**{name: x[at[x.device]] for name, x in self._ring.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs to go on as if it had never stopped."""
        return {**self._ring, "added": torch.tensor(self._added)}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from a `state_dict`, on this device."""
        rest = {name: value for name, value in state.items() if name != "added"}
        # Episode starts stay on the host, where the core looks for resets.
        self._ring = {name: value.clone().to("cpu" if name == "is_first" else device) for name, value in rest.items()}
        self._added = int(state["added"])


class Memory:
    """Clips as latents, and single frames.

    Latents age as the encoder learns, fast at first and slower later: what is drawn is at most as old as a share of the
    training so far. Frames do not age; how many are kept is a matter of a checkpoint's size (12 KiB each at 64×64).
    """

    def __init__(self) -> None:
        self.clips = Ring(Recollection, batches=64, fresh=16, share=1 / 8)
        self.frames = Ring(Glimpses, batches=32, fresh=32)

    def _rings(self) -> dict[str, Ring[Recollection] | Ring[Glimpses]]:
        return {"clips": self.clips, "frames": self.frames}

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs to go on as if it had never stopped."""
        return {f"{of}.{name}": x for of, ring in self._rings().items() for name, x in ring.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from a `state_dict`, on this device."""
        for of, ring in self._rings().items():
            own = {name.removeprefix(f"{of}."): x for name, x in state.items() if name.startswith(f"{of}.")}
            ring.load_state_dict(own, device)
