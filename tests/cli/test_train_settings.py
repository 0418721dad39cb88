"""Which settings and which run folder `aime train` ends up with: a run is continued or left alone, never mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from aime.cli import main
from aime.commands.train import settings
from aime.config import DataConfig, LossConfig, ModelSettings, TrainConfig
from aime.errors import ConfigError
from aime.presets import preset_config
from aime.training.config_file import to_yaml
from tests.cli.made import write_run, write_store

ROOT = Path("runs")


def ask(*argv: str) -> TrainConfig:
    return settings(argv, root=ROOT)


def begin(*argv: str) -> TrainConfig:
    """Ask, and leave behind what the trainer would."""
    config = ask(*argv)
    folder = config.run_path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    return config


def test_without_flags_it_is_the_quickstarts_card_4() -> None:
    config = ask()
    assert config == dataclasses.replace(preset_config("base"), run_dir=ROOT / "humanoid-walk")
    assert config.model == ModelSettings()


def test_a_peer_comes_with_its_own_optimizers_settings() -> None:
    for flag in (["--model", "rssm"], ["--model=rssm"], ["--world-model", "rssm"], ["--world_model=rssm"]):
        peer = ask(*flag, "--preset", "tiny")
        assert peer.world_model == "rssm" and peer.model == preset_config("tiny").model
        assert (peer.optimizer.learning_rate, peer.optimizer.grad_clip) == (1e-4, 1000.0)
    assert ask("--model", "rssm", "--learning-rate", "0.001").optimizer.learning_rate == 0.001


@pytest.mark.parametrize("flag", [("--beta", "3"), ("--balancer", "mean"), ("--n-critic", "2")])
def test_a_peer_does_not_ignore_settings_of_aimes_in_silence(flag: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"{flag[0][2:].replace('-', '.')} is a setting of AIME's objectives"):
        ask("--model", "rssm", *flag)


@pytest.mark.parametrize("preset", ["tiny", "base", "large"])
def test_flags_are_stronger_than_the_preset_in_any_order(preset: str) -> None:
    for argv in (["--preset", preset, "--latent-dim", "11"], ["--latent-dim", "11", f"--preset={preset}"]):
        config = ask(*argv)
        expected = preset_config(preset)
        assert config.model == dataclasses.replace(expected.model, latent_dim=11)
        assert config.optimizer == expected.optimizer


def test_the_same_command_continues_its_run() -> None:
    first = begin("--preset", "tiny", "--batch-size", "4")
    assert ask("--preset", "tiny", "--batch-size", "4") == first


def test_no_flags_continue_the_run_with_its_own_settings() -> None:
    first = begin("--preset", "tiny", "--latent-dim", "20", "--max-steps", "50")
    assert ask() == first


def test_more_steps_continue_a_run() -> None:
    begin("--preset", "tiny", "--max-steps", "50")
    longer = ask("--max-steps", "90")
    assert longer.run_dir == ROOT / "humanoid-walk"
    assert longer.max_steps == 90 and longer.preset == "tiny"


@pytest.mark.parametrize(
    "flags", [["--latent-dim", "48"], ["--preset", "tiny"], ["--seed", "1"], ["--batch-size", "2"]]
)
def test_other_settings_get_a_folder_of_their_own(flags: Sequence[str]) -> None:
    begin()
    other = begin(*flags)
    assert other.run_dir == ROOT / "humanoid-walk-2"
    assert ask(*flags).run_dir == ROOT / "humanoid-walk-2", "and are continued there"
    assert ask().run_dir == ROOT / "humanoid-walk"


def test_another_world_model_gets_a_folder_of_its_own() -> None:
    begin("--preset", "tiny")
    peer = begin("--model", "rssm")
    assert peer == dataclasses.replace(preset_config("base", "rssm"), run_dir=ROOT / "humanoid-walk-2")
    assert ask("--model", "rssm") == peer, "and is continued there"
    assert ask("--model", "aime").run_dir == ROOT / "humanoid-walk"
    with pytest.raises(ConfigError, match=r"humanoid-walk holds a run of world_model aime, not rssm"):
        ask("--run-dir", str(ROOT / "humanoid-walk"), "--model", "rssm")


def test_settings_that_a_run_cannot_have_get_a_folder_of_their_own() -> None:
    begin("--model", "rssm")
    aime = ask("--beta", "3")
    assert aime.run_dir == ROOT / "humanoid-walk-2" and aime.world_model == "aime"


def test_other_settings_than_a_named_folders_run_are_left_to_the_trainer_to_refuse() -> None:
    begin("--run-dir", "here", "--preset", "tiny")
    asked = ask("--run-dir", "here", "--latent-dim", "48")
    assert asked.run_dir == Path("here")
    assert asked.model == dataclasses.replace(preset_config("tiny").model, latent_dim=48)


def test_a_settings_file_is_a_start_and_flags_are_stronger(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: tiny\nlatent_dim: 12\nbatch_size: 3\n")
    config = ask("--config", str(path), "--batch-size", "5")
    assert (config.model.latent_dim, config.data.batch_size, config.preset) == (12, 5, "tiny")
    with pytest.raises(ConfigError, match="not both"):
        ask("--config", str(path), "--preset", "large")


def test_a_settings_file_is_read_as_the_model_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: tiny\nbatch_size: 3\n")
    peer = ask("--config", str(path), "--world_model", "rssm")
    assert peer.optimizer == preset_config("tiny", "rssm").optimizer and peer.loss == LossConfig()
    assert peer.data.batch_size == 3


def test_starting_from_a_checkpoint_takes_its_sizes_and_a_new_folder(run_folder: Path) -> None:
    config = ask("--load-checkpoint", str(run_folder), "--run-dir", "new")
    assert config.model.hidden_dim == 48 and config.data.env == "pushed-ball"
    assert config.load_checkpoint == str(run_folder)


def test_starting_from_a_checkpoint_takes_the_data_of_its_run_and_not_how_it_learned(
    run_folder: Path, store: Path
) -> None:
    start = ("--load-checkpoint", str(run_folder), "--run-dir", "new")
    for preset in ([], ["--preset", "tiny"]):
        config = ask(*start, *preset)
        assert config.data.env == "pushed-ball" and config.data.data_dir == store
        assert config.data.batch_size == DataConfig().batch_size != 2, "2 is the run's"
        assert config.optimizer == preset_config("tiny").optimizer
    assert ask(*start, "--env", "pushed-ball").data.data_dir == store
    assert ask(*start, "--data-dir", "mine").data.data_dir == Path("mine")
    assert ask(*start, "--env", "walker-walk").data == DataConfig(env="walker-walk")


def test_data_of_a_checkpoint_that_are_gone_are_not_replaced_unasked(tmp_path: Path, store: Path) -> None:
    start = ("--load-checkpoint", str(write_run(tmp_path / "run", tmp_path / "gone")), "--run-dir", "new")
    with pytest.raises(ConfigError, match=r"on pushed-ball in .*gone, where no data are now; give the --data-dir"):
        ask(*start)
    assert ask(*start, "--data-dir", str(store)).data.data_dir == store
    assert ask(*start, "--env", "pushed-ball").data == DataConfig(env="pushed-ball")


def test_a_run_from_a_checkpoint_is_called_as_the_checkpoints_was(tmp_path: Path) -> None:
    data = write_store(tmp_path / "cube", task="pushed-cube")
    start = ("--load-checkpoint", str(write_run(tmp_path / "run", data)))
    assert ask(*start).run_dir == ROOT / "pushed-ball"
    assert ask(*start, "--data-dir", str(data)).run_dir == ROOT / "pushed-cube"


def test_another_model_than_the_checkpoints_is_left_to_the_trainer_to_refuse(run_folder: Path) -> None:
    config = ask("--load-checkpoint", str(run_folder), "--run-dir", "new", "--model", "rssm")
    assert config.world_model == "rssm" and config.load_checkpoint == str(run_folder)


def test_weights_asked_for_are_not_dropped_because_a_run_is_there(run_folder: Path) -> None:
    begin("--env", "pushed-ball")
    config = ask("--load-checkpoint", str(run_folder))
    assert config.run_dir == ROOT / "pushed-ball-2"


def test_a_run_on_own_data_is_called_after_that_data(store: Path) -> None:
    assert ask("--data-dir", str(store)).run_dir == ROOT / "pushed-ball"
    assert ask("--data-dir", str(store), "--env", "mine").run_dir == ROOT / "mine"
    assert ask("--data-dir", "still-empty").run_dir == ROOT / "humanoid-walk", "what will be collected there"


RATES = ("--learning-rate", "--muon-learning-rate", "--discriminator-learning-rate")
DECAYS = {
    "--weight-decay": ("-1", "nan", "inf"),
    "--dynamics-decay": ("-1", "nan", "inf"),
    "--dynamics-decay-step": ("-1", "nan", "1.5"),
}


@pytest.mark.parametrize(
    ("flag", "rate"),
    [(flag, rate) for flag in RATES for rate in ("0", "nan", "inf")]
    + [(flag, decay) for flag, decays in DECAYS.items() for decay in decays],
)
def test_a_rate_that_cannot_be_one_is_refused_before_anything_is_written(
    flag: str, rate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", flag, rate]) == 2
    assert f"{flag} must " in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
