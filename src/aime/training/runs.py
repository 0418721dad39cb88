"""A run's folder: what is where in it, which checkpoint is the newest, and whether given settings may continue it.

runs/humanoid-walk/
    config.yaml     the settings, as resolved (device, precisions)
    run.json        AIME's version, the task, the data's fingerprint
    metrics.jsonl   one line for every --log-every steps
    checkpoints/    step-00000500/, …
    pictures/       what `aime.pictures` drew
    tensorboard/
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from aime import __version__
from aime.config import TrainConfig, replace
from aime.data.store import EpisodeStore
from aime.errors import AimeError, CheckpointError, ConfigError, TrainingError
from aime.training.checkpoint import STATE, is_whole, load_checkpoint
from aime.training.config_file import differences, read_config, to_yaml
from aime.training.disk import disk_errors, remove_folder, write_whole

log = logging.getLogger("aime")

CHANGEABLE = frozenset(
    [
        "preset",
        "run_dir",
        "data_dir",
        "max_steps",
        "max_minutes",
        "device",
        "workers",
        "load_checkpoint",
        "eval_only",
        "episodes",
        "episode_length",
        "renderer",
        "policy",
        "policy_file",
        "log_every",
        "tensorboard",
        "wandb",
        "checkpoint_every",
        "keep_checkpoints",
        "eval_every",
        "eval_clips",
        "visualize_attention",
        "save_visualizations",
        "picture_every",
    ]
)
"""Settings that a run may be continued with other values of: they do not change what is learned from which data."""


@dataclass(frozen=True)
class RunFolder:
    """The places in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """AIME's version, the task, the data's fingerprint, the run's identity."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """The log, a JSON object on each line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """The folder of the pictures."""
        return self.path / "pictures"

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is or will be."""
        return self.checkpoints / f"step-{step:08d}"

    def find_latest(self, *, thorough: bool = False) -> Path | None:
        """The newest whole checkpoint, None if there is none. Newer ones that are not whole are named in the log.

        Args:
            thorough: read every byte of it and compare the checksums, too.
        """
        for folder in reversed(_steps(self.checkpoints)):
            try:
                load_checkpoint(folder, thorough=thorough)
            except AimeError as error:
                log.warning("%s (left as it is, and passed over)", error)
            else:
                return folder
        return None

    def to_go_on_from(self) -> Path | None:
        """The newest checkpoint of which every byte is right; None for a run that has not saved any.

        Raises:
            CheckpointError: there are checkpoints, but all are broken. To begin anew beside them would empty the log.
        """
        found = self.find_latest(thorough=True)
        if found is None and (broken := _steps(self.checkpoints)):
            many = f"none of the {len(broken)} checkpoints" if len(broken) > 1 else f"checkpoint {broken[0].name}"
            raise CheckpointError(
                f"{many} in {self.checkpoints} can be read, so the run in {self.path} cannot go on; move {self.path} "
                "away to begin it anew, or name another --run-dir"
            )
        return found

    def make_room(self, step: int) -> Path:
        """Where to write the checkpoint of a step; a broken one in its place is moved aside, not deleted."""
        folder = self.checkpoint(step)
        if folder.exists() and not is_whole(folder):
            taken = 1
            while (aside := folder.with_name(f"broken-{taken}-{folder.name}")).exists():
                taken += 1
            folder.rename(aside)
        return folder

    def prune(self, keep: int, saved: int) -> None:
        """Delete all whole checkpoints but the newest `keep`; 0 keeps all. What is not whole is not touched.

        Args:
            saved: the step of the checkpoint that was just saved, the newest. Those of later steps, which the run did
                not go on from because their content is wrong, are neither counted nor touched.
        """
        older = [folder for folder in _steps(self.checkpoints) if _step(folder) < saved and is_whole(folder)]
        for folder in older[: max(0, len(older) + 1 - keep)] if keep else []:
            remove_folder(folder)

    def describe(self, config: TrainConfig, store: EpisodeStore, *, parameters: int) -> str:
        """Write down what run this is (config.yaml, run.json); its identity, the same after a resume."""
        known = json.loads(self.record.read_text(encoding="utf-8")) if self.record.is_file() else {}
        record = {
            "id": known.get("id", f"{self.path.name}-{uuid.uuid4().hex[:8]}"),
            "aime_version": __version__,
            "torch_version": torch.__version__,
            "task": store.task,
            "data": str(store.path),
            "data_fingerprint": store.fingerprint,
            "action_dim": store.action_dim,
            "parameters": parameters,
        }
        with disk_errors("the run's settings", self.path):
            write_whole(self.config, to_yaml(config))
            write_whole(self.record, json.dumps(record, indent=2) + "\n")
        return str(record["id"])

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process from training in the same folder. A killed process leaves no lock behind."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise TrainingError(
                f"another process is training in {self.path}; wait for it, or give another --run-dir"
            ) from error
        try:
            yield
        finally:
            if [path.name for path in self.path.iterdir()] == [".lock"]:  # nothing came of it: leave nothing behind
                remove_folder(self.path)
            os.close(handle)


def run_settings(run: Path) -> TrainConfig | None:
    """The settings of a run that is already there, None where there is none: what `aime train` continues with."""
    path = RunFolder(run).config
    if not path.is_file():
        return None
    there = read_config(path)
    if there.world_model == "aime" and there.optimizer.consolidation_precision == "auto":
        # It was begun before there was this setting, and rests in the precision in which it watches.
        there = replace(there, optimizer=replace(there.optimizer, consolidation_precision=there.precision))
    return there


def require_same_run(run: RunFolder, old: TrainConfig, new: TrainConfig) -> None:
    """Refuse to continue a run under settings that are not its own, naming them.

    Raises:
        ConfigError: a setting outside `CHANGEABLE` differs.
    """
    ignore = set(CHANGEABLE)
    if new.precision == "auto":
        ignore.add("precision")
    if new.optimizer.consolidation_precision == "auto":
        ignore.add("consolidation_precision")
    changed = differences(old, new, ignore=ignore)
    if changed:
        listed = "; ".join(f"{name} is {before} there, {after} here" for name, (before, after) in changed.items())
        raise ConfigError(
            f"{run.path} holds a run with other settings: {listed}. Give its settings to continue it, or another "
            f"--run-dir for a new run (with --load-checkpoint {run.path} it starts from what this one learned)"
        )


def latest_in(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run folder, or of a folder of checkpoints; None if it is neither.

    Raises:
        CheckpointError: it is one of the two, but no checkpoint in it is whole.
    """
    run = RunFolder(folder)
    if not run.checkpoints.is_dir() and not run.config.is_file():
        if not _steps(folder):
            return None
        run = RunFolder(folder.parent) if folder.name == run.checkpoints.name else run
    found = run.find_latest()
    if found is None:
        raise CheckpointError(
            f"run {folder} has no whole checkpoint yet; train it first: aime train --run-dir {folder}"
        )
    return found


def _steps(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if re.fullmatch(r"step-\d+", p.name) and p.is_dir()]
    return sorted(found, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder says of itself that it is a checkpoint, whole or not."""
    return (folder / STATE).is_file()
