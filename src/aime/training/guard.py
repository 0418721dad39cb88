"""Steps that went wrong: undo what they did to the buffers, count them, and stop with a diagnosis when they go on.

A loss or gradient that is not finite must not reach the weights, nor may the running averages inside the model (the
codebook's, the variances') keep what a bad forward pass put there. Whether a step was bad is known on its device; on a
GPU nothing waits for the answer: the update is masked there, and the host reads the answer two steps later.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from aime.errors import TrainingError

MAX_SKIPPED = 20
"""Bad steps in a row after which a run stops."""
GPU_LAG = 2
"""Steps that a GPU's answer may take to arrive."""


class BufferGuard:
    """Remembers a model's buffers as they were before a step, to put them back if the step was bad."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._buffers: list[Tensor] = []
        self._before: list[Tensor] = []

    @torch.no_grad()
    def remember(self) -> None:
        """Copy the buffers, into the same memory each time."""
        buffers = list(self._model.buffers())
        if [b.data_ptr() for b in buffers] != [b.data_ptr() for b in self._buffers]:
            self._buffers, self._before = buffers, [b.clone() for b in buffers]
        for before, buffer in zip(self._before, buffers, strict=True):
            before.copy_(buffer)

    @torch.no_grad()
    def restore_if(self, bad: Bool[Tensor, ""]) -> None:
        """Put the buffers back where `bad` is true."""
        current = list(self._model.buffers())  # a module may have put a new tensor in a buffer's place
        for buffer, before in zip(current, self._before, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))


class SkippedSteps:
    """Counts the steps that were skipped, and stops a run that skips too many in a row.

    Args:
        device: where the answers come from.
    """

    def __init__(self, device: torch.device) -> None:
        self.total = 0
        self.in_row = 0
        self._causes: Counter[str] = Counter()
        self._parts: Counter[str] = Counter()
        self._lag = GPU_LAG if device.type == "cuda" else 0
        self._pending: deque[tuple[list[str], list[str], Tensor, Any]] = deque()

    def see(self, finite: Mapping[str, Bool[Tensor, ""]], parts: Mapping[str, Tensor] | None = None) -> None:
        """Take in a step.

        Args:
            finite: which losses and gradients were finite; a step with one that was not was skipped.
            parts: further scalars, to say in a diagnosis where it came from.

        Raises:
            NotFinite: `MAX_SKIPPED` steps in a row were skipped.
        """
        parts = parts or {}
        flags = torch.stack([*finite.values(), *(torch.isfinite(value) for value in parts.values())])
        event = None
        if flags.is_cuda:
            host = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True)
            host.copy_(flags, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            flags = host
        self._pending.append((list(finite), list(parts), flags, event))
        while len(self._pending) > self._lag:
            self._read(*self._pending.popleft())

    def settle(self) -> None:
        """Wait for the answers that are still on their way."""
        while self._pending:
            self._read(*self._pending.popleft())

    def _read(self, causes: list[str], parts: list[str], flags: Tensor, event: Any) -> None:
        if event is not None:
            event.synchronize()
        bad = [name for name, fine in zip(causes + parts, flags.tolist(), strict=True) if not fine]
        if not set(bad) & set(causes):
            self.in_row = 0
            self._causes.clear()
            self._parts.clear()
            return
        self.total += 1
        self.in_row += 1
        self._causes.update(name for name in bad if name in causes)
        self._parts.update(name for name in bad if name not in causes)
        if self.in_row >= MAX_SKIPPED:
            raise NotFinite(self._causes, self._parts)

    def state_dict(self) -> dict[str, Any]:
        """The counts, as JSON values."""
        counts = {"causes": dict(self._causes), "parts": dict(self._parts)}
        return {"total": self.total, "in_row": self.in_row} | counts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self.total, self.in_row = state["total"], state["in_row"]
        self._causes, self._parts = Counter(state["causes"]), Counter(state["parts"])


class NotFinite(TrainingError):
    """Too many bad steps in a row; `causes` and `parts` count what was not finite."""

    def __init__(self, causes: Mapping[str, int], parts: Mapping[str, int] | None = None) -> None:
        self.causes, self.parts = dict(causes), dict(parts or {})
        super().__init__(f"{MAX_SKIPPED} steps in a row were not finite: {', '.join(causes)}")


def diagnosis(error: NotFinite, step: int, last_good: object, *, bf16_by: str | None) -> TrainingError:
    """What a person needs to know when a run stops: what went wrong where, what is safe, what to try.

    Args:
        error: what `SkippedSteps` raised.
        step: where the run stopped.
        last_good: the last checkpoint, or None.
        bf16_by: the flag that decides about bf16 in such a step, where it was in bf16.
    """
    losses = [name for name in error.causes if not name.startswith("gradient")]
    what = (
        f"not finite were {', '.join(losses)}"
        if losses
        else f"the losses were finite, but not {', '.join(error.causes)}"
    )
    if losses and error.parts:
        what += f"; among their parts: {', '.join(error.parts)}"
    remedies = ["a lower --learning-rate", "a lower --grad-clip", "a longer --warmup-epochs"]
    if bf16_by is not None:
        remedies.insert(0, f"{bf16_by} float32")
    safe = f"the last good checkpoint is {last_good}" if last_good else "no checkpoint was written before"
    start = f" with --load-checkpoint {last_good}" if last_good else ""
    return TrainingError(
        f"training stopped at step {step}: {MAX_SKIPPED} steps in a row gave no usable gradient ({what}). Those steps "
        f"changed no weight, and {safe}. Try, in a new --run-dir{start}: {', '.join(remedies)}; and look for values "
        "outside their range in the data"
    )
