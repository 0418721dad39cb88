"""Windows of episodes as tensors, in an order that is reproducible and can be resumed anywhere.

    dataset = WindowDataset(store, "train", sequence_length=16)
    stream = BatchStream(dataset, batch_size=4, seed=0)
    batch = next(stream)                 # observations (4, 16, 3, 64, 64) uint8, actions, is_first
    stream.state_dict()                  # {"epoch": 0, "position": 4}: go on from here after a restart

The sampler draws which frames a window covers from (seed, epoch); the dataset only reads them. So the batches do not
depend on the number of worker processes, and nothing is carried from one window to the next.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from aime.data.store import EpisodeStore
from aime.errors import ConfigError, DataError, unknown

KEYS = {
    "observations": "pixels",
    "actions": "action",
    "is_first": "is_first",
    "rewards": "reward",
    "states": "state",
    "segmentation": "segmentation",
}
"""Names of the tensors of a window, and the stored columns that they come from."""

Item = dict[str, Tensor]


class Window(NamedTuple):
    """A stretch of frames: which episode, and its first frame there."""

    episode: int
    start: int


class WindowDataset(Dataset[Item]):
    """Windows of `sequence_length` frames from the episodes of a split; none crosses from one episode into another.

    An item is a dict: `observations` uint8 (T, 3, H, W), `actions` float32 (T, A) (the one taken after each frame),
    `is_first` bool (T,), true where the window holds the first frame of its episode, and on request `rewards` float32
    (T,) (received for that action), `states` (T, S) and `segmentation` uint8 (T, H, W). Index it with a `Window`, or
    with a number: window n of `windows(None)`, which has no randomness.

    Args:
        keys: the tensors wanted. Those that the store does not have are left out; `self.keys` says which are there.

    Raises:
        DataError: the split is empty, or all its episodes are shorter than a window.
        ConfigError: no such split or key.
    """

    def __init__(
        self,
        store: EpisodeStore,
        split: str,
        sequence_length: int,
        keys: Sequence[str] = ("observations", "actions", "is_first"),
    ) -> None:
        if sequence_length < 1:
            raise ConfigError(f"sequence_length must be at least 1, got {sequence_length}")
        for key in keys:
            if key not in KEYS:
                raise unknown("key of a window", key, KEYS)
        self.store = store
        self.split = split
        self.sequence_length = sequence_length
        self.keys = tuple(key for key in keys if KEYS[key] in store.columns)
        ids = store.split(split)
        lengths = np.array([store.record(id).length for id in ids])
        enough = lengths >= sequence_length
        if not enough.any():
            raise DataError(
                f"no episode of the {split} split of {store.path} is as long as a window: the longest has "
                f"{lengths.max()} frames, sequence_length is {sequence_length}"
            )
        self.episodes = np.array(ids)[enough]
        """Ids of the episodes that windows come from."""
        self.lengths = lengths[enough]
        """Frames of each of them."""
        self._counts = self.lengths // sequence_length
        self._ends = np.cumsum(self._counts)

    def __len__(self) -> int:
        """Windows in an epoch: as many as lie side by side in the episodes."""
        return int(self._ends[-1])

    def windows(self, rng: np.random.Generator | None) -> list[Window]:
        """The windows of one epoch, episode by episode.

        Each episode's possible first frames are cut into as many equal parts as it has windows; one is drawn from each
        part. So every window of the data can come, and an epoch sees all parts of every episode. Without `rng` it is
        the first of each part.
        """
        places = np.arange(len(self))
        within = rng.random(len(self)) if rng is not None else np.zeros(len(self))
        return self._locate(places, within)

    def __getitem__(self, index: Window | tuple[int, int] | int) -> Item:
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"window {index} of {len(self)}")
            index = self._locate(np.array([index % len(self)]), np.zeros(1))[0]
        return read_window(self.store, Window(*index), self.sequence_length, self.keys)

    def _locate(self, places: np.ndarray, within: np.ndarray) -> list[Window]:
        episode = np.searchsorted(self._ends, places, side="right")
        part = places - (self._ends - self._counts)[episode]
        starts = self.lengths[episode] - self.sequence_length + 1
        first = np.floor((part + within) / self._counts[episode] * starts).astype(np.int64)
        return [Window(int(id), int(at)) for id, at in zip(self.episodes[episode], first, strict=True)]


def read_window(store: EpisodeStore, window: Window, length: int, keys: Sequence[str]) -> Item:
    """One window as tensors (see `WindowDataset`)."""
    rows = store.read(window.episode, window.start, window.start + length, [KEYS[key] for key in keys])
    item: Item = {}
    for key in keys:
        array = rows[KEYS[key]]
        if key == "observations":
            array = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
        item[key] = torch.from_numpy(array)
    return item


class EpochSampler(Sampler[Window]):
    """The windows of one epoch in random order, from a position onwards.

    (seed, epoch) decide which windows and in which order, `start` how many of them were had before. Change `epoch` and
    `start` between epochs with `set_epoch`.

    Args:
        rank, world_size: this process takes every `world_size`-th window from its rank; all take equally many.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        seed: int,
        epoch: int = 0,
        start: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank must be in [0, world_size), got {rank} of {world_size}")
        if seed < 0:
            raise ConfigError(f"seed must not be negative, got {seed}")
        self.dataset = dataset
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.set_epoch(epoch, start)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Goes to an epoch, `start` windows (of all ranks together) into it."""
        if epoch < 0 or not 0 <= start <= len(self.dataset):
            raise ConfigError(
                f"epoch {epoch}, position {start} is not in data with {len(self.dataset)} windows an epoch"
            )
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        return (len(self.dataset) - self.start) // self.world_size

    def __iter__(self) -> Iterator[Window]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch]))
        windows = self.dataset.windows(rng)
        order = rng.permutation(len(windows))[self.start :]
        mine = order[: len(self) * self.world_size][self.rank :: self.world_size]
        return (windows[place] for place in mine)


def make_loader(
    dataset: WindowDataset,
    sampler: EpochSampler,
    batch_size: int,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Item]:
    """Batches of windows in the sampler's order, read ahead by `workers` processes (0: by this one, when asked).

    A last batch that would be short is left out. Workers are spawned, not forked: a forked worker hangs where its
    parent has decoded video.
    """
    # A generator of its own: the loader draws a seed for its workers, which must not move the model's random state.
    own = torch.Generator()
    if workers == 0:
        return DataLoader(dataset, batch_size, sampler=sampler, drop_last=True, pin_memory=pin_memory, generator=own)
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        drop_last=True,
        pin_memory=pin_memory,
        generator=own,
        num_workers=workers,
        multiprocessing_context="spawn",
        persistent_workers=True,
        prefetch_factor=4,
        worker_init_fn=_leave_ctrl_c_to_the_parent,
    )


def _leave_ctrl_c_to_the_parent(worker: int) -> None:
    """A terminal's Ctrl-C reaches the workers, too, and the parent could not even save its work if one of them died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class BatchStream:
    """Batches without end, epoch after epoch, that can be resumed to the window.

    `epoch` and `position` count what was handed out, not what was read ahead. Use it as an iterator; `close` it, or use
    it with `with`, so that the workers go at once and not when it is garbage-collected.

    Raises:
        DataError: an epoch has fewer windows than a batch.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batch_size: int,
        seed: int,
        *,
        epoch: int = 0,
        position: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sampler = EpochSampler(dataset, seed, rank=rank, world_size=world_size)
        self._step = batch_size * world_size
        if len(dataset) < self._step:
            raise DataError(
                f"the {dataset.split} split of {dataset.store.path} has {len(dataset)} windows of "
                f"{dataset.sequence_length} frames, fewer than a batch of {self._step}: collect more episodes, or make "
                "the batch or the windows smaller"
            )
        self._make_loader = partial(make_loader, dataset, self.sampler, batch_size, workers, pin_memory)
        self._loader = self._make_loader()
        self._batches: Iterator[Item] | None = None
        self.load_state_dict({"epoch": epoch, "position": position})

    @property
    def batches_per_epoch(self) -> int:
        """Batches in a whole epoch."""
        return len(self.sampler.dataset) // self._step

    def state_dict(self) -> dict[str, int]:
        """Where the stream is: the batch that follows is the same after `load_state_dict`."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where another stream over the same data was."""
        self.epoch = int(state["epoch"])
        self.position = int(state["position"])
        self.sampler.set_epoch(self.epoch, self.position)
        self._batches = None

    def close(self) -> None:
        """Lets the workers go. The stream stays where it is; asking it for a batch begins with new ones."""
        self.load_state_dict(self.state_dict())
        self._loader = self._make_loader()  # the workers went with the old one's iterator

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Item:
        if self.position + self._step > len(self.sampler.dataset):
            self.load_state_dict({"epoch": self.epoch + 1, "position": 0})
        if self._batches is None:
            self._batches = iter(self._loader)
        batch = next(self._batches)
        self.position += self._step
        return batch


