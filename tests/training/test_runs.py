"""A run's folder: which checkpoint is the newest, which may go, and which settings may continue the run."""

import dataclasses
import logging
from pathlib import Path

import pytest

from aime.config import TrainConfig, replace
from aime.errors import CheckpointError, ConfigError, TrainingError
from aime.training.checkpoint import MODEL, is_whole, save_checkpoint
from aime.training.config_file import settings, to_yaml
from aime.training.runs import CHANGEABLE, RunFolder, latest_in, require_same_run, run_settings
from tests.training.standin import Sized


def run_with(path: Path, *steps: int) -> RunFolder:
    run = RunFolder(path)
    for step in steps:
        save_checkpoint(run.checkpoint(step), Sized(), state={"step": step})
    return run


def truncate(folder: Path) -> None:
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:50])


def test_the_newest_is_the_one_with_the_most_steps(tmp_path: Path) -> None:
    run = run_with(tmp_path, 9, 100, 20)
    assert run.find_latest() == run.checkpoint(100)
    assert latest_in(tmp_path) == latest_in(tmp_path / "checkpoints") == run.checkpoint(100)


def test_a_broken_newest_one_is_named_left_alone_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_with(tmp_path, 10, 20)
    truncate(run.checkpoint(20))
    with caplog.at_level(logging.WARNING, "aime"):
        assert run.find_latest() == run.checkpoint(10)
    assert str(run.checkpoint(20)) in caplog.text
    assert (run.checkpoint(20) / MODEL).stat().st_size == 50


def test_a_flipped_bit_is_passed_over_where_every_byte_is_read(tmp_path: Path) -> None:
    run = run_with(tmp_path, 10, 20)
    content = bytearray((run.checkpoint(20) / MODEL).read_bytes())
    content[-1] ^= 1
    (run.checkpoint(20) / MODEL).write_bytes(content)
    assert run.find_latest(thorough=True) == run.checkpoint(10)


def test_a_broken_checkpoint_makes_room_without_being_deleted(tmp_path: Path) -> None:
    run = run_with(tmp_path, 10)
    for count in (1, 2):
        truncate(run.checkpoint(10))
        save_checkpoint(run.make_room(10), Sized())
        assert is_whole(run.checkpoint(10))
        assert len(list(run.checkpoints.glob("broken-*"))) == count


def test_the_newest_are_kept_and_a_broken_one_does_not_count(tmp_path: Path) -> None:
    run = run_with(tmp_path, 10, 20, 30, 40)
    truncate(run.checkpoint(40))
    run.prune(2, saved=30)
    assert [p.name[-2:] for p in sorted(run.checkpoints.iterdir())] == ["20", "30", "40"]
    run.prune(1, saved=30)
    assert [p.name[-2:] for p in sorted(run.checkpoints.iterdir())] == ["30", "40"]
    run.prune(1, saved=30)
    assert is_whole(run.checkpoint(30)), "the only whole one is never deleted"


def test_zero_keeps_all(tmp_path: Path) -> None:
    run = run_with(tmp_path, 10, 20, 30)
    run.prune(0, saved=30)
    assert len(list(run.checkpoints.iterdir())) == 3


@pytest.mark.parametrize(("keep", "left"), [(1, [20, 30, 40]), (2, [10, 20, 30, 40])])
def test_checkpoints_of_later_steps_do_not_count_and_stay(tmp_path: Path, keep: int, left: list[int]) -> None:
    """Their files have the right sizes, but a resume found that their content is wrong and went back behind them."""
    run = run_with(tmp_path, 10, 20, 30, 40)
    run.prune(keep, saved=20)
    assert sorted(run.checkpoints.iterdir()) == [run.checkpoint(step) for step in left]


def test_a_run_with_nothing_but_broken_checkpoints_is_not_begun_anew(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", 10, 20)
    assert run.to_go_on_from() == run.checkpoint(20)
    truncate(run.checkpoint(10))
    (run.checkpoint(20) / MODEL).unlink()
    with pytest.raises(CheckpointError, match=rf"none of the 2 checkpoints in {run.checkpoints} can be read.*move"):
        run.to_go_on_from()
    run.path.rename(tmp_path / "away")
    assert run.to_go_on_from() is None


def test_a_run_without_a_whole_checkpoint_says_so(tmp_path: Path) -> None:
    run = run_with(tmp_path, 10)
    truncate(run.checkpoint(10))
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        latest_in(tmp_path)
    (tmp_path / "else").mkdir()
    assert latest_in(tmp_path / "else") is None


def test_settings_that_decide_what_is_learned_may_not_change(tmp_path: Path) -> None:
    base = TrainConfig()
    changed = replace(base, seed=1, model=replace(base.model, latent_dim=48))
    with pytest.raises(ConfigError) as caught:
        require_same_run(RunFolder(tmp_path), base, changed)
    for words in (str(tmp_path), "latent_dim is 36 there, 48 here", "seed is 0 there, 1 here", "--run-dir"):
        assert words in str(caught.value)


def test_the_others_may(tmp_path: Path) -> None:
    old = TrainConfig(precision="float32", device="cpu")
    new = TrainConfig(max_steps=7, device="cuda", log_every=3, keep_checkpoints=1, wandb=True, precision="auto")
    require_same_run(RunFolder(tmp_path), old, new)
    with pytest.raises(ConfigError, match="precision"):
        require_same_run(RunFolder(tmp_path), old, replace(new, precision="bf16"))
    assert set(settings(old)) >= CHANGEABLE


def test_the_settings_of_a_run_are_read_from_its_folder(tmp_path: Path) -> None:
    assert run_settings(tmp_path / "none") is None
    config = dataclasses.replace(TrainConfig(), max_steps=7)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert run_settings(tmp_path) == config


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.lock(), pytest.raises(TrainingError, match="another process is training"), run.lock():
        pass
    with run.lock():
        pass
