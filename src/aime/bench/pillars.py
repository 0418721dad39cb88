"""Where the time of a training step goes, by part and pillar.

Some steps are profiled. Each operation's own time (on a GPU: that of the kernels it started) counts for the part in
whose forward call it ran; hooks on the parts mark these calls. A backward operation counts for the part whose forward
made its node of the graph: the profiler records the same sequence number for both. So every moment of a step counts
exactly once, and a part has its share of all five backward passes. What ran in no part's call is told apart by name
(optimizers, the balancer's algebra) or is the rest: likelihoods, divergences and the checks around them.

Recording costs some microseconds for each operation, so parts of many small operations look a little worse than they
are.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from aime.bench.figures import Figure
from aime.bench.subject import Subject

PILLARS: dict[str, tuple[str, ...]] = {
    "perception": ("tokenizer", "perceiver", "encoder", "decoder"),
    "attention": ("slot_attention", "schema"),
    "belief": ("posterior", "prior"),
    "dynamics": ("core", "context_head"),
    "learning": ("discriminator", "balancer", "optimizers"),
}
"""The parts of each pillar; all but the last two are modules of the world model."""
REST = "rest"
STEPS = 3
"""Steps to profile at most: each leaves tens of thousands of events."""
_MARK = "part "
_OPTIMIZER = "Optimizer.step"
_BACKWARD = 1  # torch's RecordScope.BACKWARD_FUNCTION: a node of the graph at work

Shares = dict[str, tuple[float, float]]
"""Part to its forward and backward share of a step; all together they sum to 1."""


def measure_pillars(subject: Subject, rounds: int) -> Iterator[Figure]:
    """A figure for each part, its pillar before its name."""
    updater, batch = subject.updater(), subject.batch()

    def steps() -> None:
        for _ in range(min(rounds, STEPS)):
            updater.step(batch, lr_factor=1.0, beta=1.0)

    steps()
    with ExitStack() as stack:
        stack.enter_context(marked(updater.model))
        stack.enter_context(marked_method(updater.balancer, "combine", "balancer"))
        shares = profiled(steps, subject.device)
    titles = {part: f"{pillar}: {part}" for pillar, parts in PILLARS.items() for part in parts}
    for part in (*titles, REST):
        forward, backward = shares.get(part, (0.0, 0.0))
        note = f"forward {forward:.1%}" if backward else ""
        yield Figure(titles.get(part, "the rest"), forward + backward, "share", note=note)


def profiled(run: Callable[[], object], device: torch.device) -> Shares:
    """The shares of whatever is marked in a call."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler says on stderr that it starts and stops
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded, record_function(f"{_MARK}{REST}"):
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return shares_of(list(recorded.events() or []), "device" if device.type == "cuda" else "cpu")


def shares_of(events: list[FunctionEvent], clock: str) -> Shares:
    """The shares of the parts in a recording, by the time on the CPU or on the device."""
    on_host = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    # Operations that make no node bear the number of the next node as well: its maker is the last to bear it.
    makers: dict[int, FunctionEvent] = {}
    for event in sorted(on_host, key=lambda e: e.time_range.start):
        if event.scope != _BACKWARD and event.sequence_nr >= 0 and _node(event) is None:
            makers[event.sequence_nr] = event
    totals: dict[tuple[str, bool], float] = defaultdict(float)
    for event in on_host:
        own = event.self_device_time_total if clock == "device" else event.self_cpu_time_total
        if own <= 0:
            continue
        node = _node(event)
        maker = event if node is None else makers.get(node.sequence_nr)
        totals[_part(maker), node is not None] += own
    whole = sum(totals.values())
    parts = {part for part, _ in totals}
    return {part: (totals[part, False] / whole, totals[part, True] / whole) for part in parts}


def _lineage(event: FunctionEvent | None) -> Iterator[FunctionEvent]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _node(event: FunctionEvent) -> FunctionEvent | None:
    """The node of the graph that an event worked for; None in a forward pass, or between nodes."""
    for each in _lineage(event):
        if each.scope == _BACKWARD:
            return each
    # The engine's own work around a node: summing up gradients, and handing them on.
    return next((child for child in event.cpu_children if child.scope == _BACKWARD), None)


def _part(event: FunctionEvent | None) -> str:
    """The innermost mark around an event."""
    for each in _lineage(event):
        if each.name.startswith(_MARK):
            return each.name.removeprefix(_MARK)
        if each.name.startswith(_OPTIMIZER):
            return "optimizers"
    return REST


@contextmanager
def marked(model: nn.Module) -> Iterator[None]:
    """Mark the forward calls of a model's children in the profiler's recording by their names."""
    open_marks: list[record_function] = []

    def begin(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            open_marks.append(record_function(f"{_MARK}{name}"))
            open_marks[-1].__enter__()

        return hook

    def end(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    handles = []
    for name, child in model.named_children():
        handles += [child.register_forward_pre_hook(begin(name)), child.register_forward_hook(end, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def marked_method(owner: object, method: str, name: str) -> Iterator[None]:
    """Mark the calls of one object's method."""
    plain = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(f"{_MARK}{name}"):
            return plain(*args, **kwargs)

    setattr(owner, method, call)
    try:
        yield
    finally:
        delattr(owner, method)
