"""``aime imagine RUN``: a dream as a video and a strip.

aime imagine runs/humanoid-walk                                    what really followed beside what is dreamed
aime imagine runs/humanoid-walk --actions random --dreams 4        four futures under random actions
aime imagine runs/humanoid-walk --actions plan.npy --frames 200    actions of your own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from tyro.conf import Positional, arg

from aime.commands.flags import parse
from aime.config import Device
from aime.errors import ConfigError, DataError
from aime.places import require_folder

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImagineFlags:
    """Watch a few frames of a held-out episode, then dream what follows from the actions alone."""

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """A run folder, a checkpoint folder, a bundled model or a hub name."""
    frames: int = 48
    """Frames to dream, as many as you like."""
    context_frames: int = 8
    """Frames to watch before the dream."""
    actions: str = "data"
    """data (those really taken), zero, random, or a .npy file (frames, action size) in [-1, 1], dreamed to its end."""
    dreams: int = 1
    """Dreams of the same beginning side by side; more than one are drawn at random from the belief."""
    seed: int = 0
    """Decides what is drawn at random."""
    clip: int = 0
    """Which of the held-out clips to begin from, counted from 0; they take turns over the episodes."""
    split: Literal["train", "validation", "test"] = "test"
    """The episodes that clips are taken from."""
    data_dir: Path | None = None
    """Other data than that which the model was trained on."""
    out: Path | None = None
    """Where the video and the strip go; by default the run's pictures/."""
    columns: int = 12
    """Frames that the strip shows, evenly spaced."""
    video: Literal["mp4", "gif"] = "mp4"
    """Format of the video."""
    device: Device = "auto"
    """Where to compute."""

    def __post_init__(self) -> None:
        for name in ("frames", "context_frames", "dreams", "columns"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "clip"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")


def run(argv: Sequence[str]) -> int:
    """The command."""
    flags = parse(ImagineFlags, argv, prog="aime imagine")

    import torch

    from aime.commands.subject import open_subject
    from aime.pictures import draw_dream_video, draw_strip

    subject = open_subject(flags.run, data_dir=flags.data_dir, device=flags.device)
    folder = flags.out or subject.folder / "pictures"
    require_folder(folder)
    model, context = subject.model, flags.context_frames
    really = flags.actions == "data"
    length = context + flags.frames if really else context
    advice = "give fewer --frames, or --actions random, zero or a file, which may go on as long as you like"
    clip = subject.clip(flags.split, flags.clip, length, advice=advice)
    frames, taken, first = clip["observations"], clip["actions"], clip["is_first"]

    ahead = taken[:, context:] if really else own_actions(flags, model.config.action_dim).to(model.device)
    belief = model.observe(frames[:, :context], taken[:, :context], first[:, :context])
    dreams = model.imagine(
        belief.repeat(flags.dreams),
        ahead.expand(flags.dreams, -1, -1),
        sample=flags.dreams > 1,
        generator=torch.Generator(model.device).manual_seed(flags.seed),
    ).observations

    names = ["dream"] if flags.dreams == 1 else [f"dream {n + 1}" for n in range(flags.dreams)]
    panels: dict[str, Tensor]
    if really:
        panels = {"truth": frames[0], **dict(zip(names, dreams, strict=True))}
    else:  # nobody knows what would really have followed: the dreams stand alone, each behind what was watched
        watched = frames[0].float() / 255
        panels = {name: torch.cat([watched, dream]) for name, dream in zip(names, dreams, strict=True)}
    stem = f"imagine-{Path(flags.actions).stem}"
    strip = folder / f"{stem}.png"
    draw_strip(panels, strip, context_frames=context, title=subject.title, columns=flags.columns)
    video = draw_dream_video(panels, folder / f"{stem}.{flags.video}", context_frames=context)
    print(f"{subject.title}: watched {context} frames, dreamed {ahead.shape[1]}\n  {strip}\n  {video}")
    return 0


def own_actions(flags: ImagineFlags, size: int) -> Tensor:
    """Actions that were not taken in the data: (1, frames, size) in [-1, 1].

    Raises:
        DataError: the file is missing, is not an array, or has another shape or range; it says what was found.
    """
    import torch

    if flags.actions == "zero":
        return torch.zeros(1, flags.frames, size)
    if flags.actions == "random":
        generator = torch.Generator().manual_seed(flags.seed)
        return torch.rand(1, flags.frames, size, generator=generator) * 2 - 1
    path = Path(flags.actions)
    if path.suffix != ".npy":
        raise ConfigError(f"--actions must be data, zero, random or a .npy file, not {flags.actions!r}")
    try:
        # Not np.load: that opens archives by any name, too.
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a NumPy array: {error}") from error
    shaped = array.ndim == 2 and len(array) > 0 and array.shape[1] == size
    if not shaped or not np.issubdtype(array.dtype, np.number):
        raise DataError(f"{path} must hold numbers of shape (frames, {size}), not {array.dtype} of {array.shape}")
    if not np.abs(array).max(initial=0) <= 1:
        raise DataError(f"{path} must hold actions in [-1, 1], but they span [{array.min():.4g}, {array.max():.4g}]")
    return torch.from_numpy(array.astype(np.float32))[None]
