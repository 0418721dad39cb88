"""Windows from a store, against the windows that training eats."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from aime.bench.figures import Figure
from aime.bench.subject import ACTIONS, Subject
from aime.bench.timing import take_turns
from aime.data.dataset import BatchStream, WindowDataset
from aime.data.index import StoreInfo
from aime.data.store import EpisodeStore, StoreWriter

BATCHES = 8
"""Batches that are loaded for each step that is taken."""
EPISODES, LENGTH = 8, 250


def measure_loading(subject: Subject, rounds: int, data_dir: Path | None = None) -> Iterator[Figure]:
    """Windows that one process reads, in turns with training steps. `aime train` reads ahead in two beside a GPU."""
    with store_at(data_dir, subject.config.model.input_dim) as store:
        stream = batches(store, subject)
        runs = {"load": lambda: [next(stream) for _ in range(BATCHES)], "step": subject.stepper()}
        times = take_turns(runs, rounds, subject.device)
        kept = sum(shard.bytes for shard in store.index.shards) / (3 * store.frames * store.image_size**2)
        note = f"{store.task}, kept in {kept:.0%} of its raw bytes"
    yield Figure.rate("windows read", BATCHES * subject.clips, "windows/s", times["load"], note=note)
    yield Figure.rate("windows eaten", subject.clips, "windows/s", times["step"])
    yield Figure.ratio("read against eaten", times["step"], times["load"], scale=BATCHES)


def batches(store: EpisodeStore, subject: Subject) -> BatchStream:
    """The batches of a training step, from a store.

    Raises:
        DataError: it has fewer windows than a batch, or its episodes are shorter than a window.
    """
    return BatchStream(WindowDataset(store, "train", subject.config.model.sequence_length), subject.clips, seed=0)


@contextmanager
def store_at(path: Path | None, image_size: int) -> Iterator[EpisodeStore]:
    """The store at a path, or for the while one of synthetic video in a temporary folder."""
    if path is not None:
        yield EpisodeStore.open(path)
        return
    with tempfile.TemporaryDirectory(prefix="aime-bench-") as folder:
        rng = np.random.default_rng(0)
        with StoreWriter(folder, StoreInfo("synthetic", time_step=0.05, action_repeat=1)) as writer:
            for _ in range(EPISODES):
                columns = {
                    "pixels": video(rng, image_size),
                    "action": rng.uniform(-1, 1, (LENGTH, ACTIONS)).astype(np.float32),
                    "reward": np.zeros(LENGTH, np.float32),
                    "is_first": np.arange(LENGTH) == 0,
                }
                writer.add(columns, policy="synthetic")
        store = EpisodeStore.open(folder)
        yield store
        store.close()


def video(rng: np.random.Generator, size: int) -> np.ndarray:
    """A shaded disc that circles before a still, grained background: (LENGTH, size, size, 3) uint8.

    Lossless compression finds in it about what it finds in rendered video; noise or flat colours would say too little,
    or too much, of how fast frames are unpacked.
    """
    rows, columns = np.mgrid[:size, :size] / size
    background = 90 + 60 * rows[..., None] + rng.integers(-8, 8, (size, size, 3))
    phase = rng.uniform(0, 2 * np.pi) + np.arange(LENGTH)[:, None, None] / 12
    distance = np.hypot(rows - 0.5 - 0.3 * np.sin(phase), columns - 0.5 - 0.3 * np.cos(phase))[..., None]
    disc = np.array([230, 120, 60]) * (1 - 2 * distance)
    return np.where(distance < 0.2, disc, background).astype(np.uint8)
