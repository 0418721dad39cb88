"""The renderer is found by trying, remembered, and never takes this process down."""

from pathlib import Path

import pytest

from aime.data import rendering
from aime.data.rendering import RENDERERS, select_renderer
from aime.errors import ConfigError, RenderError


@pytest.fixture
def tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache; renderers 'work' unless named in BROKEN_<name>. The list holds those that were tried."""
    tried: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MUJOCO_GL", raising=False)

    def attempt(name: str) -> str:
        import os

        tried.append(name)
        return os.environ.get(f"BROKEN_{name}", "")

    monkeypatch.setattr(rendering, "try_renderer", attempt)
    return tried


def test_the_first_that_works_is_taken_and_remembered(tries: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN_egl", "no display")
    choice = select_renderer()
    assert choice.name == "osmesa"
    assert choice.tried == {"egl": "no display", "osmesa": ""}
    assert tries == ["egl", "osmesa"]
    assert select_renderer() == choice
    assert tries == ["egl", "osmesa"], "nothing is tried twice"
    monkeypatch.delenv("BROKEN_egl")
    assert select_renderer(refresh=True).name == "egl"
    assert select_renderer().name == "egl"


def test_a_machine_without_graphics_draws_with_warp_and_says_what_would_be_better(
    tries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN_egl", "no library")
    monkeypatch.setenv("BROKEN_osmesa", "no library")
    choice = select_renderer()
    assert choice.name == "warp"
    assert "apt-get install" in choice.improve


def test_the_environment_is_asked_first(tries: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert select_renderer().name == "osmesa"
    assert tries == ["osmesa"]
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert select_renderer().name == "egl"


def test_other_libraries_mean_trying_again(tries: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    select_renderer()
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere/else")
    select_renderer()
    assert tries == ["egl", "egl"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"key": 3}'])
def test_a_broken_cache_costs_nothing_but_time(tries: list[str], tmp_path: Path, content: str) -> None:
    (tmp_path / "aime").mkdir()
    (tmp_path / "aime" / "renderers.json").write_text(content)
    assert select_renderer().name == "egl"


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tries: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert select_renderer().name == "egl"
    assert select_renderer().name == "egl"
    assert tries == ["egl", "egl"]


def test_what_does_not_work_is_said_with_what_to_install(tries: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN_osmesa", "no libOSMesa")
    with pytest.raises(RenderError, match=r"osmesa does not work here.*no libOSMesa.*libosmesa6.*auto"):
        select_renderer("osmesa")
    for name in RENDERERS:
        monkeypatch.setenv(f"BROKEN_{name}", "broken")
    with pytest.raises(RenderError, match=r"no renderer works.*egl: broken; osmesa: broken; warp: broken.*pip install"):
        select_renderer(refresh=True)
    with pytest.raises(ConfigError, match="did you mean osmesa"):
        select_renderer("mesa")


def test_a_renderer_that_fails_does_so_in_its_own_process() -> None:
    message = rendering.try_renderer("no-such-backend")
    assert "MUJOCO_GL" in message
