"""What a training step costs: seconds, memory, and where they go, beside a matrix product in the same run.

    python benchmarks/step.py                             # the base preset, 4 clips of 16 frames of 64×64
    python benchmarks/step.py --preset tiny --steps 5     # some seconds

It times whole steps as `aime train` takes them (four objectives, RGB, discriminator, AdamW) in float32 and in bf16,
turn and turn about, and then the parts of one. Nothing here is a test: on a busy machine the figures are worse, and the
matrix product says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import time
from collections.abc import Callable

import torch

from aime.config import TrainConfig, preset_config
from aime.training.update import OBJECTIVES, Updater
from aime.world_model import WorldModel

ACTIONS = 21


def product_gflops(size: int = 2048, repeats: int = 5) -> float:
    """GFLOP/s of a float32 matrix product, the best of five."""
    a = torch.randn(size, size)
    return 2 * size**3 / min(seconds(lambda: a @ a) for _ in range(repeats)) / 1e9


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def batch_of(config: TrainConfig, clips: int) -> dict[str, torch.Tensor]:
    frames, size = config.model.sequence_length, config.model.input_dim
    return {
        "observations": torch.randint(0, 256, (clips, frames, 3, size, size), dtype=torch.uint8),
        "actions": torch.rand(clips, frames, ACTIONS) * 2 - 1,
        "is_first": torch.zeros(clips, frames, dtype=torch.bool),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="base")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"], choices=["float32", "bf16"])
    args = parser.parse_args()

    torch.manual_seed(0)
    config = preset_config(args.preset)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; 2048² float32 product: ", end="")
    print(f"{product_gflops():.0f} GFLOP/s before")
    updaters = {}
    for precision in args.precision:
        model = WorldModel(config.model.for_actions(ACTIONS)).train()
        updaters[precision] = Updater(model, dataclasses.replace(config, precision=precision), precision)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{args.preset}: {parameters / 1e6:.1f} M parameters, {args.clips} × {config.model.sequence_length} frames")

    batch = batch_of(config, args.clips)
    times: dict[str, list[float]] = {name: [] for name in updaters}
    for step in range(args.steps + 1):
        for name, updater in updaters.items():
            taken = seconds(lambda u=updater: u.step(batch, lr_factor=1.0, beta=1.0))
            if step:  # the first step warms up
                times[name].append(taken)
    for name, taken in times.items():
        frames = args.clips * config.model.sequence_length / statistics.median(taken)
        print(
            f"{name:>8}: {statistics.median(taken):.2f} s a step "
            f"({min(taken):.2f} to {max(taken):.2f}), {frames:.0f} frames/s"
        )
    for name, updater in updaters.items():
        parts(name, updater, batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"peak memory of the process ({len(updaters)} models): {peak:.2f} GiB; product {product_gflops():.0f} GFLOP/s"
    )


def parts(name: str, updater: Updater, batch: dict[str, torch.Tensor]) -> None:
    """Where one step's time goes."""
    model, balancer = updater.model, updater.balancer
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == "bf16"):
        start = time.perf_counter()
        losses, _ = model.compute_total_loss(*batch.values())
        shares = {"forward": time.perf_counter() - start}
    for objective in OBJECTIVES:
        shares[f"backward of {objective}"] = seconds(
            lambda o=objective: balancer.differentiate({o: losses[o]}, retain_graph=True)
        )
    gradients = balancer.differentiate(losses, retain_graph=True)
    shares["the balancer's own algebra"] = seconds(lambda: balancer.combine(gradients))
    shares["backward of discriminator_loss"] = seconds(losses["discriminator_loss"].backward)
    shares["AdamW"] = seconds(lambda: [o.step() for o in updater.optimizers.values()])
    whole = sum(shares.values())
    print(f"{name}: parts of one step")
    for part, taken in shares.items():
        print(f"  {part:<34}{taken:7.3f} s {taken / whole:6.1%}")


if __name__ == "__main__":
    main()
