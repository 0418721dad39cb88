"""What is evaluated, and on how much."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

from aime.data.store import EpisodeStore
from aime.errors import ConfigError
from aime.evaluation.clips import count_clips, longest_episode
from aime.evaluation.fvd import SHORTEST
from aime.observation import MOTION_THRESHOLD

log = logging.getLogger("aime")


@dataclass(frozen=True)
class EvaluationConfig:
    """The protocol. Two evaluations can be compared when all of it is equal, and the data's fingerprint too."""

    context_frames: int = 8
    """Frames watched before each dream."""
    horizon: int = 40
    """Frames dreamed."""
    clips: int = 256
    """Fixed clips of the split."""
    samples: int = 8
    """Dreams drawn per clip, for the best of them and for calibration; 0 draws none."""
    batch_size: int = 16
    """Clips at once."""
    seed: int = 0
    """Seed of the clips, the draws and the intervals."""
    split: str = "test"
    """Episodes to evaluate on."""
    readout_clips: int = 256
    """Training clips on which the read-out of the physical state is fitted and components are compared with policies; 0
    does neither."""
    resamples: int = 1000
    """Bootstrap resamples behind each interval."""
    motion_threshold: float = MOTION_THRESHOLD
    """Change since the last frame watched, of 1, above which a pixel counts as moving."""
    fvd: bool = False
    """Measure the Fréchet video distance, too, which sends every clip through a large network. It needs I3D on the
    machine, as i3d_torchscript.pt where torch.hub keeps its checkpoints; nothing is downloaded."""

    def __post_init__(self) -> None:
        least = {"samples": 0, "readout_clips": 0, "seed": 0}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < least.get(field.name, 1):
                raise ConfigError(f"{field.name} must be at least {least.get(field.name, 1)}, not {value}")
        if not 0.0 <= self.motion_threshold < 1.0:
            raise ConfigError(f"motion_threshold must be in [0, 1), not {self.motion_threshold}")
        if self.fvd and self.horizon < SHORTEST:
            raise ConfigError(f"fvd is of videos of {SHORTEST} frames at least, so horizon {self.horizon} is too short")

    @property
    def length(self) -> int:
        """Frames of a clip."""
        return self.context_frames + self.horizon

    def on(self, store: EpisodeStore) -> EvaluationConfig:
        """The protocol on a store: on all the clips of the split where it has fewer than are asked for.

        Raises:
            ConfigError: no episode of the split is as long as a clip.
        """
        self.check_fits(store)
        there = count_clips(store, self.split, self.length)
        if there >= self.clips:
            return self
        log.info("the %s split has %d clips of %d frames: all of them", self.split, there, self.length)
        return dataclasses.replace(self, clips=there)

    def check_fits(self, store: EpisodeStore) -> None:
        """Refuse clips that are longer than every episode, with what would fit.

        Raises:
            ConfigError: no episode of the split is as long as a clip.
        """
        longest = longest_episode(store, self.split)
        if longest < self.length:
            horizon, context = longest - self.context_frames, longest - self.horizon
            fits = [f"--horizon {horizon}"] if horizon >= 1 else []
            fits += [f"--context-frames {context}"] if context >= 1 else []
            advice = f"use {' or '.join(fits)} at most" if fits else "watch and dream fewer frames"
            raise ConfigError(
                f"{self.context_frames} watched and {self.horizon} dreamed frames need episodes of {self.length}, but "
                f"the longest {self.split} episode of {store.path} has {longest}: {advice}, or collect longer episodes"
            )
