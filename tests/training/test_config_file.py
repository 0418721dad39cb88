"""Settings as YAML and back; what is wrong in a file is said by name."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import yaml

from aime.config import AIMES_ALONE, DataConfig, TrainConfig, replace
from aime.errors import ConfigError
from aime.presets import PRESETS, preset_config
from aime.training.config_file import differences, from_yaml, read_config, settings, to_yaml


def unusual() -> TrainConfig:
    """A value of every kind that differs from its default."""
    base = preset_config("tiny")
    return replace(
        base,
        data=replace(base.data, env="walker-walk", data_dir=Path("some where/ä"), workers=3, renderer="osmesa"),
        balancer=replace(base.balancer, objective_weights=(1.0, 0.5, 2.0, 0.0), balancer="pcgrad"),
        optimizer=replace(base.optimizer, learning_rate=1e-7),
        run_dir=Path("runs/1"),
        load_checkpoint="null",
        wandb=True,
    )


@pytest.mark.parametrize("config", [*map(preset_config, PRESETS), unusual()])
def test_round_trip(config: TrainConfig) -> None:
    assert from_yaml(to_yaml(config)) == config


def test_every_setting_has_a_name_of_its_own() -> None:
    """They all become flat flags side by side."""
    groups = [f for f in dataclasses.fields(TrainConfig) if dataclasses.is_dataclass(getattr(TrainConfig(), f.name))]
    names = [f.name for f in dataclasses.fields(TrainConfig) if f not in groups]
    for group in groups:
        names += [f.name for f in dataclasses.fields(getattr(TrainConfig(), group.name))]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert set(settings(TrainConfig())) == set(names)


def test_what_a_file_leaves_out_is_its_presets() -> None:
    config = from_yaml("preset: tiny\nmodel: {latent_dim: 12}\n")
    assert config.model.latent_dim == 12
    assert config.model.hidden_dim == preset_config("tiny").model.hidden_dim


def test_settings_may_stand_flat_and_numbers_may_be_written_as_people_write_them() -> None:
    config = from_yaml("latent_dim: 12\nlearning_rate: 1e-4\nbeta: 2\nbalancer: mean\nrun_dir: here\n")
    assert config.model.latent_dim == 12
    assert config.optimizer.learning_rate == 1e-4
    assert config.loss.beta == 2.0 and isinstance(config.loss.beta, float)
    assert config.balancer.balancer == "mean"
    assert config.run_dir == Path("here")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latent_dmi: 3", ["latent_dmi", "latent_dim"]),
        ("model: {num_slotz: 3}", ["num_slotz", "num_slots"]),
        ("balancer: rbg", ["rbg", "rgb"]),
        ("pose_dim: 8", ["pose_dim"]),
        ("preset: tyni", ["tyni", "tiny"]),
        ("latent_dim: x", ["latent_dim", "a whole number", "'x'"]),
        ("latent_dim: true", ["latent_dim", "a whole number", "True"]),
        ("latent_dim: 0", ["latent_dim", "at least 1"]),
        ("learning_rate: fast", ["learning_rate", "a number", "'fast'"]),
        ("wandb: 1", ["wandb", "true or false"]),
        ("objective_weights: [1, 2]", ["objective_weights", "4 numbers"]),
        ("objective_weights: [0, 0, 0, 0]", ["objective_weights", "must not all be zero"]),
        ("batch_size: 0", ["batch_size", "at least 1"]),
        ("critic_limit: 80", ["critic_limit", "[0.5, 1]", "80"]),
        ("model: 3", ["model", "section"]),
        ("a: [", ["not a YAML file", "line"]),
        ("- x", ["holds no settings"]),
        ("", ["holds no settings"]),
    ],
)
def test_what_is_wrong_is_said_by_name(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_yaml(text, "my.yaml")
    message = str(caught.value)
    assert all(word in message for word in ["my.yaml", *words]), message


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no settings file .*gone\.yaml"):
        read_config(tmp_path / "gone.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        read_config(tmp_path / "binary.yaml")


def test_differences_are_named_with_both_values() -> None:
    config = TrainConfig()
    other = replace(config, model=replace(config.model, latent_dim=48), data=DataConfig(batch_size=2), seed=3)
    assert differences(config, other) == {"batch_size": (8, 2), "latent_dim": (36, 48), "seed": (0, 3)}
    assert differences(config, other, ignore=["seed"]).keys() == {"batch_size", "latent_dim"}
    assert differences(config, config) == {}


def test_a_setting_that_is_gone_is_passed_over_where_it_did_nothing() -> None:
    assert from_yaml("pose_dim: 0\nlatent_dim: 30") == from_yaml("latent_dim: 30")


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean large"):
        preset_config("lagre")


def test_a_peers_file_holds_no_settings_that_it_does_not_have() -> None:
    """Else its runs could not be read any more once a default of AIME's objectives changes."""
    config = preset_config("tiny", "rssm")
    text = to_yaml(config)
    for group, names in AIMES_ALONE.items():
        assert not set(names) & yaml.safe_load(text)[group].keys()
    assert from_yaml(text) == config
