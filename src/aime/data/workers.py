"""The processes of a collection: started, asked, listened to, and always ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any

import aime.errors
from aime.data.frames import renderer_environment
from aime.errors import AimeError, RenderError

Event = dict[str, Any]
Handler = Callable[[int, Event], None]


class WorkerPool:
    """Processes that collect episodes (see `aime.data.collect_worker`).

    Args:
        count: number of processes.
        settings: what they collect; their first line of input.
        renderer: egl, osmesa or warp.
    """

    def __init__(self, count: int, settings: Mapping[str, Any], renderer: str) -> None:
        self._count, self._settings, self._renderer = count, settings, renderer
        self._processes: list[subprocess.Popen[str]] = []
        self._complaints: list[IO[str]] = []
        self._inbox: queue.Queue[tuple[int, Event | None]] = queue.Queue()
        self._running: set[int] = set()

    def run(self, handle: Handler) -> None:
        """Starts the workers and hands each of their events to `handle` until all have ended.

        If something fails, here or there or by Ctrl-C, the workers are stopped, and the shards that they finish on that
        occasion are handed over before the error goes on its way.

        Raises:
            AimeError: the error that a worker reported, of the same class.
            RenderError: a worker was taken down, most likely by the graphics driver.
        """
        try:
            try:
                self._start()
                while self._running:
                    self._next(handle)
            except BaseException:
                self._stop()
                self._drain(handle)
                raise
        finally:
            self._end()

    def ask(self, worker: int, episode: int | None) -> None:
        """Asks a worker for an episode; None tells it that there are no more."""
        if episode is not None:
            self._send(worker, str(episode))
        else:
            self._close_input(worker)

    def _start(self) -> None:
        environment = {**os.environ, **renderer_environment(self._renderer)}
        for number in range(self._count):
            complaints = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed in _end)
            process = subprocess.Popen(
                [sys.executable, "-m", "aime.data.collect_worker"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                # The handle by which a collection holds its folder is inheritable, and only that.
                close_fds=False,
                # Ctrl-C in the terminal is for the parent, which then lets the workers end in good order.
                start_new_session=True,
            )
            self._processes.append(process)
            self._complaints.append(complaints)
            self._running.add(number)
            threading.Thread(target=self._listen, args=(number,), daemon=True).start()
            self._send(number, json.dumps(self._settings))

    def _next(self, handle: Handler) -> None:
        worker, event = self._inbox.get()
        if event is None:
            self._running.discard(worker)
            code = self._processes[worker].wait()
            if code != 0:
                raise self._crash(worker, code)
        elif event["event"] == "error":
            raise getattr(aime.errors, event["kind"], AimeError)(event["message"])
        else:
            handle(worker, event)

    def _drain(self, handle: Handler) -> None:
        while self._running:
            worker, event = self._inbox.get()
            if event is None:
                self._running.discard(worker)
            elif event["event"] == "shard":
                try:
                    handle(worker, event)
                except AimeError:
                    continue  # the error that led here matters more, and a later collection finds the shard

    def _listen(self, worker: int) -> None:
        stream = self._processes[worker].stdout
        for line in stream or ():
            self._inbox.put((worker, json.loads(line)))
        self._inbox.put((worker, None))

    def _send(self, worker: int, line: str) -> None:
        stream = self._processes[worker].stdin
        try:
            if stream is not None:
                stream.write(line + "\n")
                stream.flush()
        except BrokenPipeError:
            return  # it has ended; its last event says why

    def _close_input(self, worker: int) -> None:
        stream = self._processes[worker].stdin
        try:
            if stream is not None:
                stream.close()
        except BrokenPipeError:
            return

    def _stop(self) -> None:
        """Makes each worker give up its episode, finish its shard and end."""
        for number in self._running:
            self._processes[number].send_signal(signal.SIGTERM)
            self._close_input(number)

    def _end(self) -> None:
        for number, process in enumerate(self._processes):
            if number in self._running:
                process.kill()
            self._close_input(number)
            process.wait()
            if process.stdout is not None and number not in self._running:
                process.stdout.close()
        for complaints in self._complaints:
            complaints.close()

    def _crash(self, worker: int, code: int) -> AimeError:
        complaints = self._complaints[worker]
        complaints.seek(0)
        said = complaints.read().strip()
        last = said.splitlines()[-1] if said else "it left no message"
        if code < 0:
            error: AimeError = RenderError(
                f"a collector process that draws with {self._renderer} was ended by signal {-code} ({last}). The "
                "episodes stored before are kept; try another --renderer, or fewer --workers if memory ran out"
            )
        else:
            error = AimeError(f"a collector process failed: {last}")
        error.add_note(said)
        return error
