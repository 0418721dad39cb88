"""What `evaluate`, `imagine` and `inspect` work on: a trained model, and the data it learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from aime.config import Device
from aime.data.dataset import Window, fixed_clips, read_window
from aime.data.store import EpisodeStore
from aime.errors import ConfigError
from aime.evaluation.clips import count_clips, longest_episode
from aime.training.build import build_model
from aime.training.checkpoint import Checkpoint, load_checkpoint, require_same_model
from aime.training.device import resolve_device
from aime.training.locate import EPISODES, locate

OUTPUTS = Path("outputs")
"""Where what is made of models without a run goes; never into a run that happens to have their name."""
CLIPS = 256
"""Clips of a split to choose one from: so many, or all there are."""


@dataclass(frozen=True)
class Subject:
    """A model and its data."""

    model: Any
    checkpoint: Checkpoint
    store: EpisodeStore
    folder: Path
    """Where what is made of it goes: the run's folder, or, for a model without a run, one of its name here."""

    @property
    def title(self) -> str:
        """The model in a few words, for pictures."""
        return f"{self.store.task}, {self.checkpoint.config.preset}, step {self.checkpoint.step}"

    def clip(self, split: str, number: int, length: int, *, advice: str) -> dict[str, Tensor]:
        """One of the fixed clips of a split, counted from 0, on the model's device, with a batch dimension of 1.

        They take turns over the episodes: first a clip of each, then a second of each.

        Raises:
            ConfigError: no episode is as long; it says how long they are, and the advice. Or there is no such clip.
        """
        longest = longest_episode(self.store, split)
        if longest < length:
            raise ConfigError(
                f"that takes an episode of {length} frames, but the longest {split} episode of {self.store.path} has "
                f"{longest}; {advice}"
            )
        there = min(CLIPS, count_clips(self.store, split, length))
        if number >= there:
            raise ConfigError(
                f"there is no --clip {number}: the {split} split of {self.store.path} has {there} fixed clips of "
                f"{length} frames, counted from 0; give {there - 1} at most"
            )
        window = _in_turns(fixed_clips(self.store, split, length, there, keys=()))[number]
        clip = read_window(self.store, window, length, ("observations", "actions", "is_first"))
        return {name: values[None].to(self.model.device) for name, values in clip.items()}


def open_subject(name: str, *, data_dir: Path | None = None, device: Device = "auto") -> Subject:
    """Load a model and open the data it was trained on, or other data that fits it.

    Args:
        name: a run folder, a checkpoint folder, a bundled model or a hub name.
        data_dir: the episodes; by default those that came with the model, or those that the run was trained on.
        device: where to put the model.

    Raises:
        CheckpointError: no such model, or it does not fit the data's actions.
        DataError: no such data.
        ConfigError: the data's frames have another size than the model's.
    """
    checkpoint = load_checkpoint(locate(name))
    own = checkpoint.folder / EPISODES
    store = EpisodeStore.open(data_dir or (own if own.is_dir() else checkpoint.config.data.data_path))
    require_same_model(checkpoint, checkpoint.config.model.for_actions(store.action_dim))
    size = checkpoint.model_config.input_dim
    if store.image_size != size:
        raise ConfigError(
            f"{name} takes frames of {size}×{size} pixels, but those in {store.path} are "
            f"{store.image_size}×{store.image_size}; give data of its size with --data-dir"
        )
    model = build_model(checkpoint.config.world_model, checkpoint.model_config)
    checkpoint.restore_model(model)
    return Subject(model.to(resolve_device(device)).eval(), checkpoint, store, _folder(name, checkpoint.folder))


def _in_turns(clips: Mapping[str, Tensor]) -> list[Window]:
    """Where clips lie, in turns over their episodes. Ask for no keys, and no frame is read for it."""
    had: Counter[int] = Counter()
    places = []
    for episode, start in zip(clips["episode"].tolist(), clips["start"].tolist(), strict=True):
        places.append((had[episode], Window(episode, start)))
        had[episode] += 1
    return [window for _, window in sorted(places)]


def _folder(name: str, checkpoint: Path) -> Path:
    if checkpoint.parent.name == "checkpoints":
        return checkpoint.parent.parent
    return OUTPUTS / Path(name).name
