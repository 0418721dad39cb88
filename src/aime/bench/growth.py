"""How a training step grows with the length of its clip: linear growth keeps a frame's cost where it was."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aime.bench.config import GROWTH
from aime.bench.figures import Figure, NotMeasured
from aime.bench.memory import SHORTEST, in_a_fresh_process, memory_per_frame
from aime.bench.subject import Subject
from aime.bench.timing import take_turns


def measure_growth(subject: Subject, rounds: int) -> Iterator[Figure]:
    """Seconds and bytes per frame of a training step on one clip, as multiples of those at the shortest length.

    The Perceiver's window stays as long as it is. Bytes per frame are what frames add: weights, gradients and
    optimizers, which do not grow, are not shared out among them.
    """
    updater = subject.updater()
    batches = {time: subject.batch(1, time) for time in GROWTH}
    runs = {time: lambda batch=batch: updater.step(batch, lr_factor=1.0, beta=1.0) for time, batch in batches.items()}
    times = take_turns(runs, rounds, subject.device)
    del updater, runs
    first = GROWTH[0]
    yield Figure.taken(f"a frame of {first}", times[first].each(1 / first))
    for time in GROWTH[1:]:
        yield Figure.ratio(f"a frame of {time}, in time", times[time], times[first], scale=first / time)
    try:
        bytes_at = {t: in_a_fresh_process(memory_per_frame, subject, t, torch.get_num_threads()) for t in GROWTH}
    except NotMeasured as why:
        yield Figure("memory of a frame", None, "B", note=str(why))
        return
    if bytes_at[first] <= 0:
        yield Figure("memory of a frame", None, "B", note=f"{first} frames need no more than {SHORTEST}")
        return
    yield Figure(f"memory of a frame of {first}", bytes_at[first], "B")
    for time in GROWTH[1:]:
        yield Figure(f"a frame of {time}, in memory", bytes_at[time] / bytes_at[first], "times")
