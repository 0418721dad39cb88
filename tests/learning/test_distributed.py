"""Two processes, each with half of the data, solve the same problem as one process with all of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

from aime.config import BalancerConfig
from aime.learning.balancers import GradientBalancer
from tests.learning.test_balancers import Net, flat_grad

STEPS = 3
BROKEN = 2
"""In this step one objective is not finite, on the second process only."""


def losses_of(net: Net, step: int, half: int) -> dict[str, torch.Tensor]:
    losses = net.losses(10 * step + half)
    if step == BROKEN and half == 1:
        losses["attention_loss"] = losses["attention_loss"] * float("nan")
    return losses


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    net = Net()
    balancer = GradientBalancer(net.reach(), BalancerConfig())
    for step in range(STEPS):
        report = balancer.backward(losses_of(net, step, rank))
        np.save(f"{folder}/{rank}-{step}.npy", flat_grad([*net.shared(), *net.head.parameters()]))
        np.save(f"{folder}/{rank}-{step}-active.npy", report.active)
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    net = Net()
    balancer = GradientBalancer(net.reach(), BalancerConfig())
    for step in range(STEPS):
        halves = [losses_of(net, step, half) for half in range(2)]
        balancer.backward({name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]})
        first, second = (np.load(tmp_path / f"{rank}-{step}.npy") for rank in range(2))
        np.testing.assert_array_equal(first, second)
        truth = flat_grad([*net.shared(), *net.head.parameters()])
        np.testing.assert_allclose(first, truth, atol=1e-4 * float(truth.norm()))
        assert np.load(tmp_path / f"0-{step}-active.npy")[2] == (step != BROKEN)
