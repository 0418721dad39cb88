"""The yardstick: which machine this is, and how fast it multiplies two matrices right now."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import torch

import aime
from aime.bench.timing import Timing, seconds

SIZE = 2048
"""Rows and columns of the matrices."""
FLOP = 2 * SIZE**3
"""Floating-point operations of one product."""
EMULATION_SIZE, EMULATION = 256, 10
"""Rows of the products that tell whether bf16 is emulated, and how many times slower it is then at least."""
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def precisions(device: torch.device) -> list[str]:
    """The precisions that a device computes in by itself."""
    cuda = device.type == "cuda"
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else not _emulates_bf16()
    return list(DTYPES) if bf16 else ["float32"]


@cache
def _emulates_bf16() -> bool:
    """Whether this CPU's matrix products go number by number in bf16: a large one would take minutes there.

    Asked of the clock, since no public flag of torch tells. Emulation is tens of times slower than float32.
    """

    def best(dtype: torch.dtype) -> float:
        a = torch.ones(EMULATION_SIZE, EMULATION_SIZE, dtype=dtype)
        return min(seconds(lambda: a @ a, a.device) for _ in range(4))

    return best(torch.bfloat16) > EMULATION * best(torch.float32)


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
