"""The yardstick: which machine this is, and how fast it multiplies two matrices right now."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

import aime
from aime.bench.timing import Timing, seconds

SIZE = 2048
"""Rows and columns of the matrices."""
FLOP = 2 * SIZE**3
"""Floating-point operations of one product."""
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def precisions(device: torch.device) -> list[str]:
    """The precisions that a device computes in; a CPU always does both, if not always fast."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return ["float32"]
    return list(DTYPES)


def product(precision: str, device: torch.device) -> Callable[[], object]:
    """One matrix product, to be timed."""
    a, b = (torch.randn(SIZE, SIZE, device=device, dtype=DTYPES[precision]) for _ in range(2))
    return lambda: a @ b


def probe(precision: str, device: torch.device, rounds: int = 10) -> Timing:
    """Seconds of a matrix product, after two to warm up."""
    run = product(precision, device)
    taken = [seconds(run, device) for _ in range(rounds + 2)]
    return Timing(tuple(taken[2:]))


def machine(device: torch.device) -> dict[str, str | int | float | None]:
    """What computes, in words and numbers; `gpu` is None where there is none."""
    gpu = None
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(device if device.type == "cuda" else 0)
        gpu = f"{found.name}, {found.total_memory / 2**30:.0f} GiB"
    return {
        "cpu": _cpu(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "logical_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": gpu,
        "device": device.type,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "aime": aime.__version__,
        "load_before": os.getloadavg()[0],
    }


def _cpu() -> str:
    """The processor's own name, as Linux tells it."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
