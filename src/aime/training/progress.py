"""What a person sees while training: a bar on a terminal, now and then a line elsewhere; speed, time left, memory."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from aime.config import UNLIMITED_STEPS

log = logging.getLogger("aime")

LINE_SECONDS = 10.0
"""Least time between two lines where there is no terminal to draw a bar on."""


class Pace:
    """Speed over the last lines of the log, and the seconds of training so far."""

    def __init__(self, step: int, frames_per_step: int, elapsed: float = 0.0) -> None:
        self._made: float | None = time.perf_counter()
        self._before = elapsed - self._made
        self._stopped_at: float | None = None
        self._frames = frames_per_step
        self._marks = deque([(self.elapsed, step)], maxlen=11)

    @property
    def elapsed(self) -> float:
        """Seconds of training so far: those before a resume are included, those inside `paused` are not."""
        return self._before + (time.perf_counter() if self._stopped_at is None else self._stopped_at)

    def begin(self) -> None:
        """Training begins now: what was done since the clock was made is no training."""
        if self._made is not None:
            self._before -= time.perf_counter() - self._made
            self._made = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside is no training: the clock stands still."""
        self._stopped_at = time.perf_counter()
        try:
            yield
        finally:
            self._before -= time.perf_counter() - self._stopped_at
            self._stopped_at = None

    def mark(self, step: int) -> dict[str, float]:
        """Take the time at a step; what was measured, by the names it has in the log."""
        now = self.elapsed
        then, since = self._marks[-1]
        self._marks.append((now, step))
        figures = {
            "frames_per_second": self._frames / self.step_seconds if self.step_seconds else float("nan"),
            "step_seconds": (now - then) / (step - since) if step > since else float("nan"),
            "elapsed_seconds": now,
            "memory_mib": psutil.Process().memory_info().rss / 2**20,
        }
        if torch.cuda.is_available():
            figures["gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        return figures

    @property
    def step_seconds(self) -> float:
        """Seconds a step over the last lines; 0 before the first."""
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (end - start) / (last - first) if last > first else 0.0

    @property
    def frames_per_second(self) -> float:
        """Frames trained on in a second."""
        return self._frames / self.step_seconds if self.step_seconds else 0.0


class Display:
    """Shows a run's progress; `shown` false (other ranks) shows nothing."""

    def __init__(self, title: str, step: int, max_steps: int, *, shown: bool = True) -> None:
        self._max_steps = max_steps if max_steps < UNLIMITED_STEPS else None
        self._shown = shown
        self._last_line = 0.0
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if shown and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                console=console,
            )
            self._task = self._bar.add_task(title, total=self._max_steps, completed=step, figures="starting …")

    @contextmanager
    def running(self) -> Iterator[Display]:
        """Keep the bar on the terminal while inside."""
        if self._bar is None:
            yield self
        else:
            with self._bar:
                yield self

    def advance(self, step: int) -> None:
        """One more step was taken."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def figures(
        self, step: int, loss: float, pace: Pace, seconds_left: float | None = None, *, watches: bool = True
    ) -> None:
        """New figures came in.

        Args:
            seconds_left: a limit of time, where the run has one.
            watches: whether frames are trained on; else there is no number of them in a second.
        """
        if not self._shown:
            return
        left = math.inf if self._max_steps is None else (self._max_steps - step) * pace.step_seconds
        if seconds_left is not None:
            left = max(0.0, min(left, seconds_left))
        speed = f"{pace.frames_per_second:,.1f} frames/s" if watches else f"{pace.step_seconds:.2f} s a step"
        text = f"loss {loss:,.1f}  {speed}"
        text += f"  {clock(left)} left" if math.isfinite(left) else ""
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=text)
        elif now - self._last_line >= LINE_SECONDS or step == self._max_steps:
            self._last_line = now
            limit = "" if self._max_steps is None else f"/{self._max_steps}"
            log.info("step %d%s  %s", step, limit, text)


def clock(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 10 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
