"""Memory that is freed stays with the process, for the tensors of the next step.

By default glibc gives every freed block of some size back to the system, and the next one like it comes as new pages,
each cleared at the first touch: an update of dynamics on a CPU touches thousands. `aime` asks it to keep them, once
per process; a program that imports AIME decides that for itself.
"""

from __future__ import annotations

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of `mallopt`'s settings in malloc.h."""
NEVER = 2**31 - 1
LARGEST_BLOCKS = (2**30, 2**25)
"""Bytes from which on a block is the system's own again; a glibc before 2.35 takes no more than the second."""
SET_BY_HAND = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")
"""Any of these in the environment, or malloc's tunables: somebody has chosen, and is not overruled."""


def keep_freed_memory() -> bool:
    """Have malloc keep what is freed, where it can be asked and nobody has asked otherwise; say whether it does."""
    chosen = any(name in os.environ for name in SET_BY_HAND) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST_BLOCKS) and bool(mallopt(TRIM_THRESHOLD, NEVER))
