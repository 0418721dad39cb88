"""What balancing the gradients costs, beside the training step that it is part of.

    python benchmarks/balancer.py                      # 27 M parameters, 4 clips of 16 frames of 64×64
    python benchmarks/balancer.py --clips 1 --rounds 2 # a few seconds

In one run, round by round, A and B take turns: A is a step with the summed loss (forward, backward, AdamW); B is the same
step with each of the four objectives differentiated by itself and balanced by RGB. B's time is split into the four
differentiations and the balancer's own algebra (`GradientBalancer.combine`). The network is a stand-in with the
parameters and the reach of a world model: an encoder and a trunk that all objectives reach, a decoder that three reach,
and heads of their own. A 2048² float32 matrix product in the same run says how fast the machine was.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import torch
from torch import Tensor, nn

from aime.config import BalancerConfig
from aime.learning.balancers import GradientBalancer

OBJECTIVES = ("total_vae_loss", "perceiver_loss", "attention_loss", "adversarial_loss")


class StandIn(nn.Module):
    """Convolutional encoder, dense trunk, convolutional decoder, and one head per objective."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width, 8 * width]
        self.encoder = nn.Sequential()
        for before, after in zip(sizes, sizes[1:], strict=False):
            self.encoder.extend([nn.Conv2d(before, after, 4, 2, 1), nn.GroupNorm(8, after), nn.SiLU()])
        flat = 8 * width * 16
        self.trunk = nn.Sequential(nn.Linear(flat, 1024), nn.SiLU(), nn.Linear(1024, 1024), nn.SiLU())
        self.to_decoder = nn.Linear(1024, flat)
        self.decoder = nn.Sequential()
        for before, after in zip(sizes[:0:-1], sizes[-2::-1], strict=False):
            self.decoder.extend([nn.SiLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)])
        self.perceiver_head = nn.Linear(1024, 1024)
        self.attention_head = nn.Linear(1024, 441)
        self.critic = nn.Sequential(nn.Conv2d(3, width, 4, 2, 1), nn.SiLU(), nn.Conv2d(width, 1, 4, 2, 1))

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """The four losses."""
        hidden = self.trunk(self.encoder(frames).flatten(1))
        image = self.decoder(self.to_decoder(hidden).unflatten(1, (-1, 4, 4)))
        attention = self.attention_head(hidden).softmax(-1)
        return {
            "total_vae_loss": (image - frames).square().sum((1, 2, 3)).mean(),
            "perceiver_loss": nn.functional.cross_entropy(
                self.perceiver_head(hidden), torch.arange(len(frames), device=frames.device)
            ),
            "attention_loss": (attention * image.mean((1, 2, 3))[:, None]).square().sum(),
            "adversarial_loss": -self.critic(image).mean(),
        }

    def reach(self, everything: bool) -> dict[str, list[nn.Parameter]]:
        """Which parameters each objective is differentiated with respect to."""
        own = [p for name, p in self.named_parameters() if not name.startswith("critic")]
        decoding = [*self.to_decoder.parameters(), *self.decoder.parameters()]
        seeing = [*self.encoder.parameters(), *self.trunk.parameters()]
        if everything:
            return {name: own for name in OBJECTIVES}
        return {
            "total_vae_loss": seeing + decoding,
            "perceiver_loss": [*seeing, *self.perceiver_head.parameters()],
            "attention_loss": [*seeing, *decoding, *self.attention_head.parameters()],
            "adversarial_loss": decoding,
        }


def matrix_product_speed(size: int = 2048) -> float:
    """GFLOP/s of a float32 matrix product, the best of five."""
    a = torch.randn(size, size)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=4, help="clips of 16 frames in a batch")
    parser.add_argument("--rounds", type=int, default=5, help="how often A and B take turns")
    parser.add_argument("--everything", action="store_true", help="let every objective reach every parameter")
    parser.add_argument("--balancer", default="rgb", help="which balancer B uses")
    parser.add_argument("--threads", type=int, default=2, help="cores to use")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = StandIn()
    frames = torch.rand(16 * options.clips, 3, 64, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    balancer = GradientBalancer(model.reach(options.everything), BalancerConfig(balancer=options.balancer))
    seconds: dict[str, list[float]] = {key: [] for key in ("A step", "A backward", "B step", "B backward", "algebra")}
    for round_ in range(options.rounds + 1):  # the first round warms up
        marks = [time.perf_counter()]

        losses = model(frames)
        marks.append(time.perf_counter())
        torch.stack(list(losses.values())).sum().backward()
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())

        losses = model(frames)
        marks.append(time.perf_counter())
        gradients = balancer.differentiate(losses)
        marks.append(time.perf_counter())
        report = balancer.combine(gradients)
        marks.append(time.perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        if round_ > 0:
            spans = {"A step": (0, 3), "A backward": (1, 2), "B step": (3, 7), "B backward": (4, 5), "algebra": (5, 6)}
            for key, (start, end) in spans.items():
                seconds[key].append(marks[end] - marks[start])
        del losses, gradients

    middle = {key: statistics.median(values) for key, values in seconds.items()}
    parameters = sum(p.numel() for p in balancer.parameters)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{parameters / 1e6:.1f} M parameters, {len(frames)} frames, {options.threads} threads, {options.balancer}")
    print(f"2048² float32 matrix product: {matrix_product_speed():.0f} GFLOP/s; peak memory {peak:.2f} GiB")
    for key, value in middle.items():
        print(f"{key:<11} {value * 1e3:8.1f} ms   (min {min(seconds[key]) * 1e3:.1f}, max {max(seconds[key]) * 1e3:.1f})")
    print(f"algebra / A's backward: {middle['algebra'] / middle['A backward']:.1%}")
    print(f"algebra / A's step:     {middle['algebra'] / middle['A step']:.1%}")
    print(f"algebra / B's step:     {middle['algebra'] / middle['B step']:.1%}")
    print("cosines:", [[round(c, 2) for c in row] for row in report.cosines.tolist()])


if __name__ == "__main__":
    main()
