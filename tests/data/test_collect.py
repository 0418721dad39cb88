"""Collecting renders real episodes, the same with any number of workers, and goes on where it was stopped."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aime.data.collect import CollectConfig, CollectProgress, collect
from aime.data.store import EpisodeStore
from aime.errors import ConfigError, DataError, RenderError
from tests.data.making import make_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CollectConfig:
    """Four short episodes, drawn by whatever works here."""
    out = tmp_path_factory.mktemp("collected") / "cartpole"
    return CollectConfig("cartpole-swingup", 4, 12, seed=7, workers=2, image_size=32, segmentation=True, out=out)


@pytest.fixture(scope="module")
def collected(config: CollectConfig) -> EpisodeStore:
    return collect(config)


def test_real_episodes_are_collected(config: CollectConfig, collected: EpisodeStore) -> None:
    assert (collected.task, collected.action_dim, collected.image_size) == ("cartpole-swingup", 1, 32)
    assert collected.time_step == pytest.approx(0.02) and collected.action_repeat == 2
    assert [episode.id for episode in collected.episodes] == [0, 1, 2, 3]
    details = collected.index.info.details
    assert details["state"] == {"qpos": 2, "qvel": 2, "act": 0} and details["turning"] == [1], "the pole may go round"
    collected.verify()
    first_frames = []
    for episode in collected.episodes:
        assert episode.length == 12 and episode.seed == 7 and episode.renderer in ("egl", "osmesa", "warp")
        assert episode.policy in ("ou", "cpg", "spline") and 0.6 <= episode.details["gain"] <= 1.0
        columns = collected.episode(episode.id)
        assert columns["pixels"].shape == (12, 32, 32, 3)
        assert columns["state"].shape == (12, 4)
        assert columns["pixels"].std() > 5, "there is something to see"
        assert (columns["pixels"][0] != columns["pixels"][-1]).any(), "it moves"
        assert set(np.unique(columns["segmentation"])) <= {0, 1, 2} and columns["segmentation"].any()
        first_frames.append(columns["pixels"][0])
    assert len({frame.tobytes() for frame in first_frames}) == 4, "each starts from a pose of its own"


def test_the_state_follows_from_the_state_and_the_action_before(collected: EpisodeStore) -> None:
    """Action t is the one between frames t and t + 1, not the one before: it explains the cart's acceleration."""
    acceleration, now, before = [], [], []
    for episode in collected.episodes:
        columns = collected.episode(episode.id)
        acceleration.append(np.diff(columns["state"][1:, 2]))
        now.append(columns["action"][1:-1, 0])
        before.append(columns["action"][:-2, 0])
    explained = [np.corrcoef(np.concatenate(acceleration), np.concatenate(a))[0, 1] for a in (now, before)]
    assert explained[0] > 0.9 and explained[0] > explained[1]


def test_the_episodes_do_not_depend_on_the_workers(
    config: CollectConfig, collected: EpisodeStore, tmp_path: Path
) -> None:
    alone = collect(replace(config, workers=1, out=tmp_path / "alone"))
    assert alone.fingerprint == collected.fingerprint
    other = collect(replace(config, workers=1, episodes=1, seed=8, out=tmp_path / "other"))
    assert other.episodes[0].sha256 != alone.episodes[0].sha256


def test_a_stopped_collection_keeps_whole_episodes_and_goes_on(
    config: CollectConfig, collected: EpisodeStore, tmp_path: Path
) -> None:
    stopped = replace(config, out=tmp_path / "stopped", workers=1)

    def interrupt(progress: CollectProgress) -> None:
        if progress.episodes == 2 and progress.frames > 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(stopped, interrupt)
    half = EpisodeStore.open(tmp_path / "stopped")
    assert [episode.id for episode in half.episodes] == [0, 1]
    assert sorted(path.name for path in half.path.iterdir()) == ["index.json", "shard-000000.h5"]
    told: list[CollectProgress] = []
    whole = collect(stopped, told.append)
    assert told[-1].episodes == 2 and told[-1].frames == told[-1].total_frames == 24, "only the missing ones"
    assert whole.fingerprint == collected.fingerprint
    assert whole.episodes[:2] == half.episodes


def test_nothing_is_collected_twice(config: CollectConfig, collected: EpisodeStore) -> None:
    told: list[CollectProgress] = []
    assert collect(replace(config, episodes=3), told.append).fingerprint == collected.fingerprint
    assert not told


