"""Episodes are collected where there are none, and a collection that was stopped goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aime.config import DataConfig
from aime.data.collect import CollectConfig, CollectProgress
from aime.data.policies import PolicyName
from aime.data.rendering import RendererName
from aime.data.store import EpisodeStore
from aime.errors import ConfigError
from aime.training import prepare
from aime.training.prepare import BEGUN, ensure_episodes
from tests.training.conftest import write_store


class Collector:
    """Writes the episodes that it is asked for without simulating anything; stops in the middle if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[CollectConfig] = []
        self.interrupt = False
        monkeypatch.setattr(prepare, "collect", self)

    def __call__(self, config: CollectConfig, progress: Callable[[CollectProgress], None]) -> EpisodeStore:
        self.asked.append(config)
        if not (config.folder / "index.json").exists():
            write_store(config.folder)
        progress(CollectProgress(1, 2, 1, 0.1))
        if self.interrupt:
            raise KeyboardInterrupt
        return EpisodeStore.open(config.folder)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    return Collector(monkeypatch)


def test_what_is_missing_is_collected_as_the_settings_say(tmp_path: Path, collector: Collector) -> None:
    data = DataConfig(
        env="walker-walk", data_dir=tmp_path / "d", episodes=5, episode_length=40, policy="ou", renderer="warp"
    )
    ensure_episodes(data, 48, seed=9, sequence_length=16)
    (config,) = collector.asked
    assert (config.env, config.folder, config.episodes, config.episode_length) == ("walker-walk", tmp_path / "d", 5, 40)
    assert (config.policy, config.renderer, config.image_size, config.seed) == ("ou", "warp", 48, 9)
    assert not (tmp_path / "d" / BEGUN).exists()


def test_what_is_there_is_taken_as_it_is(tmp_path: Path, collector: Collector) -> None:
    write_store(tmp_path / "d")
    ensure_episodes(DataConfig(data_dir=tmp_path / "d", episodes=1000), 32, seed=0, sequence_length=16)
    assert collector.asked == []


def test_a_collection_that_was_stopped_goes_on(tmp_path: Path, collector: Collector) -> None:
    data = DataConfig(data_dir=tmp_path / "d")
    collector.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        ensure_episodes(data, 32, seed=0, sequence_length=16)
    collector.interrupt = False
    ensure_episodes(data, 32, seed=0, sequence_length=16)
    ensure_episodes(data, 32, seed=0, sequence_length=16)
    assert len(collector.asked) == 2


def test_a_collection_that_was_killed_goes_on(tmp_path: Path, collector: Collector) -> None:
    """A kill asks nobody: the mark must be there before the first episode is."""

    class Killed(BaseException):
        pass

    marked: list[bool] = []

    def kill(config: CollectConfig, progress: object) -> EpisodeStore:
        marked.append((config.folder / BEGUN).exists())
        write_store(config.folder)
        raise Killed

    data = DataConfig(data_dir=tmp_path / "d")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(prepare, "collect", kill)
        ensure_episodes(data, 32, seed=0, sequence_length=16)
    assert marked == [True]
    ensure_episodes(data, 32, seed=0, sequence_length=16)
    assert len(collector.asked) == 1 and not (tmp_path / "d" / BEGUN).exists()


def test_a_task_that_does_not_exist_is_refused_before_anything_is_said_or_done(
    tmp_path: Path, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "aime"), pytest.raises(ConfigError, match=r"'humanoid-wlak'.*humanoid-walk"):
        ensure_episodes(DataConfig(env="humanoid-wlak", data_dir=tmp_path / "d"), 32, seed=0, sequence_length=16)
    assert collector.asked == [] and caplog.text == "" and not (tmp_path / "d").exists()


def test_episodes_shorter_than_a_window_are_refused_before_they_are_collected(
    tmp_path: Path, collector: Collector
) -> None:
    data = DataConfig(data_dir=tmp_path / "d", episode_length=40)
    with pytest.raises(ConfigError, match=r"--episode-length 40 .*--sequence-length 48"):
        ensure_episodes(data, 32, seed=0, sequence_length=48)
    assert collector.asked == [] and not (tmp_path / "d").exists()
    ensure_episodes(data, 32, seed=0, sequence_length=40)
    assert len(collector.asked) == 1


def test_how_episodes_would_be_collected_does_not_matter_where_there_are_some(
    tmp_path: Path, collector: Collector
) -> None:
    data = DataConfig(data_dir=write_store(tmp_path / "d"), episode_length=4, policy_file=tmp_path / "gone.py")
    ensure_episodes(data, 32, seed=0, sequence_length=48)
    assert collector.asked == []


def test_the_settings_offer_what_there_is_to_collect_with() -> None:
    from typing import get_args

    from aime import config

    assert get_args(config.Policy) == get_args(PolicyName)
    assert get_args(config.Renderer) == get_args(RendererName)
