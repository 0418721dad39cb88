"""Which renderer works on this machine: EGL, else OSMesa, else MuJoCo Warp on the CPU, which needs no system package.

    python -m aime.data.rendering

A renderer that does not work may take the process down, so each is tried in a process of its own (under a second);
what was found is kept in the user's cache for as long as the packages and libraries stay the same. ``MUJOCO_GL=egl`` or
``osmesa`` in the environment is tried first.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from aime.data.frames import renderer_environment
from aime.errors import RenderError, unknown

Renderer = Literal["egl", "osmesa", "warp"]
RendererName = Literal["auto", "egl", "osmesa", "warp"]
RENDERERS: tuple[Renderer, ...] = get_args(Renderer)

_TIMEOUT = 60.0
"""Seconds after which a renderer that is being tried counts as hanging."""
_HANGS = f"gave no frame within {_TIMEOUT:.0f} s"

_TRY_GL = """
from dm_control import mujoco
physics = mujoco.Physics.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 2'/><geom size='1'/><camera pos='0 0 4'/></worldbody></mujoco>")
frame = physics.render(32, 32, camera_id=0)
assert frame.max() > frame.min(), "the frame is blank"
physics.free()
"""
_TRY_WARP = "import mujoco, mujoco_warp"

_PACKAGES = {
    "egl": "apt-get install libegl1 libopengl0 libgl1-mesa-dri",
    "osmesa": "apt-get install libosmesa6",
    "warp": "pip install mujoco-warp",
}


@dataclass(frozen=True)
class RendererChoice:
    """The renderer to draw with, and why."""

    name: Renderer
    reason: str
    """A clause for a person."""
    improve: str
    """The one line that would improve it; empty if nothing would."""
    tried: dict[str, str]
    """For each renderer that was tried: empty if it works, else what went wrong."""


def select_renderer(name: str = "auto", *, refresh: bool = False) -> RendererChoice:
    """The best renderer that works, or the named one if it does.

    Args:
        name: auto, egl, osmesa or warp.
        refresh: try again rather than believe the cache.

    Raises:
        RenderError: the named one does not work, or none does; the sentence says why and what to install.
        ConfigError: no such renderer.
    """
    if name not in get_args(RendererName):
        raise unknown("renderer", name, get_args(RendererName))
    known = {} if refresh else _read_cache()
    tried: dict[str, str] = {}
    for candidate in _order() if name == "auto" else [r for r in RENDERERS if r == name]:
        tried[candidate] = known[candidate] if candidate in known else try_renderer(candidate)
        if not tried[candidate]:
            # A machine that was only busy may have made one hang, so that is not remembered.
            _write_cache({**known, **{tested: message for tested, message in tried.items() if message != _HANGS}})
            improve = _improvement(candidate) if name == "auto" else ""
            return RendererChoice(candidate, _reason(name, candidate), improve, tried)
    why = "; ".join(f"{candidate}: {message}" for candidate, message in tried.items())
    if name == "auto":
        raise RenderError(f"no renderer works on this machine ({why}). Try: {_PACKAGES['warp']}")
    raise RenderError(
        f"the renderer {name} does not work here ({why}). Try: {_PACKAGES[name]}; or choose --renderer auto"
    )


def try_renderer(name: str) -> str:
    """Draws a frame in a process of its own. Empty if that works, else the last line of what went wrong."""
    environment = {**os.environ, **renderer_environment(name)}
    code = _TRY_WARP if name == "warp" else _TRY_GL
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return _HANGS
    if done.returncode == 0:
        return ""
    # dm_control complains once more while its half-made objects are deleted; the reason is in the traceback before.
    lines = [line.strip() for line in done.stderr.split("Exception ignored")[0].splitlines() if line.strip()]
    return lines[-1] if lines else f"the process ended with code {done.returncode}"


def _order() -> list[Renderer]:
    wish = os.environ.get("MUJOCO_GL", "").lower()
    return sorted(RENDERERS, key=lambda renderer: renderer != wish)


def _reason(asked: str, found: Renderer) -> str:
    if asked != "auto":
        return "as asked for"
    if os.environ.get("MUJOCO_GL", "").lower() == found:
        return "named by MUJOCO_GL, and works"
    return "the first that works of " + ", ".join(RENDERERS)


def _improvement(found: Renderer) -> str:
    if found != "warp":
        return ""
    return f"for MuJoCo's own frames (sites, tendons, skins, reflections): {_PACKAGES['egl']}"


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aime" / "renderers.json"


def _cache_key() -> str:
    """Changes with whatever could change what works: packages, graphics libraries, the variables that lead to them."""
    facts = [platform.node(), sys.executable, _TRY_GL, _TRY_WARP]
    for package in ("mujoco", "dm_control", "mujoco-warp", "PyOpenGL"):
        try:
            facts.append(metadata.version(package))
        except metadata.PackageNotFoundError:
            facts.append("none")
    facts += [str(ctypes.util.find_library(library)) for library in ("EGL", "OpenGL", "GL", "OSMesa")]
    facts += [
        os.environ.get(name, "") for name in ("LD_LIBRARY_PATH", "DISPLAY", "MUJOCO_EGL_DEVICE_ID", "VK_ICD_FILENAMES")
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _read_cache() -> dict[str, str]:
    try:
        content = json.loads(_cache_file().read_text())
    except (OSError, ValueError):
        return {}  # none yet, or not ours to mend: the renderers are tried again
    known = content.get(_cache_key(), {}) if isinstance(content, dict) else {}
    return known if isinstance(known, dict) else {}


def _write_cache(known: dict[str, str]) -> None:
    path = _cache_file()
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({_cache_key(): known}))
        os.replace(temporary, path)
    except OSError:
        return  # a home that cannot be written to costs a second next time, no more


if __name__ == "__main__":
    choice = select_renderer(refresh=True)
    print(f"{choice.name}: {choice.reason}")
    for tried_name, message in choice.tried.items():
        print(f"  {tried_name}: {message or 'works'}")
    if choice.improve:
        print(choice.improve)
