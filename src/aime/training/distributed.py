"""Several processes, started by torchrun, that train one model: ranks, averages, and agreement.

    torchrun --nproc-per-node 8 -m aime train --env humanoid-walk

Each rank reads its own part of every batch. Gradients are averaged by the balancer (the four objectives) and by
`average_gradients` (the discriminator); the model itself is not wrapped. Rank 0 alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the other processes that torchrun started; alone, do nothing.

    Args:
        device: the setting: on "cpu", or where there is no CUDA, the processes talk over gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@torch.no_grad()
def broadcast_from_first(tensors: Iterable[Tensor], world: World) -> None:
    """Give every rank rank 0's values."""
    if world.size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Replace every gradient by its mean over the ranks."""
    if world.size > 1:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            assert work is not None
            work.wait()
        torch._foreach_div_(gradients, world.size)


@torch.no_grad()
def any_rank(flag: Tensor, world: World) -> Tensor:
    """Whether a flag is true on any rank, so that all of them do the same thing."""
    if world.size == 1:
        return flag
    number = flag.to(torch.float32).clone()
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return number > 0


def wait_for_all(world: World) -> None:
    """Wait until every rank is here."""
    if world.size > 1:
        dist.barrier()
