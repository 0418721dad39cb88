"""``aime data import | export``: episodes from and to the formats of others.

aime data import demos.hdf5 --out data/demos                                a store that aime train reads
aime data import videos/ --out data/robot --image-size 64                   videos, each with a CSV of actions
aime data export data/humanoid-walk --format lerobot --out humanoid-lerobot
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from aime.commands.flags import parse
from aime.data.formats.exporting import ExportConfig, export_data
from aime.data.formats.importing import ImportConfig, import_data
from aime.data.formats.registry import FORMATS, writable
from aime.data.formats.whole import Tell
from aime.data.store import EpisodeStore
from aime.errors import ConfigError, unknown


@dataclass(frozen=True)
class ImportFlags:
    """Make a store of episodes that lie in another format. The source is only read."""

    source: Annotated[Path, Positional, arg(metavar="SOURCE")]
    """The file or folder."""
    out: Path | None = None
    """Folder of the store to make, such as data/NAME; by default data/ and the name of the source."""
    format: str | None = None
    """Its format: rlds, lerobot, minari, swm, npz, video or robomimic; guessed where it is not given."""
    image_size: int | None = None
    """Height and width of the frames, a multiple of 16; by default the source's where they are that, else 64."""
    crop: bool = False
    """Cut the middle square out of wide frames, rather than squeeze them."""
    camera: str | None = None
    """Which camera, where the source has several."""
    action_low: tuple[float, ...] = ()
    """Lowest action in the source's units, which becomes -1: one number for all, or one for each."""
    action_high: tuple[float, ...] = ()
    """Highest action, which becomes 1."""
    measure_actions: bool = False
    """Take the lowest and highest action in the data for their bounds; videos do so unless bounds are given."""
    action_leads: Literal["auto", "after", "before"] = "auto"
    """Was a row's action taken after its frame, or did it lead there, as in Dreamer's files? auto: the format says."""
    task: str | None = None
    """What to call the task; by default what the source says, or the name of the store."""
    time_step: float | None = None
    """Seconds from one frame to the next, where the source does not say or is wrong."""
    episodes: int | None = None
    """Take the first so many episodes only."""

    def __post_init__(self) -> None:
        self.config()

    def config(self) -> ImportConfig:
        """The flags as the import takes them."""
        leads = None if self.action_leads == "auto" else self.action_leads
        out = self.out or Path("data") / self.source.resolve().stem
        return ImportConfig(**vars(self) | {"out": out, "action_leads": leads})


@dataclass(frozen=True)
class ExportFlags:
    """Write a store's episodes in another format."""

    store: Annotated[Path, Positional, arg(metavar="STORE")]
    """Folder of the store."""
    format: str
    """The format: lerobot, minari, swm, npz, video or robomimic."""
    out: Path
    """The folder to make, or the file for swm and robomimic. It must not exist."""
    episodes: tuple[int, ...] = ()
    """Ids of the episodes to write; by default all."""


_HELP = """\
usage: aime data import SOURCE [--out data/NAME] [--format FORMAT] [--flags]
       aime data export STORE --format FORMAT --out PLACE [--flags]

Episodes from and to the formats of others.

{formats}

  aime data import --help   all the flags of the import
  aime data export --help   all the flags of the export"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    verbs = {"import": _import, "export": _export}
    verb, *rest = argv or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(_HELP.format(formats=_formats()))
        return 0
    if verb.startswith("-"):
        raise ConfigError(f"aime data is followed by import or export, not {verb!r}")
    if verb not in verbs:
        raise unknown("command", f"data {verb}", [f"data {name}" for name in verbs])
    return verbs[verb](rest)


def _formats() -> str:
    ways = {name: "import, export" if name in writable() else "import" for name in FORMATS}
    return "\n".join(f"  {name:<10}  {ways[name]:<14}  {format.summary}" for name, format in FORMATS.items())


def _import(argv: Sequence[str]) -> int:
    flags = parse(ImportFlags, argv, prog="aime data import")
    config = flags.config()
    with _bar(f"import {flags.source.name}") as tell:
        store = import_data(config, tell)
    print(_describe(store))
    return 0


def _export(argv: Sequence[str]) -> int:
    flags = parse(ExportFlags, argv, prog="aime data export")
    with _bar(f"export {flags.store.name}") as tell:
        path = export_data(ExportConfig(**vars(flags)), tell)
    print(f"{path}: {flags.format}")
    return 0


def _describe(store: EpisodeStore) -> str:
    size = f"{store.image_size}×{store.image_size}"
    return (
        f"{store.path}: {len(store)} episodes, {store.frames} frames of {store.task} at {size}, "
        f"{store.action_dim} actions; train on it with: aime train --data-dir {store.path}"
    )


@contextmanager
def _bar(name: str) -> Iterator[Tell]:
    """A progress bar on the terminal, which appears with the first episode."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes, {task.fields[frames]} frames"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(name, total=None, frames=0)

    def tell(episodes: int, frames: int, total: int | None) -> None:
        bar.start()
        bar.update(task, completed=episodes, total=total, frames=frames)

    try:
        yield tell
    finally:
        bar.stop()
