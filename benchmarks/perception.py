"""How long the four parts of perception take on one training batch, forward and backward.

    python benchmarks/perception.py                      # base sizes: 64 frames of 64×64
    python benchmarks/perception.py --preset tiny --threads 1

Prints, with a 2048² float32 matrix product in the same run as a yardstick: milliseconds (median and least; the
least is the one to compare when other processes share the cores) and floating-point operations, forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aime.config import PRESETS, ModelSettings
from aime.perception import CausalPerceiver, FrameDecoder, FrameEncoder, VQTokenizer


def seconds(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and least wall-clock time of `run` after two calls to warm up."""
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        run()
        if i >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times), min(times)


def matmul_gflops(size: int = 2048, repeats: int = 10) -> float:
    """Speed of a float32 matrix product, the yardstick of the machine."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / seconds(lambda: a @ b, repeats)[0] / 1e9


def parts(s: ModelSettings, batch: int, frames: int) -> dict[str, Callable[[], Tensor]]:
    """Each part as a function from nothing to a scalar loss that reaches all of its outputs."""
    n = batch * frames
    tokenizer = VQTokenizer(
        channels=s.img_perceiver_channels,
        code_dim=s.perceiver_code_dim,
        codebook_size=s.num_codebook_perceiver,
        image_size=s.input_dim,
    )
    perceiver = CausalPerceiver(
        token_dim=s.perceiver_code_dim,
        tokens_per_frame=s.token_grid**2,
        codebook_size=s.num_codebook_perceiver,
        dim=s.num_latent_channels_perceiver,
        latents_per_frame=s.latents_per_frame,
        window=s.sequence_length,
        layers=s.perceiver_layers,
        heads=s.perceiver_heads,
        context_dim=s.context_dim,
    )
    encoder = FrameEncoder(channels=s.img_perceiver_channels, image_size=s.input_dim, embed_dim=s.context_dim)
    decoder = FrameDecoder(
        channels=s.img_perceiver_channels,
        image_size=s.input_dim,
        latent_dim=s.latent_dim,
        attention_grid=s.attention_grid,
    )
    images = torch.rand(n, 3, s.input_dim, s.input_dim)
    latents = torch.randn(n, s.latent_dim, requires_grad=True)
    cells = s.attention_grid
    attention = torch.randn(n, cells**2).softmax(-1).view(n, cells, cells).requires_grad_()
    codes = torch.randn(batch, frames, s.token_grid**2, s.perceiver_code_dim)
    is_first = torch.zeros(batch, frames, dtype=torch.bool)

    def tokenize() -> Tensor:
        out = tokenizer(images)
        return (tokenizer.reconstruct(out.codes) - images).square().mean() + out.commitment_loss

    def perceive() -> Tensor:
        out = perceiver(codes, is_first)
        return out.context.square().mean() + out.next_token_logits.square().mean()

    def encode() -> Tensor:
        out = encoder(images)
        return out.grid.square().mean() + out.embedding.square().mean()

    def decode() -> Tensor:
        return (decoder(latents, attention) - images).square().mean()

    return {"tokenizer": tokenize, "perceiver": perceive, "encoder": encode, "decoder": decode}


def main() -> None:
    """Measure and print."""
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--preset", choices=sorted(PRESETS), default="base")
    args.add_argument("--batch", type=int, default=4, help="clips in the batch")
    args.add_argument("--frames", type=int, default=16, help="frames in a clip")
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--repeats", type=int, default=7)
    args.add_argument("--bf16", action="store_true", help="run under bfloat16 autocast")
    a = args.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    settings = ModelSettings(**PRESETS[a.preset].model)
    precision = "bfloat16 autocast" if a.bf16 else "float32"
    print(f"{a.preset}, {a.batch} × {a.frames} frames of {settings.input_dim}², {a.threads} threads, {precision}")
    print(f"2048² float32 matrix product: {matmul_gflops():.0f} GFLOP/s")
    for name, loss in parts(settings, a.batch, a.frames).items():

        def step(loss: Callable[[], Tensor] = loss) -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.bf16):
                value = loss()
            value.backward()

        # The fused attention of the CPU is not counted; its plain form is the same work.
        with FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH):
            step()
        total = flops.get_total_flops() / 1e9
        median, least = seconds(step, a.repeats)
        print(f"{name:10s} {median * 1e3:6.0f} ms (least {least * 1e3:.0f})  {total:5.1f} GFLOP forward and backward")


if __name__ == "__main__":
    main()
