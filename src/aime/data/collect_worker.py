"""One process that collects episodes for `aime.data.collect`, which starts it:

    python -m aime.data.collect_worker

It reads lines of JSON from its standard input (first its settings, then the id of one episode after another) and
writes lines of JSON to its standard output: that it is ready, frames and episodes done, shards finished, or an error.
It is a program of its own because the environment variables that choose a renderer must be set before dm_control is
loaded, because a graphics driver may take its process down, and because a program that calls `collect` then needs no
``if __name__ == "__main__"``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import aime.errors
from aime.data.episodes import StoreInfo, describe_columns
from aime.data.policies import EpisodePolicy, PolicyContext, make_policy
from aime.data.policy_file import PolicyFile
from aime.data.shards import SHARD_BYTES, ShardWriter
from aime.data.simulation import Simulation, package_versions
from aime.data.store import shard_name

_REPORT_FRAMES = 10


class _Stopped(Exception):
    """The collection was stopped from outside: the episode at hand is given up."""


class _Worker:
    def __init__(self, settings: dict[str, Any], out: TextIO) -> None:
        self._settings = settings
        self._out = out
        self._frames = 0
        self._common: dict[str, Any] = {}
        self.stopped = False

    def report(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), file=self._out, flush=True)

    def stop(self, *_: object) -> None:
        self.stopped = True

    def run(self, requests: TextIO) -> None:
        s = self._settings
        file = PolicyFile(Path(s["policy_file"])) if s["policy_file"] else None

        def make(context: PolicyContext, rng: Any) -> EpisodePolicy:
            return file.make(context, rng) if file else make_policy(s["policy"], context, rng)

        simulation = Simulation(s["env"], s["renderer"], s["image_size"], s["action_repeat"], s["segmentation"])
        try:
            self._collect(simulation, make, requests)
        finally:
            simulation.close()

    def _collect(self, simulation: Simulation, make: Any, requests: TextIO) -> None:
        s = self._settings
        info = StoreInfo(s["env"], simulation.time_step, s["action_repeat"], package_versions(), simulation.describe())
        self._common = {"info": asdict(info)}
        self.report("ready")
        writer: ShardWriter | None = None
        try:
            for line in requests:
                id = int(line)
                columns, policy = simulation.episode(s["episode_length"], make, s["seed"], id, self._tick)
                if writer is None:
                    writer = ShardWriter(Path(s["out"]) / shard_name(id), info)
                writer.append(
                    columns,
                    id=id,
                    policy=policy.name,
                    seed=s["seed"],
                    renderer=s["renderer"],
                    split="test" if id >= s["episodes"] else None,
                    details={**policy.details, "return": float(columns["reward"].sum())},
                )
                self._common["columns"] = describe_columns(columns)
                self._tell_frames()
                self.report("episode", id=id, length=len(columns["reward"]))
                if writer.bytes >= SHARD_BYTES:
                    self._finish(writer)
                    writer = None
                if self.stopped:
                    break
        except _Stopped:
            pass
        except BaseException:
            if writer is not None:
                self._keep(writer)
            raise
        if writer is not None:
            self._finish(writer)

    def _tick(self) -> None:
        self._frames += 1
        if self._frames == _REPORT_FRAMES:
            self._tell_frames()
        if self.stopped:
            raise _Stopped

    def _tell_frames(self) -> None:
        if not self._frames:
            return
        self.report("frames", count=self._frames)
        self._frames = 0

    def _keep(self, writer: ShardWriter) -> None:
        """Saves the whole episodes before an error, unless the disk is what failed."""
        if not writer.closed:
            self._finish(writer)

    def _finish(self, writer: ShardWriter) -> None:
        finished = writer.close()
        if finished is not None:
            shard, episodes = finished
            records = [asdict(episode) for episode in episodes]
            self.report("shard", shard=asdict(shard), episodes=records, **self._common)


def main() -> int:
    """Runs the worker; 0 when all it was asked for is done or it was stopped, 1 after an error that it has reported."""
    # The graphics libraries print what they please; the reports go where the parent reads and nothing else does.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker(json.loads(sys.stdin.readline()), out)
    signal.signal(signal.SIGTERM, worker.stop)
    try:
        worker.run(sys.stdin)
    except aime.errors.AimeError as error:
        worker.report("error", kind=type(error).__name__, message=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
