"""What is freed stays with the process: counted in pages that the system clears, which no busy machine changes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from aime import cli, pages
from aime.pages import SET_BY_HAND

CHURN = """
import resource
import torch
from aime.pages import keep_freed_memory

kept = {ask} and keep_freed_memory()
torch.set_num_threads(1)
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**20).add(1).sum()  # two tensors of 4 MiB
    torch.ones(2**24).add(1).sum()  # and two of 64
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(bool(kept), sum(faults[5:]))
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no other malloc is asked")


def churn(ask: bool, **environment: str) -> tuple[bool, int]:
    """Whether memory is kept, and pages cleared while tensors come and go."""
    clean = {k: v for k, v in os.environ.items() if k not in (*SET_BY_HAND, "GLIBC_TUNABLES")}
    done = subprocess.run(
        [sys.executable, "-c", CHURN.format(ask=ask)],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@glibc
def test_tensors_that_come_and_go_cost_no_new_pages() -> None:
    kept, few = churn(ask=True)
    _, many = churn(ask=False)
    assert kept
    assert few < many / 20, f"{few} pages were cleared, and {many} without asking"


@glibc
@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}]
)
def test_what_somebody_has_set_is_left_alone(environment: dict[str, str]) -> None:
    kept, _ = churn(ask=True, **environment)
    assert not kept


def test_every_command_asks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[None] = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: asked.append(None))
    assert cli.main(["--help"]) == 0 and asked == [], "help computes nothing"
    assert cli.main(["train", "--help"]) == 0 and asked == [None]


def test_another_libc_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SET_BY_HAND, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pages.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(pages.ctypes, "CDLL", lambda name: pytest.fail("was asked"))
    assert not pages.keep_freed_memory()
