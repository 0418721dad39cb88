"""What was watched lately, as latents: dynamics rehearses on it between two looks at frames.

    memory.add(recollection, bad)       # after each step; the oldest is forgotten
    memory.draw(16)                     # clips at random, for `losses.rehearsal`

A step that sees frames costs some ten times what dynamics costs. Watched latents are kept, so that dynamics can learn
from them several times. They age as the encoder learns, fast at first and slower later, so what is drawn is at most as
old as a share of the training so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import torch
from jaxtyping import Bool
from torch import Tensor

from aime.losses import Recollection


class LatentMemory:
    """A ring of the last batches of watched latents.

    Args:
        batches: how many it holds.
        fresh: of how many of the latest it always draws …
        share: … and of how many more as training goes on, as a share of all that were added.
    """

    def __init__(self, batches: int = 64, fresh: int = 16, share: float = 1 / 8) -> None:
        self.batches, self.fresh, self.share = batches, fresh, share
        self._ring: dict[str, Tensor] = {}
        self._added = 0

    def __len__(self) -> int:
        """Clips that it draws from."""
        return self._recent() * self._ring["mean"].shape[1] if self._ring else 0

    def _recent(self) -> int:
        """Batches that are not too old to be drawn."""
        return min(self._added, self.batches, max(self.fresh, int(self.share * self._added)))

    @torch.no_grad()
    def add(self, seen: Recollection, bad: Bool[Tensor, ""]) -> None:
        """Remember a batch in place of the oldest, unless it is `bad`. A batch of another shape makes it start anew."""
        fresh = asdict(seen)
        if {name: x.shape for name, x in fresh.items()} != {name: x.shape[1:] for name, x in self._ring.items()}:
            self._ring = {name: x.new_zeros(self.batches, *x.shape) for name, x in fresh.items()}
            self._added = 0
        place = self._added % self.batches
        for name, value in fresh.items():
            slot = self._ring[name][place]
            # What stays on the host while a GPU computes holds no results that could be bad; it is not waited for.
            slot.copy_(torch.where(bad, slot, value) if bad.device == slot.device else value)
        self._added += 1

    def draw(self, clips: int) -> Recollection:
        """Clips at random, each that is not too old as likely as the next; the same one may be drawn twice."""
        batch = self._ring["mean"].shape[1]
        chosen = torch.randint(len(self), (clips,))
        rows, columns = (self._added - 1 - chosen // batch) % self.batches, chosen % batch
        return Recollection(**{n: x[rows.to(x.device), columns.to(x.device)] for n, x in self._ring.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs to go on as if it had never stopped."""
        return {**self._ring, "added": torch.tensor(self._added)}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from a `state_dict`, on this device."""
        rest = {name: value for name, value in state.items() if name != "added"}
        # Episode starts stay on the host, where the core looks for resets.
        self._ring = {name: value.clone().to("cpu" if name == "is_first" else device) for name, value in rest.items()}
        self._added = int(state["added"])
