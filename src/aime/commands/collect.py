"""``aime collect``: record video of a simulated task into a store that `aime train` reads.

aime collect --env humanoid-walk                             into data/humanoid-walk/
aime collect --env cartpole-swingup --episodes 8             seconds on a laptop
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from aime.commands.flags import parse
from aime.data.collect import CollectConfig, CollectProgress, collect

log = logging.getLogger("aime")


def run(argv: Sequence[str]) -> int:
    """The command."""
    config = parse(CollectConfig, argv, prog="aime collect")

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.0f} frames/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task(config.env, total=None, speed=0.0)

    def tell(progress: CollectProgress) -> None:
        bar.start()  # not before: where nothing is collected there is nothing to show
        speed = progress.frames / progress.seconds if progress.seconds else 0.0
        bar.update(task, completed=progress.frames, total=progress.total_frames, speed=speed)

    try:
        store = collect(config, tell)
    finally:
        bar.stop()
    print(f"{store.path}: {len(store)} episodes, {store.frames} frames of {store.task}, {store.action_dim} actions")
    return 0
