"""Peak memory, measured in a fresh process: what other measurements left behind does not count.

On a CPU it is how much the peak of the process' resident memory (VmHWM; `ru_maxrss` would start from the parent's)
rises above what it held with all of AIME imported; on a GPU it is the most that torch had allocated there.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from aime.bench.figures import NotMeasured
from aime.bench.subject import Subject
from aime.pages import keep_freed_memory

P = ParamSpec("P")
T = TypeVar("T")

OUT_OF_MEMORY = "out of memory; a smaller --batch-size may fit"
SHORTEST = 8
"""Frames of the clip that growth is measured from: it holds a whole dream, and all else that does not grow."""


def in_a_fresh_process(run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a module's function in a process that has done nothing before.

    Raises:
        NotMeasured: it ran out of memory, or was killed, as Linux does where memory runs out.
    """
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, initializer=keep_freed_memory) as pool:  # as `aime train` does
        try:
            return pool.submit(run, *args, **kwargs).result()
        except BrokenProcessPool:
            raise NotMeasured("the process that measured it was killed, most likely for want of memory") from None
        except (MemoryError, torch.OutOfMemoryError):
            raise NotMeasured(OUT_OF_MEMORY) from None


def training_memory(subject: Subject, threads: int) -> int:
    """Bytes that the model, its optimizers and two training steps need, at their peak."""
    torch.set_num_threads(threads)
    before = _peak(subject.device)
    step = subject.stepper()
    for _ in range(2):  # AdamW's moments are there from the first step's end
        step()
    return _peak(subject.device) - before


def memory_per_frame(subject: Subject, time: int, threads: int) -> float:
    """Bytes that each frame of a clip of `time` frames adds to the peak of a training step at batch 1."""
    torch.set_num_threads(threads)
    updater = subject.updater()
    peaks = []
    for frames in (SHORTEST, time):
        batch = subject.batch(1, frames)
        for _ in range(2):
            updater.step(batch, lr_factor=1.0, beta=1.0)
        peaks.append(_peak(subject.device))
    return (peaks[1] - peaks[0]) / (time - SHORTEST)


def _peak(device: torch.device) -> int:
    """The most bytes that this process has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise NotMeasured("this system does not tell the peak memory of a process (Linux does, in /proc)")
