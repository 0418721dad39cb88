"""The log of a run: ``metrics.jsonl`` always, TensorBoard by default, Weights & Biases on request.

Each line of ``metrics.jsonl`` is a whole JSON object with "step" in it, written in one piece, so that a kill leaves
whole lines. A resumed run drops the lines after the step that it goes on from, so that no step is told twice.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aime.config import TrainConfig
from aime.errors import ConfigError
from aime.training.config_file import settings
from aime.training.disk import disk_errors

MEASURED_HERE = frozenset({"frames_per_second", "step_seconds", "memory_mib", "gpu_memory_mib", "elapsed_seconds"})
"""Metrics that depend on the machine and the hour: what differs between two runs that are equal to the bit."""


class MetricsLog:
    """Writes metrics wherever the settings want them.

    Args:
        path: the JSON-lines file.
        config: which other places; `tensorboard`, `wandb`.
        from_step: the step that the run goes on from; what the log tells of later steps is dropped.
        identity: the run's own name for Weights & Biases, the same after a resume.
    """

    def __init__(self, path: Path, config: TrainConfig, *, from_step: int = 0, identity: str = "") -> None:
        self.path = path
        with disk_errors("the metrics", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            drop_after(path, from_step)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._board = _tensorboard(path.parent / "tensorboard", from_step) if config.tensorboard else None
        self._wandb = _wandb(path.parent, config, identity) if config.wandb else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of a step. A value that is not finite is null in the file, and left out elsewhere."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"step": step} | {name: finite.get(name) for name in values}
        with disk_errors(f"the metrics of step {step}", self.path.parent, "the last checkpoint there is untouched"):
            _append(self._file, (json.dumps(line) + "\n").encode())
            if self._board is not None:
                for name, value in finite.items():
                    self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def close(self) -> None:
        """Finish writing."""
        os.close(self._file)
        if self._board is not None:
            with disk_errors("the TensorBoard curves", self.path.parent, "metrics.jsonl has the same numbers"):
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def require_wandb() -> Any:
    """The package wandb.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "--wandb needs the package wandb, which is not installed: pip install 'aime[wandb]', or train without it: "
            "--no-wandb (metrics.jsonl and TensorBoard hold the same numbers)"
        ) from error
    return wandb


def drop_after(path: Path, step: int) -> None:
    """Cut a log off behind its last whole line of a step up to `step`."""
    if not path.exists():
        return
    keep = 0
    with path.open("rb+") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break  # torn, by a kill or a full disk
            keep += len(line)
        file.truncate(keep)


def _append(file: int, line: bytes) -> None:
    """Append the whole line or nothing: a full disk may take the beginning only, which is then cut off again."""
    size = os.fstat(file).st_size
    try:
        written = os.write(file, line)
        while written < len(line):
            written += os.write(file, line[written:])
    except OSError:
        os.ftruncate(file, size)
        raise


def _tensorboard(folder: Path, from_step: int) -> Any:
    # Imported here, because it takes a second that a run without it need not wait.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=from_step + 1 if from_step else None)


def _wandb(folder: Path, config: TrainConfig, identity: str) -> Any:
    flat = {name: str(value) if isinstance(value, Path) else value for name, value in settings(config).items()}
    return require_wandb().init(
        project="aime", name=folder.name, id=identity or None, resume="allow", dir=str(folder), config=flat
    )