def fixed_clips(
    store: EpisodeStore,
    split: str,
    length: int,
    count: int,
    seed: int = 0,
    keys: Sequence[str] = ("observations", "actions", "is_first"),
) -> Item:
    """The same clips every time, spread over the episodes of a split: for evaluation.

    Returns:
        The tensors of `WindowDataset` with a leading dimension of `count`, and `episode`, `start` (count,): where each
        clip comes from. No clip comes twice.

    Raises:
        DataError: the split has fewer clips of that length than `count`.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, got {count}")
    dataset = WindowDataset(store, split, length, keys)
    rng = np.random.default_rng(np.random.SeedSequence([seed, length]))
    starts = {int(id): int(n) - length + 1 for id, n in zip(dataset.episodes, dataset.lengths, strict=True)}
    if sum(starts.values()) < count:
        raise DataError(
            f"the {split} split of {store.path} has {sum(starts.values())} clips of {length} frames, fewer than "
            f"the {count} wanted: collect more episodes, or ask for fewer or shorter clips"
        )
    # Rounds over the episodes, so that each gives equally many as long as it has any left.
    share = dict.fromkeys(starts, 0)
    turns = (id for _ in range(count) for id in starts if share[id] < starts[id])
    for id in islice(turns, count):
        share[id] += 1
    clips = []
    for id, parts in share.items():
        edges = np.linspace(0, starts[id], parts + 1).astype(int)
        clips += [Window(id, int(rng.integers(low, high))) for low, high in pairwise(edges)]
    items = [read_window(store, clip, length, dataset.keys) for clip in clips]
    batch = {key: torch.stack([item[key] for item in items]) for key in dataset.keys}
    batch["episode"] = torch.tensor([clip.episode for clip in clips])
    batch["start"] = torch.tensor([clip.start for clip in clips])
    return batch
