"""The data of studies: collected by one recipe, and refused where they were not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aime.data.policies import MIXTURE
from aime.errors import ConfigError, DataError
from aime.studies.recipe import RECIPE, Recipe, describe, prepare
from aime.training import prepare as preparing
from tests.studies.conftest import RECIPE as SMALL
from tests.studies.conftest import TASK, write_store


def test_what_the_recipe_collects_is_by_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(episodes=3, test_episodes=2, episode_length=5, policy="ou", image_size=32)
    store = prepare(["cartpole-swingup"], tmp_path, recipe)["cartpole-swingup"]
    assert list(recipe.differences(store, "cartpole-swingup")) == []
    assert "segmentation" in store.columns
    assert [store.split_of(id) for id in range(5)] == ["train", "validation", "test", "test", "test"]
    assert describe(store)["renderer"] in ("egl", "osmesa", "warp")
    monkeypatch.setattr(preparing, "collect", None)  # is not needed again
    assert prepare(["cartpole-swingup"], tmp_path, recipe)["cartpole-swingup"].fingerprint == store.fingerprint


def test_data_of_another_recipe_are_refused_with_what_differs_and_left_alone(cartpole_store_path: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in cartpole_store_path.iterdir()}
    words = "episodes 6, not 312; frames in an episode 64, not 250.*--data-dir.*or move"
    with pytest.raises(DataError, match=words):
        prepare(["cartpole-swingup"], cartpole_store_path.parent)
    assert {path.name: path.stat().st_mtime_ns for path in cartpole_store_path.iterdir()} == before


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(**{**vars(SMALL), "episodes": 8}), "episodes 7, not 8"),
        (Recipe(**{**vars(SMALL), "episode_length": 15}), "frames in an episode 16, not 15"),
        (Recipe(**{**vars(SMALL), "policy": "mixture"}), f"policies ou, not {', '.join(sorted(MIXTURE))}"),
        (Recipe(**{**vars(SMALL), "seed": 1}), "seed 0, not 1"),
        (Recipe(**{**vars(SMALL), "action_repeat": 2}), "action repeat 1, not 2"),
        (Recipe(**{**vars(SMALL), "image_size": 64}), "frame size 32, not 64"),
        (Recipe(**{**vars(SMALL), "segmentation": True}), "segmentation left out, not kept"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_part_of_the_recipe_is_held(data: Path, recipe: Recipe, said: str) -> None:
    assert prepare([TASK], data, SMALL)
    with pytest.raises(DataError, match=re.escape(said)):
        prepare([TASK], data, recipe)


def test_data_under_another_tasks_name_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "walker-walk")
    with pytest.raises(DataError, match="task pushed-ball, not walker-walk"):
        prepare(["walker-walk"], tmp_path, SMALL)


def test_a_mistyped_last_task_is_found_before_the_first_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "collect", None)
    with pytest.raises(ConfigError, match="'cheetah-rnu'; did you mean cheetah-run"):
        prepare(["walker-walk", "cheetah-rnu"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_recipe_does_not_change_by_accident() -> None:
    """Published figures are of these data; who changes the recipe must change this, and the figures."""
    assert (
        Recipe(
            episodes=288,
            test_episodes=24,
            episode_length=250,
            policy="mixture",
            seed=0,
            action_repeat=2,
            image_size=64,
            segmentation=True,
        )
        == RECIPE
    )