def test_it_draws_without_any_graphics_library(tmp_path: Path) -> None:
    config = CollectConfig("cartpole-swingup", 1, 6, renderer="warp", workers=1, segmentation=True, out=tmp_path / "w")
    store = collect(config)
    assert store.episodes[0].renderer == "warp"
    columns = store.episode(0)
    body, picture = columns["segmentation"] > 0, columns["pixels"].astype(float)
    assert columns["pixels"].shape == (6, 64, 64, 3)
    assert picture[body][:, 0].mean() > picture[body][:, 2].mean(), "the body is orange"
    assert picture[~body][:, 0].mean() < picture[~body][:, 2].mean(), "the rest is blue"
    assert (columns["pixels"][0] != columns["pixels"][-1]).any(), "it moves"


def test_a_policy_of_the_users_own(config: CollectConfig, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def policy(time_step, rng):\n    return [0.25]\n")
    store = collect(replace(config, policy_file=path, episodes=1, out=tmp_path / "own"))
    assert store.episodes[0].policy == "file:mine.py"
    assert (store.episode(0)["action"] == 0.25).all()
    path.write_text("def policy(time_step, rng):\n    return [0.25, 0.5]\n")
    with pytest.raises(ConfigError, match=r"mine.py: an action of cartpole-swingup has shape \(1,\)"):
        collect(replace(config, policy_file=path, episodes=1, out=tmp_path / "wrong"))
    assert not (tmp_path / "wrong").exists(), "nothing is left of a collection that never began"


def test_an_unknown_task_is_answered_with_near_ones(config: CollectConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown task 'cartpole-swingpu'; did you mean cartpole-swingup"):
        collect(replace(config, env="cartpole-swingpu", out=tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_another_kind_of_episode_goes_into_another_folder(config: CollectConfig, collected: EpisodeStore) -> None:
    for change in ({"env": "walker-walk"}, {"action_repeat": 4}, {"image_size": 64}, {"segmentation": False}):
        (name,) = change
        with pytest.raises(DataError, match=f"was collected with {name}.*another folder"):
            collect(replace(config, episodes=9, **change))
    EpisodeStore.open(config.folder).verify()


def test_a_broken_store_is_not_added_to(config: CollectConfig, tmp_path: Path) -> None:
    make_store(tmp_path, [5, 5])
    shard = tmp_path / "shard-000000.h5"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"shard-000000.h5 is truncated"):
        collect(replace(config, out=tmp_path))


def test_two_collections_do_not_write_to_one_folder(config: CollectConfig, tmp_path: Path) -> None:
    def another(progress: CollectProgress) -> None:
        collect(replace(config, out=tmp_path))

    with pytest.raises(DataError, match="another collection is writing"):
        collect(replace(config, out=tmp_path), another)


def test_what_a_killed_collection_left_is_cleared_or_adopted(config: CollectConfig, tmp_path: Path) -> None:
    small = replace(config, workers=1, episodes=2, out=tmp_path)
    before = collect(small)
    (tmp_path / ".shard-000002.h5.99.tmp").write_text("half of a shard")
    index = tmp_path / "index.json"
    (tmp_path / "shard-000000.h5").rename(tmp_path / "shard-000005.h5")
    index.unlink()
    told: list[CollectProgress] = []
    assert collect(small, told.append).fingerprint == before.fingerprint
    assert not told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "shard-000005.h5"]


def test_a_full_disk_leaves_a_sentence_and_what_was_whole(config: CollectConfig, tmp_path: Path) -> None:
    """The system refuses to write further than 60 kB into a file, in this process and its workers."""
    code = f"""
        import resource
        from pathlib import Path
        from aime.data.collect import CollectConfig, collect
        from aime.errors import DataError
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        out = Path({str(tmp_path / "d")!r})
        try:
            collect(CollectConfig("cartpole-swingup", 20, 30, workers=1, out=out))
        except DataError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT)
    assert "could not write" in done.stdout and "make room" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "d").exists() or not list((tmp_path / "d").iterdir())


def test_a_worker_that_is_taken_down_gives_a_sentence(config: CollectConfig, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import os, signal\ndef policy(time_step, rng):\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(RenderError, match="was ended by signal 9"):
        collect(replace(config, policy_file=path, workers=1, renderer="warp", out=tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"image_size": 4}, "image_size"),
        ({"image_size": 100}, "image_size must be a multiple of 16"),
        ({"seed": -1}, "seed must not be negative"),
        ({"policy_file": Path("nothing.py")}, "no such file"),
    ],
)
def test_bad_settings_get_a_sentence(config: CollectConfig, change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(config, **change)


def test_importing_and_opening_data_needs_no_renderer(humanoid_store_path: Path) -> None:
    code = f"""
        import sys
        from aime.data.store import EpisodeStore
        import aime.data.collect, aime.data.dataset
        EpisodeStore.open({str(humanoid_store_path)!r}).episode(0)
        loaded = [name for name in ("dm_control", "mujoco", "OpenGL", "warp") if name in sys.modules]
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=ROOT)
