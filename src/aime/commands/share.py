"""``aime share RUN --out FOLDER``: a trained model in a folder of its own, small enough to give away.

aime share runs/cartpole-swingup --out pretrained/cartpole-swingup     then: aime imagine pretrained/cartpole-swingup
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from aime.commands.flags import parse
from aime.errors import ConfigError, DataError

if TYPE_CHECKING:
    from aime.commands.subject import Subject
    from aime.data.store import EpisodeStore

_PLACE = re.compile(r"""(?<![^\s"'(=:,])/(?:[^/\s]+/)*(?=[^/\s])""")
"""An absolute path up to its last name."""


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

    from aime.commands.subject import open_subject
    from aime.training.disk import disk_errors

    if flags.out.exists():
        raise ConfigError(f"{flags.out} is there already; give another --out, or move it away")
    subject = open_subject(flags.run, data_dir=flags.data_dir, device="cpu")
    chosen = _episodes(subject.store, flags.episodes)
    evaluation, left_out = _evaluation(subject, flags.out.name)
    making = flags.out.with_name(f".sharing-{flags.out.name}")
    with disk_errors("the model to share", flags.out.parent, "the run is untouched"):
        try:
            _write(subject, making, flags, chosen, evaluation)
            making.rename(flags.out)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    size = sum(file.stat().st_size for file in flags.out.rglob("*") if file.is_file())
    print(f"{flags.out}: {subject.title}, {size / 1e6:.1f} MB, {len(chosen)} episodes; dream: aime imagine {flags.out}")
    if left_out:
        print(left_out)
    return 0


def _episodes(store: EpisodeStore, count: int) -> list[int]:
    """The first episodes of the test split, as many as are asked for."""
    try:
        return store.split("test")[:count] if count else []
    except DataError as error:
        raise DataError(f"{error}. Or share the model alone: --episodes 0") from error


def _evaluation(subject: Subject, name: str) -> tuple[dict[str, Any] | None, str]:
    """The evaluation to put in, if there is one of this model, and otherwise what there is to say.

    Args:
        name: what the model is called in it, in place of the path that it was evaluated by.
    """
    from aime.evaluation.report import REPORT

    made, brought = subject.folder / "evaluation" / REPORT, subject.checkpoint.folder / REPORT
    path = made if made.is_file() else brought  # a model that was shared before brings its own
    if not path.is_file():
        return None, ""
    try:
        found = json.loads(path.read_text("utf-8"), parse_float=_short)
        step = found["model"]["step"]
    except (ValueError, KeyError, TypeError) as error:
        return None, f"Left out: {path} cannot be read as an evaluation ({error!r})"
    if step != subject.checkpoint.step:
        return None, (
            f"Left out: {path} is of step {step}, and what is shared of step {subject.checkpoint.step}; "
            "evaluate that with aime evaluate, and share it again"
        )
    found["model"]["name"] = name
    return _without_places(found), ""


def _write(
    subject: Subject, folder: Path, flags: ShareFlags, episodes: Sequence[int], evaluation: dict[str, Any] | None
) -> None:
    from aime.config import replace
    from aime.data.store import StoreWriter
    from aime.evaluation.report import REPORT
    from aime.training.checkpoint import save_checkpoint
    from aime.training.locate import EPISODES

    store, checkpoint, config = subject.store, subject.checkpoint, subject.checkpoint.config
    policy = config.data.policy_file
    data = replace(
        config.data,
        env=checkpoint.state.get("task", config.data.env),
        data_dir=None,
        policy_file=None if policy is None else Path(policy.name),
    )
    plain = replace(config, data=data, run_dir=None, load_checkpoint=None)
    state = {"step": checkpoint.step, "trained_on": _trained_on(subject)}
    save_checkpoint(folder, subject.model, plain, state=state, half=flags.half)
    if evaluation is not None:
        (folder / REPORT).write_text(json.dumps(evaluation, separators=(",", ":")), "utf-8")
    if not episodes:
        return
    with StoreWriter(folder / EPISODES, store.index.info) as writer:
        for id in episodes:
            record = store.record(id)
            writer.add(
                {name: column[: flags.episode_length] for name, column in store.episode(id).items()},
                policy=record.policy,
                seed=record.seed,
                renderer=record.renderer,
                split="test",
                details=record.details,
            )


def _trained_on(subject: Subject) -> dict[str, Any]:
    """The data that the model learned from: of other data, such as --data-dir may name, nothing is said."""
    from aime.studies.recipe import describe

    state = subject.checkpoint.state
    if "trained_on" in state:  # shared before
        return dict(state["trained_on"])
    fingerprint = state.get("data_fingerprint")
    return describe(subject.store) if subject.store.fingerprint == fingerprint else {"fingerprint": fingerprint}


def _without_places(value: Any) -> Any:
    """The same with the last name alone of each absolute path."""
    if isinstance(value, dict):
        return {name: _without_places(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return _PLACE.sub("", value) if isinstance(value, str) else value


def _short(number: str) -> float:
    """A figure of an evaluation to five digits: more than its interval vouches for, in half the space."""
    return float(f"{float(number):.5g}")
