"""``aime inspect RUN``: the pictures of what a model sees, reconstructs, dreams, attends to and believes.

aime inspect runs/humanoid-walk                     into runs/humanoid-walk/pictures/
aime inspect runs/humanoid-walk --frames 96         a longer dream
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from aime.commands.flags import parse
from aime.config import Device
from aime.errors import ConfigError
from aime.places import require_folder


@dataclass(frozen=True)
class InspectFlags:
    """Draw what a model sees, reconstructs, dreams, attends to and believes, and the curves of its run."""

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """A run folder, a checkpoint folder, a bundled model or a hub name."""
    frames: int = 32
    """Frames of the clip, watched and dreamed together."""
    context_frames: int = 8
    """Frames to watch before the dream."""
    clip: int = 0
    """Which of the held-out clips, counted from 0; they take turns over the episodes."""
    split: Literal["train", "validation", "test"] = "test"
    """The episodes that clips are taken from."""
    data_dir: Path | None = None
    """Other data than that which the model was trained on."""
    out: Path | None = None
    """Where the pictures go; by default the run's pictures/."""
    device: Device = "auto"
    """Where to compute."""

    def __post_init__(self) -> None:
        if not 1 <= self.context_frames < self.frames:
            raise ConfigError(f"context_frames must be at least 1 and less than frames, got {self.context_frames}")
        if self.clip < 0:
            raise ConfigError(f"clip must not be negative, got {self.clip}")


def run(argv: Sequence[str]) -> int:
    """The command."""
    flags = parse(InspectFlags, argv, prog="aime inspect")

    from aime.commands.subject import open_subject
    from aime.pictures import plot_metrics, write_run_pictures

    subject = open_subject(flags.run, data_dir=flags.data_dir, device=flags.device)
    folder = flags.out or subject.folder / "pictures"
    require_folder(folder)
    clip = subject.clip(flags.split, flags.clip, flags.frames, advice="give fewer --frames")
    written = write_run_pictures(subject.model, **clip, folder=folder, context_frames=flags.context_frames)
    if (subject.folder / "metrics.jsonl").is_file():
        written += plot_metrics(subject.folder, folder)
    print(f"{subject.title}: {len(written)} pictures")
    for path in written:
        print(f"  {path}")
    return 0
