"""What balancing the gradients costs, beside the training step that it is part of.

    python benchmarks/balancer.py                                # the base preset, 4 clips of 16 frames of 64×64
    python benchmarks/balancer.py --preset tiny --rounds 2       # some seconds

In one run, round by round, A and B take turns: A is a step of the world model with the summed loss (forward, backward,
AdamW); B is the same step with each of the four objectives differentiated by itself and balanced. B's time is split
into the four differentiations and the balancer's own algebra (`GradientBalancer.combine`), which is also timed for the
worst case: four objectives that all reach every parameter. A 2048×2048 float32 matrix product in the same run says how
fast the machine was.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch

import aime
from aime.config import PRESETS, BalancerConfig, BalancerName, LossConfig, ModelSettings, replace
from aime.learning import GradientBalancer
from aime.training.update import OBJECTIVES

ACTION_DIM = 21
LABELS = {
    "A": "A, whole step",
    "A backward": "A, backward of the summed loss",
    "B": "B, whole step",
    "B backward": "B, four differentiations",
    "algebra": "B, the balancer's algebra",
    "worst": "algebra, all reach everything",
}


class Stopwatch:
    """Seconds spent under each name, a list each."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


def matrix_product_speed(size: int = 2048) -> float:
    """GFLOP/s of a float32 matrix product, the best of five."""
    a, watch = torch.randn(size, size), Stopwatch()
    for _ in range(5):
        with watch("product"):
            a @ a
    return 2 * size**3 / min(watch.seconds["product"]) / 1e9


def take_turns(
    model: aime.WorldModel, optimizer: torch.optim.Optimizer, balancer: GradientBalancer, watch: Stopwatch, clips: int
) -> None:
    """One step of A and one of B."""
    frames = model.config.sequence_length
    size = model.config.input_dim
    observations = torch.randint(0, 256, (clips, frames, 3, size, size), dtype=torch.uint8)
    actions = torch.rand(clips, frames, ACTION_DIM) * 2 - 1

    with watch("A"):
        losses, _ = model.compute_total_loss(observations, actions, loss=LossConfig())
        with watch("A backward"):
            torch.stack([losses[name] for name in OBJECTIVES]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    del losses
    with watch("B"):
        losses, _ = model.compute_total_loss(observations, actions, loss=LossConfig())
        with watch("B backward"):
            gradients = balancer.differentiate(losses)
        with watch("algebra"):
            balancer.combine(gradients)
        optimizer.step()
        optimizer.zero_grad()


def worst_case(model: aime.WorldModel, config: BalancerConfig, watch: Stopwatch) -> None:
    """The algebra alone on four gradients of the whole model."""
    parameters = list(model.generator_parameters())
    balancer = GradientBalancer(dict.fromkeys(OBJECTIVES, parameters), config)
    for _ in range(4):
        gradients = {i: {k: torch.randn_like(p) for k, p in enumerate(parameters)} for i in range(len(OBJECTIVES))}
        with watch("worst"):
            balancer.combine(gradients)


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="base", choices=list(PRESETS), help="size of the world model")
    parser.add_argument("--clips", type=int, default=4, help="clips in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="how often A and B take turns, after one to warm up")
    parser.add_argument("--balancer", default="rgb", choices=get_args(BalancerName), help="which balancer B uses")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="cores to use")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    settings = replace(ModelSettings(), **PRESETS[options.preset].model)
    model = aime.WorldModel(settings.for_actions(ACTION_DIM))
    config = BalancerConfig(balancer=options.balancer)
    balancer = GradientBalancer(model.objective_reach(), config)
    optimizer = torch.optim.AdamW(model.generator_parameters(), lr=1e-5, fused=True)
    take_turns(model, optimizer, balancer, Stopwatch(), options.clips)
    watch = Stopwatch()
    for _ in range(options.rounds):
        take_turns(model, optimizer, balancer, watch, options.clips)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    speed = matrix_product_speed()
    worst_case(model, config, watch)

    millions = sum(p.numel() for p in model.generator_parameters()) / 1e6
    reach = [set(parameters) for parameters in model.objective_reach().values()]
    shared = sum(p.numel() for p in set().union(*reach) if sum(p in own for own in reach) > 1) / 1e6
    sizes = f"{millions:.1f} M parameters ({shared:.1f} M shared), {options.clips} clips"
    print(f"{options.preset}, {sizes}, {options.balancer}")
    print(f"{options.threads} threads, matrix product {speed:.0f} GFLOP/s, peak memory of training {peak:.2f} GiB")
    for name, label in LABELS.items():
        times = [1e3 * t for t in watch.seconds[name]]
        print(f"{label:<31} {statistics.median(times):8.1f} ms   ({min(times):.1f} to {max(times):.1f})")
    for name in ("A backward", "A", "B"):
        print(f"the balancer's algebra is {watch.median('algebra') / watch.median(name):.1%} of: {LABELS[name]}")


if __name__ == "__main__":
    main()
