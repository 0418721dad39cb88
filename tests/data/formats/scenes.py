"""Stores to take on a journey through another format, and pictures that a video keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aime.data.index import StoreInfo
from aime.data.store import EpisodeStore, StoreWriter

INFO = StoreInfo(
    "ball-roll", time_step=0.05, action_repeat=2, versions={"aime": "0"}, details={"actuators": ["x", "y"]}
)


def smooth_frames(frames: int, size: int, seed: int = 0) -> np.ndarray:
    """A soft ball that rolls over a shaded floor: (T, S, S, 3) uint8."""
    axis = np.arange(size) + 0.5
    floor = np.stack(
        [axis[None] * 2 + axis[:, None], axis[:, None] * 3 + 20 + axis[None] * 0, 200 - axis[None] - axis[:, None]], -1
    )
    pictures = []
    for t in range(frames):
        x, y = size / 2 + size / 4 * np.cos(0.3 * t + seed), size / 2 + size / 4 * np.sin(0.2 * t)
        ball = 1 / (1 + np.exp(np.hypot(axis[None] - x, axis[:, None] - y) - size / 6))[..., None]
        pictures.append(floor * (1 - ball) + np.array([200, 90, 60]) * ball)
    return np.stack(pictures).clip(0, 255).astype(np.uint8)


def episode(id: int, frames: int, size: int = 32, actions: int = 2) -> dict[str, np.ndarray]:
    """An episode with every kind of column; the last action and reward are not zero."""
    rng = np.random.default_rng(id)
    return {
        "pixels": smooth_frames(frames, size, id),
        "action": rng.uniform(-1, 1, (frames, actions)).astype(np.float32),
        "reward": rng.random(frames, np.float32) + 0.1,
        "state": rng.standard_normal((frames, 3)).astype(np.float32),
        "contact": rng.integers(0, 2, frames).astype(np.int64),
        "segmentation": rng.integers(0, 9, (frames, size, size), dtype=np.uint8),
        "is_first": np.arange(frames) == 0,
    }


def write_store(folder: Path, lengths: list[int], size: int = 32) -> EpisodeStore:
    """A store with an episode of each length, in two shards or more, with a split and details of its own."""
    splits = ["train", "test", "validation"]
    with StoreWriter(folder, INFO, shard_bytes=1) as writer:
        for id, frames in enumerate(lengths):
            writer.add(
                episode(id, frames, size),
                policy=f"policy {id}",
                seed=id + 7,
                renderer="egl",
                split=splits[id % 3],
                details={"gain": id / 3},
            )
    return EpisodeStore.open(folder)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    """Likeness of pictures in dB."""
    return float(10 * np.log10(255**2 / max(np.mean((one.astype(float) - two.astype(float)) ** 2), 1e-9)))
