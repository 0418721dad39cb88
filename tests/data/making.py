"""Small stores whose frames say where they come from."""

from pathlib import Path

import numpy as np

from aime.data.store import EpisodeStore, StoreInfo, StoreWriter

INFO = StoreInfo("test-walk", time_step=0.1, action_repeat=1)


def make_episode(id: int, frames: int, size: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """An episode whose frame t has (id, t // 256, t % 256) as its first pixel and t / 1000 as its first action."""
    rng = np.random.default_rng([seed, id])
    pixels = rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
    time = np.arange(frames)
    pixels[:, 0, 0] = np.stack([np.full(frames, id), time // 256, time % 256], axis=1)
    action = rng.uniform(-1, 1, (frames, 2)).astype(np.float32)
    action[:, 0] = time / 1000
    return {
        "pixels": pixels,
        "action": action,
        "reward": rng.random(frames, dtype=np.float32),
        "state": rng.standard_normal((frames, 3)).astype(np.float32),
        "is_first": time == 0,
    }


def make_store(folder: Path, lengths: list[int], *, seed: int = 0, shard_bytes: int = 10**9) -> EpisodeStore:
    """A store with one episode of each length."""
    with StoreWriter(folder, INFO, shard_bytes=shard_bytes) as writer:
        for id, frames in enumerate(lengths):
            writer.add(make_episode(id, frames, seed=seed), policy="test", seed=seed)
    return EpisodeStore.open(folder)
