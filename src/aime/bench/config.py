"""What is measured, how often, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from aime.config import BalancerName, Device, Precision, Preset
from aime.errors import ConfigError, unknown

Section = Literal["step", "pillars", "balance", "peer", "parallel", "streaming", "loading", "growth"]
SECTIONS: tuple[Section, ...] = get_args(Section)

CLIPS: dict[str, int] = {"tiny": 16, "base": 4, "large": 4}
"""Clips in a batch, where no flag says otherwise."""
GROWTH = (16, 32, 64, 128)
"""Frames of the clips over which growth is measured."""


@dataclass(frozen=True)
class BenchConfig:
    """AIME's speed on this machine in one table: a training step, its pillars, and what it is compared with.

    Whatever is compared takes turns within this one run. A matrix product is timed at the start and at the end: if it
    changed, other programs were busy, and the figures are worse than the machine.

    The sections: step, pillars (shares of a step), balance (against a summed backward), peer (an RSSM of as many
    parameters), parallel (over time, against frame by frame), streaming (watching and dreaming), loading, growth.
    """

    presets: tuple[Preset, ...] = ("tiny", "base")
    """Sizes of the model to measure."""
    only: tuple[Section, ...] = SECTIONS
    """Sections to measure; the others are left out."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""
    precision: Precision = "auto"
    """Precision of every section but step, which has both; auto is what aime train takes here."""
    batch_size: int | None = None
    """Clips in a training step; by default 16 for tiny and 4 for the others."""
    sequence_length: int = 16
    """Frames in a clip, and the span of the Perceiver; its latents per frame stay those of the preset."""
    balancer: BalancerName = "rgb"
    """What balances the gradients in a step."""
    repeats: int = 5
    """Rounds in which whatever is compared takes turns, after one to warm up."""
    quick: bool = False
    """Two rounds only, whatever --repeats says."""
    threads: int | None = None
    """Threads that torch computes with; by default as many as it takes by itself."""
    data_dir: Path | None = None
    """Store to load windows from; by default one is made for the while, of synthetic video."""
    out: Path | None = None
    """Write all figures into this JSON file, too."""

    def __post_init__(self) -> None:
        for name in ("presets", "only"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must name at least one, or be left out")
        for section in self.only:
            if section not in SECTIONS:
                raise unknown("section", section, SECTIONS)
        for name, least in (("batch_size", 1), ("sequence_length", 2), ("repeats", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")

    @property
    def rounds(self) -> int:
        """How often each thing is timed."""
        return min(2, self.repeats) if self.quick else self.repeats
