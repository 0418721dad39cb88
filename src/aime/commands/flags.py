"""From a dataclass to command-line flags and back: tyro does the parsing, this adds sentences for what people mistype.

tyro makes the flags and the help from a dataclass and its field docstrings. Its own messages for a mistyped flag or
value are boxes that quote Python; here the command line is looked over first, against the same dataclass, and what is
wrong with it is said as every other error of AIME is: in one sentence, with the nearest names that exist.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import types
from collections import deque
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from aime.errors import AimeError, ConfigError, unknown

Settings = TypeVar("Settings")

# One name space for all the groups of settings: --latent-dim, not --model.latent-dim.
_STYLE = (tyro.conf.OmitArgPrefixes,)
_NUMBERS = {int: "a whole number", float: "a number"}


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag: its field's name, the type of one of its values, and how many it takes (None: any number)."""

    field: str
    hint: Any
    takes: int | None
    choices: tuple[str, ...] = ()
    positional: bool = False
    required: bool = False

    @property
    def name(self) -> str:
        return "--" + self.field.replace("_", "-")


def flags_of(settings: type) -> dict[str, Flag]:
    """All the flags of a dataclass of settings, those of the groups inside it too, by name (``--latent-dim``)."""
    flags: dict[str, Flag] = {}
    hints = get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            flags |= flags_of(hint)  # type: ignore[arg-type]
        elif field.init:
            flag = _flag(field.name, hint)
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            flags[flag.name] = dataclasses.replace(flag, required=required)
    return flags


def _flag(field: str, hint: Any) -> Flag:
    positional = False
    if get_origin(hint) is Annotated:
        positional = any(mark is tyro.conf.Positional for mark in get_args(hint)[1:])
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        hint = kinds[0] if len(kinds) == 1 else str
    if hint is bool:
        return Flag(field, bool, 0, positional=positional)
    takes: int | None = 1
    if get_origin(hint) in (tuple, list):
        kinds = list(get_args(hint))
        takes = None if get_origin(hint) is list or kinds[-1] is Ellipsis else len(kinds)
        hint = kinds[0]
    if get_origin(hint) is Literal:
        return Flag(field, str, takes, choices=tuple(str(c) for c in get_args(hint)), positional=positional)
    return Flag(field, hint, takes, positional=positional)


def look_over(flags: dict[str, Flag], argv: Sequence[str], prog: str) -> None:
    """Refuse a flag or a value that does not exist or cannot be read, in a sentence that names the nearest."""
    named = {name: flag for name, flag in flags.items() if not flag.positional}
    switches_off = {"--no-" + name[2:]: flag for name, flag in named.items() if flag.takes == 0}
    places = deque(flag for flag in flags.values() if flag.positional)
    missing = {name for name, flag in named.items() if flag.required}
    tokens = deque(argv)
    while tokens:
        token = tokens.popleft()
        if token in ("-h", "--help"):
            return
        if not token.startswith("--"):
            if not places:
                raise ConfigError(f"unexpected argument {token!r}; {prog} --help shows how the command is called")
            places.popleft()
            continue
        name, equals, value = token.partition("=")
        name = name.replace("_", "-")
        flag = named.get(name) or switches_off.get(name)
        if flag is None:
            raise _unknown_flag(name, [*named, *switches_off] if name.startswith("--no-") else list(named), prog)
        missing.discard(flag.name)
        values = [value] if equals else []
        while tokens and not equals and not tokens[0].startswith("--") and len(values) != flag.takes:
            values.append(tokens.popleft())
        _check(flag, values)
        if flag.takes == 0 and tokens and tokens[0].lower() in ("true", "false", "yes", "no", "0", "1", "on", "off"):
            raise ConfigError(f"{name} is a switch and takes no value: --{flag.name[2:]} or --no-{flag.name[2:]}")
    needs = [place.field.upper() for place in places if place.required] + [name for name in named if name in missing]
    if needs:
        raise ConfigError(f"{prog} needs {' and '.join(needs)}; {prog} --help shows how the command is called")


def _unknown_flag(name: str, valid: list[str], prog: str) -> ConfigError:
    if get_close_matches(name, valid):
        return unknown("flag", name, valid)
    return ConfigError(f"unknown flag {name!r}; {prog} --help lists the flags")


def _check(flag: Flag, values: list[str]) -> None:
    kind = _NUMBERS.get(flag.hint, "a value")
    if flag.takes is not None and len(values) != flag.takes:
        needs = f"needs {kind}" if flag.takes == 1 else f"needs {flag.takes} values, not {len(values)}"
        choices = f": one of {', '.join(flag.choices)}" if flag.choices else ""
        raise ConfigError(f"{flag.name} {needs}{choices}" if flag.takes else f"{flag.name} is a switch without a value")
    for value in values:
        if flag.choices and value not in flag.choices:
            raise ConfigError(f"{flag.name} must be one of {', '.join(flag.choices)}, not {value!r}")
        if flag.hint in _NUMBERS:
            try:
                flag.hint(value)
            except ValueError:
                raise ConfigError(f"{flag.name} must be {kind}, not {value!r}") from None


def parse(settings: type[Settings], argv: Sequence[str], *, prog: str, default: Settings | None = None) -> Settings:
    """The settings that a command line asks for.

    Args:
        settings: a dataclass; dataclasses inside it are groups whose flags stand beside its own.
        argv: the flags, without the command's name.
        prog: what the help calls the command.
        default: the settings where no flag says otherwise, such as a preset's.

    Raises:
        ConfigError: a flag or a value that cannot work, in one sentence.
        SystemExit: with code 0, after ``--help``.
    """
    flags = flags_of(settings)
    look_over(flags, argv, prog)
    said, complaint = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint):
            if default is None:
                return tyro.cli(settings, args=list(argv), prog=prog, config=_STYLE)
            return tyro.cli(settings, args=list(argv), prog=prog, default=default, config=_STYLE)
    except SystemExit as stop:
        if stop.code in (0, None):
            print(_plainer(_text(said)), end="")
            raise
        refused = _cause(stop)
        message = _unboxed(_text(complaint)) if refused is None else _with_flag_names(str(refused), flags)
        raise ConfigError(message) from refused


def _cause(stop: BaseException) -> AimeError | None:
    """The settings' own refusal, where that is what made tyro stop."""
    error = stop.__cause__ or stop.__context__
    while error is not None and not isinstance(error, AimeError):
        error = error.__cause__ or error.__context__
    return error


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def _plainer(text: str) -> str:
    """Help without Python's None; what is cut is made up with spaces, so that the boxes keep their edges."""
    text = re.sub(r"\{None\}\|([\w,{}]+)", lambda m: m[1] + " " * len("{None}|"), text)
    return re.sub(r"\(default:[\s│]+None\)", lambda m: re.sub(r"[^\s│]", " ", m[0]), text)


def _with_flag_names(message: str, flags: dict[str, Flag]) -> str:
    """A person at the command line knows --latent-dim, not latent_dim."""
    for flag in flags.values():
        if "_" in flag.field or message.startswith(flag.field + " "):
            message = re.sub(rf"(?<![\w-]){flag.field}(?!\w)", flag.name, message)
    return message


def _unboxed(box: str) -> str:
    """What tyro says in a box, as one line, down to the rule that sets its hints apart."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    end = next((i for i, line in enumerate(lines) if not line), len(lines))
    return " ".join(lines[:end]) or "the flags could not be read"
