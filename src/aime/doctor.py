"""``aime doctor``: what this machine has, which data and runs are here, and the one line that would improve things.

aime doctor                    everything, in a few seconds
aime doctor --no-measure       without timing bf16
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from aime.commands.flags import parse
from aime.errors import AimeError

Verdict = Literal["good", "note", "bad"]
_MARKS: dict[Verdict, str] = {"good": "ok", "note": "--", "bad": "!!"}
_ROOMY_GIB = 5


@dataclass(frozen=True)
class DoctorConfig:
    """What this machine has for AIME, which data and runs are in this folder, and what would improve things."""

    data_root: Path = Path("data")
    """Folder of the data stores."""
    runs_root: Path = Path("runs")
    """Folder of the runs."""
    measure: bool = True
    """Time bf16 against float32 (some seconds)."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    text: str
    verdict: Verdict = "good"
    advice: str = ""


def run(argv: Sequence[str]) -> int:
    """The command; its exit code is 0 whatever is found."""
    config = parse(DoctorConfig, argv, prog="aime doctor")
    for finding in examine(config):
        print(f"{_MARKS[finding.verdict]}  {finding.subject:<10} {finding.text}", flush=True)
        if finding.advice:
            print(f"    {'':<10} → {finding.advice}", flush=True)
    return 0


def examine(config: DoctorConfig) -> Iterator[Finding]:
    """Every finding, each as soon as it is known."""
    yield _python()
    yield _torch()
    yield _device()
    if config.measure:
        yield _bf16()
    yield _memory()
    yield _renderer()
    yield _disk()
    yield from _extras()
    yield from _stores(config.data_root)
    yield from _runs(config.runs_root)


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    return Finding("python", text)


def _torch() -> Finding:
    import torch

    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    return Finding("torch", f"{torch.__version__}, {threads}; AIME {version('aime')}")


def _device() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("device", "the CPU (no CUDA device)", "note", "--preset tiny is made for a CPU")
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    listed = "; ".join(f"cuda:{i} {p.name}, {p.total_memory / 2**30:.0f} GiB" for i, p in enumerate(names))
    return Finding("device", listed)


def _bf16() -> Finding:
    import torch

    from aime.presets import preset_config
    from aime.training.device import BF16_GAIN, cpu_bf16_gain

    if torch.cuda.is_available():
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return Finding("bf16", "supported by the GPU" if has else "not supported by the GPU: float32 is used")
    found = []
    for preset in ("tiny", "base"):
        gain = cpu_bf16_gain(preset_config(preset).model)
        used = "bf16" if gain >= BF16_GAIN else "float32"
        found.append(f"{gain:.1f} times as fast as float32 for {preset}, where --precision auto takes {used}")
    return Finding("bf16", "on this CPU " + "; ".join(found))


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    if memory.available < 4 * 2**30:
        return Finding("memory", text, "note", "the base preset wants 4 GiB; --preset tiny takes less")
    return Finding("memory", text)


def _renderer() -> Finding:
    from aime.data.rendering import select_renderer

    try:
        # Not what the cache remembers: a library may have come or gone since.
        choice = select_renderer(refresh=True)
    except AimeError as error:
        return Finding("renderer", str(error), "bad")
    text = f"{choice.name}, {choice.reason}"
    return Finding("renderer", text, "note" if choice.improve else "good", choice.improve)


def _disk() -> Finding:
    disk = shutil.disk_usage(Path.cwd())
    text = f"{disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GiB free here ({Path.cwd()})"
    if disk.free < _ROOMY_GIB * 2**30:
        return Finding("disk", text, "bad", "free some, or work in another folder: --data-dir and --run-dir")
    return Finding("disk", text)


def _extras() -> Iterator[Finding]:
    for package, extra, use in (
        ("wandb", "wandb", "--wandb"),
        ("huggingface_hub", "hub", "checkpoints from a hub"),
        ("pyarrow", "formats", "LeRobot and Parquet data"),
    ):
        try:
            yield Finding(extra, f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding(
                extra, f"{package} is not installed; it is only for {use}", "note", f"pip install 'aime[{extra}]'"
            )


def _stores(root: Path) -> Iterator[Finding]:
    from aime.data.store import EpisodeStore

    folders = sorted(path.parent for path in root.glob("**/index.json"))
    if not folders:
        yield Finding("data", f"none in {root}/", "note", "aime train collects some first, or aime collect")
    for folder in folders:
        try:
            store = EpisodeStore.open(folder)
        except AimeError as error:
            yield Finding("data", str(error), "bad")
            continue
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 2**20
        yield Finding(
            "data",
            f"{folder}: {store.task}, {len(store)} episodes, {store.frames} frames of {store.image_size}×"
            f"{store.image_size}, {store.action_dim} actions, {size:.0f} MiB",
        )


def _runs(root: Path) -> Iterator[Finding]:
    from aime.training.checkpoint import load_checkpoint
    from aime.training.runs import RunFolder

    folders = sorted(path.parent for path in root.glob("*/config.yaml"))
    if not folders:
        yield Finding("runs", f"none in {root}/", "note", "aime train --preset tiny --env cartpole-swingup starts one")
    for folder in folders:
        try:
            newest = RunFolder(folder).find_latest()
            if newest is None:
                yield Finding("run", f"{folder}: no checkpoint yet", "note")
                continue
            checkpoint = load_checkpoint(newest, thorough=False)
        except AimeError as error:
            yield Finding("run", str(error), "bad")
            continue
        task, steps = checkpoint.config.data.env, checkpoint.config.max_steps
        yield Finding("run", f"{folder}: {task}, preset {checkpoint.config.preset}, step {checkpoint.step} of {steps}")
