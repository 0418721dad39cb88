"""A run's settings as a YAML file and back: ``config.yaml`` in the run folder and in every checkpoint.

The file has one section per group of settings (model, loss, …). A file written by hand may leave settings out (they
keep the values of its ``preset``) and may write them flat, as on the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from aime.config import AIMES_ALONE, TrainConfig, replace
from aime.errors import ConfigError, unknown
from aime.presets import preset_config

RETIRED = {"pose_dim": 0}
"""Settings that are gone, each with the value at which it did nothing: runs that were made with that go on."""


def settings(config: Any) -> dict[str, Any]:
    """Every single setting by its flat name, the groups taken apart: {"env": …, "latent_dim": …, "max_steps": …}."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flat |= settings(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return flat


def differences(old: Any, new: Any, *, ignore: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
    """The settings whose values differ, as {name: (old, new)}, in the order in which they are declared."""
    before, after = settings(old), settings(new)
    skip = set(ignore)
    return {
        name: (before.get(name), after.get(name))
        for name in before | after
        if name not in skip and before.get(name) != after.get(name)
    }


def to_yaml(config: TrainConfig) -> str:
    """The settings as YAML, in sections, each value as the command line would take it.

    Settings that a peer does not have are left out of its file: its run stays readable when their defaults change.
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return list(value)
        return str(value) if isinstance(value, Path) else value

    tree = plain(config)
    if config.world_model != "aime":
        for group, names in AIMES_ALONE.items():
            tree[group] = {name: value for name, value in tree[group].items() if name not in names}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=False)


def from_yaml(text: str, source: str | Path = "config.yaml", world_model: str | None = None) -> TrainConfig:
    """The settings that a YAML text holds.

    Args:
        text: what `to_yaml` wrote, or a part of it; settings left out keep the values of its ``preset``.
        source: the file's name, for messages.
        world_model: stronger than what the text says; what it leaves out is then this model's.

    Raises:
        ConfigError: not YAML, or an unknown setting (with the nearest known ones), or a value of the wrong kind.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        raise ConfigError(f"{source} is not a YAML file{line}; each line should read 'setting: value'") from error
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source} holds no settings; each line should read 'setting: value'")

    groups = {f.name: hint for f, hint in _fields(TrainConfig) if dataclasses.is_dataclass(hint)}
    owner = {f.name: group for group, kind in groups.items() for f in dataclasses.fields(kind)}
    owner |= {f.name: "" for f in dataclasses.fields(TrainConfig) if f.name not in groups}
    hints = {f.name: hint for f, hint in _fields(TrainConfig) if f.name not in groups}
    hints |= {f.name: hint for kind in groups.values() for f, hint in _fields(kind)}

    changes: dict[str, dict[str, Any]] = {group: {} for group in (*groups, "")}
    for name, value in _leaves(tree, groups, owner, source):
        if name in RETIRED and value == RETIRED[name]:
            continue
        if name not in owner:
            raise ConfigError(f"{source}: {unknown('setting', name, owner)}")
        changes[owner[name]][name] = _convert(value, hints[name], name, source)
    if world_model is not None:
        changes[""]["world_model"] = world_model
    try:
        config = preset_config(changes[""].get("preset", "base"), changes[""].get("world_model", "aime"))
        parts = {group: replace(getattr(config, group), **changes[group]) for group in groups}
        return replace(config, **parts, **changes[""])
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def read_config(path: Path, world_model: str | None = None) -> TrainConfig:
    """The settings in a file; see `from_yaml`."""
    try:
        return from_yaml(path.read_text(encoding="utf-8"), path, world_model)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no settings file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}") from error


def _fields(kind: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]


def _leaves(
    tree: Mapping[Any, Any], groups: Iterable[str], owner: Mapping[str, str], source: str | Path
) -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if name in groups and isinstance(value, Mapping):
            yield from ((str(inner), v) for inner, v in value.items())
        elif name not in groups or name in owner:  # "balancer" names a section and a setting in it
            yield str(name), value
        elif value is not None:
            raise ConfigError(f"{source}: {name} is a section and takes settings of its own, not {value!r}")


def _convert(value: Any, hint: Any, name: str, source: str | Path) -> Any:
    """The value as the setting's type, so that 1 may stand for 1.0, and 1e-4 (text, to YAML) for 0.0001."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None:
            return None
        return _convert(value, next(arg for arg in args if arg is not type(None)), name, source)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{source}: {unknown(name, value, args)}")
        return value
    if origin is tuple and isinstance(value, list | tuple) and len(value) == len(args):
        return tuple(_convert(item, kind, name, source) for item, kind in zip(value, args, strict=True))
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    expected = wanted.get(hint, f"{len(args)} numbers in brackets")
    raise ConfigError(f"{source}: {name} must be {expected}, not {value!r}")
