"""``aime share RUN --out FOLDER``: a trained model in a folder of its own, small enough to give away.

aime share runs/cartpole-swingup --out pretrained/cartpole-swingup     then: aime imagine pretrained/cartpole-swingup
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from aime.commands.flags import parse
from aime.errors import ConfigError


@dataclass(frozen=True)
class ShareFlags:
    """Write a trained model, its evaluation and a few held-out episodes to dream from into one folder.

    The folder holds what `aime imagine`, `evaluate`, `inspect` and `aime.load` need, and names no place of this
    machine. It cannot be trained further as a run; --load-checkpoint starts a new one from its weights.
    """

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """A run folder or a checkpoint folder."""
    out: Path
    """The folder to make. It must not exist."""
    episodes: int = 2
    """Episodes of the test split to put in, the first ones; 0 for none."""
    episode_length: int | None = None
    """Frames of each of them, from its first on; by default all. A dream needs its context and its horizon."""
    half: bool = True
    """Weights in half precision: half the size, and no difference to be seen."""
    data_dir: Path | None = None
    """Other data than that which the model was trained on."""

    def __post_init__(self) -> None:
        if self.episodes < 0:
            raise ConfigError(f"episodes must not be negative, got {self.episodes}")
        if self.episode_length is not None and self.episode_length < 2:
            raise ConfigError(f"episode_length must be at least 2 frames, got {self.episode_length}")


def run(argv: Sequence[str]) -> int:
    """The command."""
    flags = parse(ShareFlags, argv, prog="aime share")

    from aime.commands.subject import EPISODES, Subject, open_subject
    from aime.config import replace
    from aime.data.store import StoreWriter
    from aime.studies.recipe import describe
    from aime.training.checkpoint import save_checkpoint
    from aime.training.disk import disk_errors

    def share(subject: Subject) -> int:
        store, config = subject.store, subject.checkpoint.config
        data = replace(config.data, env=store.task, data_dir=None)
        plain = replace(config, data=data, run_dir=None, load_checkpoint=None)
        state = {"step": subject.checkpoint.step, "trained_on": describe(store)}
        save_checkpoint(flags.out, subject.model, plain, state=state, half=flags.half)
        evaluation = subject.folder / "evaluation" / "evaluation.json"
        if evaluation.is_file():
            content = json.loads(evaluation.read_text("utf-8"), parse_float=_short)
            (flags.out / evaluation.name).write_text(json.dumps(content, separators=(",", ":")), "utf-8")
        chosen = store.split("test")[: flags.episodes]
        if chosen:
            with StoreWriter(flags.out / EPISODES, store.index.info) as writer:
                for id in chosen:
                    record = store.record(id)
                    writer.add(
                        {name: column[: flags.episode_length] for name, column in store.episode(id).items()},
                        policy=record.policy,
                        seed=record.seed,
                        renderer=record.renderer,
                        split="test",
                        details=record.details,
                    )
        return len(chosen)

    if flags.out.exists():
        raise ConfigError(f"{flags.out} is there already; give another --out, or move it away")
    subject = open_subject(flags.run, data_dir=flags.data_dir, device="cpu")
    with disk_errors("the model to share", flags.out.parent, "the run is untouched"):
        episodes = share(subject)
    size = sum(file.stat().st_size for file in flags.out.rglob("*") if file.is_file())
    print(f"{flags.out}: {subject.title}, {size / 1e6:.1f} MB, {episodes} episodes; dream: aime imagine {flags.out}")
    return 0


def _short(number: str) -> float:
    """A figure of an evaluation to five digits: more than its interval vouches for, in half the space."""
    return float(f"{float(number):.5g}")
