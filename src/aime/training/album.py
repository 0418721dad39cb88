"""Whole episodes as perception sees them once it rests: watched once, learned from at any place.

    album = Album(store, sequence_length=48, seed=0, trained_on=10_000)
    album.open(step, watch)          # before each step; watches the episodes that are not in it yet
    seen, windows = album.draw(64)   # clips of latents at random …
    album.frames(windows, at)        # … and what they look like

A memory of clips that were watched (`aime.training.memory`) holds the same stretches over and over, and dynamics comes
to know each by its actions. Here clips begin all along every episode, and their contexts are of the clip alone: those
of the episode know what was before it, as no context does of who has watched for a few frames. An album is not saved:
perception that rests sees again what it saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from aime.data.dataset import Window, WindowDataset, read_window
from aime.data.store import EpisodeStore
from aime.inputs import to_unit_frames
from aime.rehearsal import Recollection
from aime.world_model import OBSERVE_CHUNK, WorldModel

FIRST_FRAMES = 2**14
"""Frames that are watched before the first step, at most; at each step one more episode is."""
MOST_FRAMES = 2**17
"""Frames that it holds. Where there are more, the oldest episode goes when another comes."""
STARTS = 8
"""Some so many clips of an album hold a frame; for each of them it has a context."""
RECALLED = 64
"""Clips whose contexts are found at once."""


def starts_of(length: int, clip: int) -> list[int]:
    """Where clips begin in an episode of so many frames, the last so that it ends there."""
    return [*range(0, length - clip, max(1, clip // STARTS)), length - clip]


@dataclass(frozen=True)
class Page:
    """A whole episode as a model sees it."""

    seen: Recollection
    """With the contexts of who watched all of it."""
    starts: list[int]
    """Where clips begin in it."""
    contexts: Float[Tensor, "starts clip context"]
    """Those of who watches but the clip, for each of them; zero where dynamics does not hear contexts."""

    def clip(self, number: int) -> Recollection:
        """One of those clips."""
        start, length = self.starts[number], self.contexts.shape[1]
        return replace(self.seen.clip(start, start + length), context=self.contexts[number, None])


class Album:
    """The episodes of a split, or in turn as many as it holds, as a resting model sees them.

    Args:
        store: where the episodes are; those shorter than a clip are left out.
        sequence_length: frames in a clip.
        seed: decides in which order they come.
        trained_on: frames that training has seen so far. To watch many more at once would cost a short run more time
            than training did.
        split: of the store, whose episodes these are.

    Raises:
        DataError: the split is empty, or all its episodes are shorter than a clip.
    """

    def __init__(
        self, store: EpisodeStore, sequence_length: int, seed: int, trained_on: int, split: str = "train"
    ) -> None:
        dataset = WindowDataset(store, split, sequence_length)
        order = np.random.default_rng(seed).permutation(len(dataset.episodes))
        self._store, self._clip = store, sequence_length
        self._first_frames = min(FIRST_FRAMES, trained_on)
        self._ids: list[int] = dataset.episodes[order].tolist()
        self._lengths: list[int] = dataset.lengths[order].tolist()
        self._pages: dict[int, Page] = {}
        """By turn, which goes on counting where the episodes begin again."""

    def open(self, step: int, watch: Callable[[int], Page]) -> None:
        """Have the episodes in it that belong to step number `step` (from 0); `watch` sees one, by its id."""
        wanted = self._turns(step)
        for turn in [turn for turn in self._pages if turn not in wanted]:
            del self._pages[turn]
        for turn in wanted:
            if turn not in self._pages:
                self._pages[turn] = watch(self._ids[turn % len(self._ids)])

    def draw(self, clips: int) -> tuple[Recollection, list[Window]]:
        """Clips at random, each as likely as the next; and where they are."""
        pages = list(self._pages.items())
        counts = torch.tensor([len(page.starts) for _, page in pages])
        ends = counts.cumsum(0)
        choice = torch.randint(int(ends[-1]), (clips,))
        which = torch.searchsorted(ends, choice, right=True)
        number = choice - (ends - counts)[which]
        windows, pieces = [], []
        for (turn, page), n in zip([pages[p] for p in which.tolist()], number.tolist(), strict=True):
            windows.append(Window(self._ids[turn % len(self._ids)], page.starts[n]))
            pieces.append(page.clip(n))
        return Recollection.together(pieces), windows

    def frames(self, windows: list[Window], at: Int64[Tensor, " n"]) -> UInt8[Tensor, "clips n 3 height width"]:
        """Some frames of clips that were drawn, the same of each."""
        clips = (read_window(self._store, window, self._clip, ["observations"]) for window in windows)
        return torch.stack([clip["observations"][at] for clip in clips])

    def _length(self, turn: int) -> int:
        return self._lengths[turn % len(self._lengths)]

    def _turns(self, step: int) -> range:
        """The turns that are in it at a step: all if they fit, else the latest."""
        first, frames = 0, 0
        while first < len(self._ids) and (first == 0 or frames + self._length(first) <= self._first_frames):
            frames += self._length(first)
            first += 1
        end = first + step
        if sum(self._lengths) <= MOST_FRAMES:
            return range(min(end, len(self._ids)))
        begin, frames = end, 0
        while begin > 0 and (begin == end or frames + self._length(begin - 1) <= MOST_FRAMES):
            begin -= 1
            frames += self._length(begin)
        return range(begin, end)


@torch.no_grad()
def watch_episode(model: WorldModel, store: EpisodeStore, episode: int, clip: int) -> Page:
    """A whole episode, of `clip` frames at least, as a model sees it, which learns nothing from that."""
    length = store.record(episode).length
    item = read_window(store, Window(episode, 0), length, ["observations", "actions", "is_first"])
    frames, actions = (item[name][None].to(model.device) for name in ("observations", "actions"))
    first = item["is_first"][None]  # stays on the host, where the core looks for resets
    training, belief, pieces = model.training, None, []
    model.eval()
    try:
        for start in range(0, length, OBSERVE_CHUNK):
            piece = slice(start, start + OBSERVE_CHUNK)
            seen = model.watch(
                to_unit_frames(frames[:, piece]), actions[:, piece], first[:, piece], belief, sample=False
            )
            belief = seen.belief
            pieces.append((seen.latent_mean, seen.latent_log_var, seen.sights.context, seen.sights.read))
        mean, log_var, context, read = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
        starts = starts_of(length, clip)
        if model.config.perceiver_context:
            clips = torch.stack([read[0, at : at + clip] for at in starts])
            contexts = torch.cat([model.perceiver.recall(some) for some in clips.split(RECALLED)])
        else:  # nobody is to hear them, and to find them takes a tenth of the watching
            contexts = context.new_zeros(1).expand(len(starts), clip, context.shape[-1])
    finally:
        model.train(training)
    return Page(Recollection(mean, log_var, context, actions, first), starts, contexts)
