"""How fast windows come from a store, against how fast training eats them.

    python benchmarks/data_loading.py                             # 20,000 real frames of humanoid-walk, repeated
    python benchmarks/data_loading.py --data data/humanoid-walk   # a store of your own
    python benchmarks/data_loading.py --step-seconds 0.1 --batch-size 16 --workers 2

Prints windows per second without workers and with them, their ratio to what a training step of `--step-seconds` with
`--batch-size` windows eats (at least 5 is wanted), and the memory gained over the run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from aime.data.dataset import BatchStream, WindowDataset
from aime.data.store import EpisodeStore, StoreWriter

FIXTURE = Path(__file__).parents[1] / "tests" / "data" / "fixtures" / "humanoid-walk"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a store; without it one is made from the tests' episodes")
    parser.add_argument("--frames", type=int, default=20_000, help="frames of the store that is made")
    parser.add_argument("--sequence-length", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--step-seconds", type=float, default=4.0, help="seconds of a training step to compare with")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each measurement takes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with store_at(args.data, args.frames) as store:
        size = sum(shard.bytes for shard in store.index.shards)
        raw = store.frames * store.image_size**2 * 3
        print(f"{store.task}: {store.frames:,} frames, {size / 1e6:.1f} MB, a {raw / size:.1f}th of the raw pixels")
        eaten = args.batch_size / args.step_seconds
        print(f"training eats {eaten:.2f} windows/s: {args.batch_size} in {args.step_seconds} s")
        dataset = WindowDataset(store, "train", args.sequence_length)
        for workers in dict.fromkeys((0, args.workers)):
            rate, grown = measure(BatchStream(dataset, args.batch_size, seed=0, workers=workers), args)
            print(
                f"{workers} workers: {rate:,.0f} windows of {args.sequence_length} frames a second, "
                f"{rate / eaten:,.0f} times what training eats; memory grew by {grown:+.1f} MB meanwhile"
            )


@contextmanager
def store_at(path: Path | None, frames: int) -> Iterator[EpisodeStore]:
    """The store at a path, or one of real frames, the tests' episodes over and over, in episodes of 500 or so."""
    if path is not None:
        yield EpisodeStore.open(path)
        return
    source = EpisodeStore.open(FIXTURE)
    episodes = [source.episode(id) for id in range(len(source))]
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(folder, source.index.info) as writer:
            written = 0
            while written < frames:
                columns = episodes[written % len(episodes)]
                writer.add(columns, policy="repeated")
                written += len(columns["pixels"])
        yield EpisodeStore.open(folder)


def measure(stream: BatchStream, args: argparse.Namespace) -> tuple[float, float]:
    """Windows per second, and the megabytes that this process grew by after the first batches."""
    for _ in range(20):
        next(stream)
    process = psutil.Process()
    before, begun, windows = process.memory_info().rss, time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < args.seconds:
        windows += len(next(stream)["observations"])
    return windows / elapsed, (process.memory_info().rss - before) / 1e6


if __name__ == "__main__":
    main()
