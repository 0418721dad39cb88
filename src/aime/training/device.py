"""Where a run computes and with which numbers: `resolve_device`, `resolve_precisions`, `autocast`.

``auto`` precision is bf16 on a GPU that has it. Of CPUs some gain by it and some lose several times over, and no flag
of the processor tells which; on one that gains in a large model, a small one may lose more by casts than its products
win. So there it is decided by a measurement at the model's own widths: 0.05 seconds for `tiny`, 0.3 for `base` on two
idle cores, several times that where bf16 is emulated. Where the answer is float32, the rehearsals of dynamics at rest,
little but one long recurrence, are measured by themselves (0.1 seconds for `tiny`). The answers belong in the run's
config.yaml: a resumed run must not measure again and find otherwise.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from aime.config import Device, ModelSettings, Precision, TrainConfig, replace
from aime.dynamics import RecurrentCore

log = logging.getLogger("aime")

BF16_GAIN = 1.4
"""How many times faster bf16 must measure on a CPU before `auto` takes it. What is measured holds little of what bf16
is no help to: where it read 1.2 (`tiny`), a whole step was a tenth longer in bf16; where 1.6 (`base`), a quarter
shorter."""
BF16_RECURRENT_GAIN = 1.1
"""The same for rehearsals at rest: that recurrence, and what is as fast either way. Less is within the noise."""
RECURRENCE = 16
"""Frames over which the recurrence of dynamics is timed."""


def resolve_device(name: Device = "auto") -> torch.device:
    """The device that a name stands for here.

    ``cuda`` on a machine without CUDA is the CPU, with a warning that says so: the same command works everywhere.
    """
    if name == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if name == "cuda":
        log.warning(
            "--device cuda: no CUDA device was found here (torch %s), so this runs on the CPU", torch.__version__
        )
    return torch.device("cpu")


def resolve_precision(name: Precision, device: torch.device, model: ModelSettings) -> Literal["float32", "bf16"]:
    """The precision that a name stands for on a device, for a model of these widths; ``auto`` on a CPU measures."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if cpu_bf16_gain(model) >= BF16_GAIN else "float32"


def resolve_precisions(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The settings with both precisions as they are on a device: that of the run and that of its rehearsals at rest."""
    precision = resolve_precision(config.precision, device, config.model)
    rest = config.optimizer.consolidation_precision
    if rest == "auto" and config.world_model == "aime":
        rest = precision
        if config.precision == "auto" and precision == "float32" and device.type == "cpu":
            gain = cpu_bf16_recurrent_gain(config.model.hidden_dim, config.optimizer.consolidation_clips)
            rest = "bf16" if gain >= BF16_RECURRENT_GAIN else "float32"
    resolved: TrainConfig = replace(
        config, precision=precision, optimizer=replace(config.optimizer, consolidation_precision=rest)
    )
    return resolved


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which the forward pass runs: bf16 where that is the precision, else no change."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def cpu_bf16_gain(model: ModelSettings, rounds: int = 3) -> float:
    """How many times faster convolutions and matrix products of a model's widths, with norms and activations between
    them, are in bf16 than in float32 here, gradients included."""
    channels, width = model.img_perceiver_channels, model.hidden_dim
    generator = torch.Generator().manual_seed(0)
    frames, rows = (torch.randn(size, generator=generator) for size in ((16, channels, 32, 32), (256, width)))
    frames = frames.contiguous(memory_format=torch.channels_last)
    shapes = (channels, channels, 3, 3), (channels, channels, 3, 3), (width, 2 * width), (2 * width, width)
    weights = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]

    def work() -> Tensor:
        seen = F.conv2d(frames, weights[0], padding=1)
        seen = F.conv2d(F.silu(F.group_norm(seen, math.gcd(8, channels))), weights[1], padding=1)
        told = F.silu(F.layer_norm(rows @ weights[2], (2 * width,))) @ weights[3]
        return seen.float().sum() + told.float().sum()

    return _cpu_bf16_gain(work, weights, rounds)


def cpu_bf16_recurrent_gain(width: int, clips: int, rounds: int = 3) -> float:
    """The same of the core of dynamics, of some width, over a few frames of so many clips with closed eyes."""
    with torch.random.fork_rng(devices=[]):
        core = RecurrentCore(latent_dim=1, context_dim=1, action_dim=1, hidden_dim=width)
    actions, start = torch.zeros(clips, RECURRENCE, 1), core.initial(clips)
    return _cpu_bf16_gain(lambda: core.onward(actions, start)[0].float().sum(), list(core.lstm.parameters()), rounds)


def _cpu_bf16_gain(work: Callable[[], Tensor], weights: Sequence[Tensor], rounds: int) -> float:
    """How many times faster some work and its gradients by `weights` are in bf16 than in float32.

    The two precisions take turns and the best time of each counts, so that a busy neighbour harms neither. Neither the
    global random state nor the results of a run depend on it.
    """

    def seconds(enabled: bool) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            total = work()
        torch.autograd.grad(total, weights)
        return time.perf_counter() - start

    best = {False: float("inf"), True: float("inf")}
    for _ in range(rounds + 1):  # the first round warms up, and its times never are the best
        for enabled in best:
            best[enabled] = min(best[enabled], seconds(enabled))
    return best[False] / best[True]
