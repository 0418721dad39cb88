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
from typing import Any, NamedTuple

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
_ENGINE = "autograd::engine::evaluate_function"
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
        shares = shares_of(recorded(steps, subject.device), own_time(subject.device))
    titles = {part: f"{pillar}: {part}" for pillar, parts in PILLARS.items() for part in parts}
    for part in (*titles, REST):
        forward, backward = shares.get(part, (0.0, 0.0))
        note = f"forward {forward:.1%}" if backward else ""
        yield Figure(titles.get(part, "the rest"), forward + backward, "share", note=note)


def recorded(run: Callable[[], object], device: torch.device) -> list[FunctionEvent]:
    """Every operation of a call, as the profiler saw it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler says on stderr that it starts and stops
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recording, record_function(f"{_MARK}{REST}"):
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return list(recording.events() or [])


def own_time(device: torch.device) -> Callable[[FunctionEvent], float]:
    """What an operation took by itself, in microseconds: on a GPU, the kernels that it started."""
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return lambda event: max(0.0, getattr(event, own))


def shares_of(events: list[FunctionEvent], weight: Callable[[FunctionEvent], float]) -> Shares:
    """The shares of the parts in a recording, each operation at its weight."""
    placed = sorted(_placed(events), key=lambda place: place.event.time_range.start)
    # Operations that make no node bear the number of the next node as well: its maker is the last to bear it.
    makers = {p.event.sequence_nr: p.part for p in placed if p.node is None and p.event.sequence_nr >= 0}
    totals: dict[tuple[str, bool], float] = defaultdict(float)
    for event, part, node in placed:
        totals[part if node is None else makers.get(node, REST), node is not None] += weight(event)
    whole = sum(totals.values())
    parts = {part for part, _ in totals}
    return {part: (totals[part, False] / whole, totals[part, True] / whole) for part in parts}


class _Place(NamedTuple):
    event: FunctionEvent
    part: str
    """The innermost mark around it."""
    node: int | None
    """The number of the node of the graph that it worked for; None in a forward pass."""


def _placed(events: list[FunctionEvent]) -> Iterator[_Place]:
    """Every event on the host, from the outermost inwards."""
    roots = [e for e in events if e.cpu_parent is None and e.device_type == torch.autograd.DeviceType.CPU]
    waiting = [_Place(root, REST, None) for root in roots]
    while waiting:
        event, part, node = waiting.pop()
        if event.name.startswith(_MARK):
            part = event.name.removeprefix(_MARK)
        elif event.name.startswith(_OPTIMIZER):
            part = "optimizers"
        if event.name.startswith(_ENGINE):
            # Around the node's own event: here gradients are summed up, too, and handed on.
            node = next((child.sequence_nr for child in event.cpu_children if child.scope == _BACKWARD), None)
        yield _Place(event, part, node)
        waiting += [_Place(child, part, node) for child in event.cpu_children]


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
