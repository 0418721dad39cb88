"""The command line: ``aime COMMAND``, for collecting, training, evaluating, comparing and looking inside.

    aime train                                    humanoid-walk at the base preset; collects its video first
    aime train --preset tiny --env cartpole-swingup    the laptop-sized variant

A command's own module is imported only when that command is asked for, so that ``aime --help`` answers at once. What a
user can mend is printed as one sentence and ends with exit code 2; ``--debug`` shows where it came from.
"""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from aime import __version__
from aime.commands import COMMANDS
from aime.errors import AimeError, unknown
from aime.pages import keep_freed_memory
from aime.places import in_the_way

FAILED = 2
INTERRUPTED = 130

_HELP = """\
usage: aime COMMAND [--flags]

AIME learns a world model from video and actions, and dreams what follows from any actions one proposes.

{commands}

  aime COMMAND --help   all the flags of a command
  --debug               show where an error came from
  --version             print the version

Start here: aime train --preset tiny --env cartpole-swingup"""


def _help() -> str:
    width = max(map(len, COMMANDS))
    return _HELP.format(commands="\n".join(f"  {name:<{width}}   {c.summary}" for name, c in COMMANDS.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command and its flags; by default those the program was called with.

    Returns:
        The exit code: 0, or 2 for anything that the user can mend, or 130 after Ctrl-C.
    """
    return call(_dispatch, list(sys.argv[1:] if argv is None else argv))


def call(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command on its flags, and turn whatever a user can mend into a sentence and an exit code."""
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if debug:  # AIME's own, not the thousand lines of a plotting library looking for its fonts
        logging.getLogger("aime").setLevel(logging.DEBUG)
    try:
        return command(arguments)
    except SystemExit as stop:  # tyro's way out after --help
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except (AimeError, OSError, MemoryError, RuntimeError) as error:
        sentence = _sentence(error)
        if sentence is None:  # nothing that a user can mend: a defect, whose traceback is wanted
            raise
        if debug:
            traceback.print_exc()
        print(f"aime: {sentence}", file=sys.stderr)
        return FAILED


def _sentence(error: BaseException) -> str | None:
    """What to tell a person about an error; None where there is nothing they could do about it."""
    if isinstance(error, AimeError):
        return str(error)
    blocked = isinstance(error, FileExistsError | NotADirectoryError) and error.filename
    if blocked and (said := in_the_way(Path(blocked))) is not None:
        return said
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror[0].lower()}{error.strerror[1:]}{place}"
    # torch is not imported for this: where it never was, it cannot have run out of memory.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "out of memory; try a smaller --batch-size, --sequence-length or --num-codebook-perceiver, or --preset tiny"
        )
    return None


def _dispatch(arguments: list[str]) -> int:
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"aime {__version__}")
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    keep_freed_memory()
    run = importlib.import_module(COMMANDS[name].module).run
    return int(run(rest) or 0)


if __name__ == "__main__":
    sys.exit(main())
