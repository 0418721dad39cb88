"""The commands of ``aime``, one module each, with ``run(argv) -> exit code``; `aime.cli` imports the one asked for."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """Where a command lives, and what it does in a line."""

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "collect": Command("aime.commands.collect", "record video of a simulated task"),
    "train": Command("aime.commands.train", "train a world model; goes on where it stopped"),
    "evaluate": Command("aime.commands.evaluate", "figures on held-out episodes: reconstructions and dreams"),
    "benchmark": Command("aime.commands.benchmark", "AIME and its peer at equal time on the same data: one table"),
    "ablate": Command("aime.commands.ablate", "what each pillar is worth: AIME with one at a time switched off"),
    "imagine": Command("aime.commands.imagine", "dream a video from a few frames and any actions"),
    "inspect": Command("aime.commands.inspect", "pictures of what a model sees, attends to, believes and dreams"),
    "share": Command("aime.commands.share", "a trained model in a small folder of its own, to give away"),
    "data": Command("aime.commands.data", "import and export episodes: LeRobot, DMC-VB, Minari, video, …"),
    "bench": Command("aime.commands.bench", "how fast it is on this machine, in one table"),
    "doctor": Command("aime.doctor", "what this machine has, and what would improve it"),
}
