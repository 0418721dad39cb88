"""Ctrl-C and SIGTERM, taken as a wish: finish the step, save, and leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """True once somebody wished the run to stop; `reason` says how."""

    def __init__(self) -> None:
        self.reason = ""

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def stop_on_signal() -> Iterator[StopWish]:
    """While inside, SIGINT and SIGTERM only make the wish true. A second Ctrl-C stops at once, as usual.

    Outside of the main thread, where Python lets no one handle signals, the wish stays false.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if wish and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.reason = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
