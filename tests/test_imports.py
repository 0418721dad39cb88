"""Imports run downwards only, and a pillar never imports another: the house stays as docs/architecture.md draws it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src/aime"

PILLARS = {"perception", "belief", "dynamics", "attention", "learning"}
BELOW = {
    "errors": set[str](),
    "attend": set[str](),
    "pages": set[str](),
    "config": {"errors"},
    "places": {"errors"},
    **{part: {"attend", "config", "errors"} for part in (*PILLARS, "data", "pictures", "inputs")},
    "outputs": PILLARS | {"inputs"},
    "lesson": {"config"},
    "sight": {"attention", "lesson", "perception"},
    "watched": PILLARS | {"outputs", "sight"},
    "observation": set[str](),
    "transition": {"belief", "dynamics", "outputs"},
    "losses": PILLARS | {"config", "lesson", "observation", "outputs"},
    "world_model": PILLARS
    | {"config", "errors", "inputs", "lesson", "losses", "observation", "outputs", "sight", "transition", "watched"},
    "presets": {"config", "errors"},
    "bench": {
        "belief",
        "config",
        "data",
        "errors",
        "inputs",
        "learning",
        "outputs",
        "pages",
        "presets",
        "training",
        "world_model",
    },
}
"""What each part may import, besides itself."""
ABOVE_THE_MODEL = {"bench", "commands", "cli", "doctor"}
"""What nothing below them may import; training and evaluation do not import each other either."""


def imports(path: Path) -> set[str]:
    """The parts of aime that a file imports, anywhere in it but for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: list[str] = []
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names += [f"aime.{alias.name}" for alias in node.names] if module == "aime" else [module]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("aime.")} - {"__version__"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_imports_run_downwards(path: Path):
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    found = imports(path) - {part}
    if part in BELOW:
        assert found <= BELOW[part]
    if part in ("training", "evaluation"):
        other = {"training", "evaluation"} - {part}
        assert not found & (ABOVE_THE_MODEL | other | {"studies"})
    if part == "studies":
        assert not found & ABOVE_THE_MODEL
