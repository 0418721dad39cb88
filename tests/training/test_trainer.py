"""Training: the same to the bit however often it is interrupted, and clear about what it cannot do."""

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import aime
from aime.config import UNLIMITED_STEPS, DataConfig, OptimizerConfig, TrainConfig, replace
from aime.data.dataset import fixed_clips
from aime.data.store import EpisodeStore
from aime.errors import CheckpointError, ConfigError, DataError, TrainingError
from aime.peers import RSSM
from aime.training import trainer as trainers
from aime.training.checkpoint import BALANCER, MODEL, OPTIMIZER, load_checkpoint
from aime.training.config_file import read_config, to_yaml
from aime.training.locate import load, locate
from aime.training.metrics import MEASURED_HERE
from aime.training.runs import RunFolder
from aime.training.trainer import Trainer, train
from aime.world_model import WorldModel
from tests.training.conftest import BATCHES_PER_EPOCH, write_store
from tests.training.limits import disk_of

Settings = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than everything else here; the test that is about them draws them."""
    if "pictures" not in request.node.name:
        monkeypatch.setattr(Trainer, "draw", lambda self: [])


class Interrupted(Trainer):
    """Raises a signal against itself in the middle of a step."""

    at = 4
    number = signal.SIGTERM

    def advance(self, batch: dict[str, torch.Tensor]) -> Any:
        if self.step + 1 == self.at:
            signal.raise_signal(self.number)
        return super().advance(batch)


def run(trainer: Trainer) -> None:
    try:
        trainer.run()
    finally:
        trainer.close()


def metrics(folder: Path) -> list[dict[str, float]]:
    """What the log tells but for what depends on the machine and the hour."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED_HERE} for line in lines]


def assert_same_run(a: Path, b: Path) -> None:
    """Equal to the bit: weights and buffers, optimizers, balancer, random states, place in the data, and metrics."""
    ours, theirs = load_checkpoint(locate(a)), load_checkpoint(locate(b))
    assert ours.step == theirs.step
    for name in (MODEL, OPTIMIZER, BALANCER):
        mine, other = load_file(ours.folder / name), load_file(theirs.folder / name)
        assert mine.keys() == other.keys()
        different = [key for key in mine if not torch.equal(mine[key], other[key])]
        assert different == [], name
    for key in ("data", "meter", "schedule", "skipped"):
        assert ours.state[key] == theirs.state[key], key
    # Python's own generator is left out: the type checker of these tests draws from it.
    assert all(ours.state["random"][key] == theirs.state["random"][key] for key in ("torch", "numpy"))
    assert metrics(a) == metrics(b)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, ball_store: Path) -> Path:
    """Eight steps in one go, looking at held-out episodes on the way; tests compare with it and leave it alone."""
    from tests.training.conftest import small_settings

    config = small_settings(tmp_path_factory.mktemp("runs") / "whole", ball_store, eval_every=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "draw", lambda self: [])
        return train(config)


def test_the_run_crosses_an_epoch_and_every_objective_is_in_the_log(uninterrupted: Path) -> None:
    assert load_checkpoint(locate(uninterrupted)).state["data"]["epoch"] == 8 // BATCHES_PER_EPOCH == 1
    lines = [line for line in metrics(uninterrupted) if "total_vae_loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for name in ("total_vae_loss", "perceiver_loss", "attention_loss", "adversarial_loss", "discriminator_loss"):
        assert all(isinstance(line[name], float) for line in lines), name
    assert lines[0]["beta"] == pytest.approx(1 / BATCHES_PER_EPOCH) and lines[-1]["beta"] == 1.0
    assert lines[-1]["epoch"] == pytest.approx(8 / BATCHES_PER_EPOCH)
    assert {"gradient_norm", "learning_rate", "skipped_steps"} <= lines[0].keys()
    looks = [line for line in metrics(uninterrupted) if "validation/dream_gain" in line]
    assert [line["step"] for line in looks] == [4, 8]
    raw = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert raw[0]["frames_per_second"] > 0 and raw[0]["memory_mib"] > 100
    assert "frames_per_second" not in raw[-2] and raw[-2]["step_seconds"] > 0, "at rest no frames are trained on"


@pytest.mark.parametrize("at", [4, 7])
def test_a_run_resumed_after_a_signal_equals_the_uninterrupted_one_to_the_bit(
    settings: Settings, uninterrupted: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings("cut", eval_every=4)
    trainer = Interrupted(config)
    trainer.at = at
    with caplog.at_level(logging.INFO, "aime"):
        run(trainer)
    assert load_checkpoint(locate(config.run_path)).step == at, "the step at hand is finished and saved"
    assert "SIGTERM" in caplog.text and "the same command goes on" in caplog.text
    torch.manual_seed(99)  # the state that the first process left must not matter
    train(config)
    assert_same_run(config.run_path, uninterrupted)


def test_perception_rests_in_the_last_part_of_a_run_which_may_be_interrupted(settings: Settings) -> None:
    optimizer = OptimizerConfig(warmup_epochs=1.0, learning_rate=0.001, consolidation=0.5)
    config = settings("whole", optimizer=optimizer, checkpoint_every=1, keep_checkpoints=0)
    whole = train(config)
    before, after = (load_file(RunFolder(whole).checkpoint(step) / MODEL) for step in (5, 8))
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"core", "prior", "context_head", "decoder", "noise"}
    lines = metrics(whole)
    assert ["total_vae_loss" in line for line in lines] == [True, True, False, False]
    assert ["rehearsal_loss" in line for line in lines] == [False, False, True, True]

    class Cut(Interrupted):
        def consolidate(self) -> Any:
            if self.step + 1 == 6:
                signal.raise_signal(self.number)
            return super().consolidate()

    trainer = Cut(settings("cut", optimizer=optimizer, checkpoint_every=1, keep_checkpoints=0))
    trainer.at = -1
    run(trainer)
    assert trainer.step == 6
    torch.manual_seed(99)
    train(settings("cut", optimizer=optimizer, checkpoint_every=1, keep_checkpoints=0))
    assert_same_run(whole, trainer.config.run_path)


def test_the_weight_decay_of_dynamics_is_found_where_there_are_episodes_to_find_it_by(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def decays(folder: Path) -> list[float]:
        return [line["dynamics_decay"] for line in metrics(folder) if "dynamics_decay" in line]

    assert len(set(decays(train(settings("found"))))) == 1  # a line at rest: two steps' mean
    fixed = OptimizerConfig(warmup_epochs=1.0, learning_rate=0.001, consolidation=0.2, dynamics_decay_step=0.0)
    assert decays(train(settings("fixed", optimizer=fixed))) == []
    short = write_store(tmp_path / "short", lengths={1: 4})  # the episode for validation
    with caplog.at_level(logging.INFO, "aime"):
        assert decays(train(settings("unfound", data=replace(settings().data, data_dir=short)))) == []
    assert "the context is believed in full: no episode of the validation split" in caplog.text


def test_a_model_that_has_learned_to_see_can_be_consolidated_alone(settings: Settings) -> None:
    learned = train(settings("learned"))
    optimizer = OptimizerConfig(warmup_epochs=0.0, learning_rate=0.001, consolidation=1.0)
    with pytest.raises(ConfigError, match="trains no perception"):
        Trainer(settings("blind", optimizer=optimizer))
    alone = train(settings("alone", optimizer=optimizer, load_checkpoint=str(learned), max_steps=3))
    before, after = (load_file(locate(folder) / MODEL) for folder in (learned, alone))
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"core", "prior", "context_head", "decoder", "noise"}


def test_a_finished_run_that_is_trained_further_wakes_up(settings: Settings) -> None:
    folder = train(settings("more"))
    assert load_checkpoint(locate(folder)).state["rests_since"] == 7
    train(settings("more", max_steps=16))
    assert load_checkpoint(locate(folder)).state["rests_since"] == 13
    assert [line["step"] for line in metrics(folder) if "total_vae_loss" in line] == [2, 4, 6, 8, 10, 12, 14]


def test_guesses_are_measured_when_a_run_ends_and_believed_while_it_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(model: WorldModel, store: EpisodeStore, length: int) -> None:
        measured.append({name: value.clone() for name, value in model.state_dict().items()})
        model.decoder.trust.fill_(0.5)

    monkeypatch.setattr(trainers, "calibrate", measure)
    config = settings(checkpoint_every=4)  # the last checkpoint is due in any case
    saved = lambda: load_file(locate(config.run_path) / MODEL)  # noqa: E731
    run(Interrupted(config))
    assert torch.equal(saved()["decoder.trust"], torch.ones(5)) and not measured
    train(config)
    assert torch.equal(saved()["decoder.trust"], torch.full((5,), 0.5))
    assert all(torch.equal(measured[0][name], x) for name, x in saved().items() if name != "decoder.trust")
    goes_on = Interrupted(replace(config, max_steps=16))
    goes_on.at = 10
    run(goes_on)
    assert torch.equal(saved()["decoder.trust"], torch.ones(5)) and len(measured) == 1


def test_a_peer_trains_resumes_and_loads_by_the_same_code(settings: Settings) -> None:
    optimizer = OptimizerConfig(warmup_epochs=1.0, learning_rate=0.001)  # a peer has no part that rests

    def peer(name: str) -> TrainConfig:
        return settings(name, world_model="rssm", eval_every=4, optimizer=optimizer)

    whole = train(peer("whole"))
    trainer = Interrupted(peer("parts"))
    run(trainer)
    assert trainer.step == 4
    parts = train(peer("parts"))
    assert_same_run(whole, parts)
    assert isinstance(load(parts), RSSM)
    with pytest.raises(ConfigError, match="world_model is rssm there, aime here"):
        Trainer(settings("parts"))
    with pytest.raises(ConfigError, match="weights of world_model rssm, which do not fit world_model aime"):
        Trainer(settings("new", load_checkpoint=str(parts)))


def test_minutes_before_an_interruption_count_and_those_of_looks_and_checkpoints_do_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("aime.training.progress.time.perf_counter", lambda: now[0])
    save, look, took = Trainer.save, Trainer.look, Trainer._took

    def slow_save(self: Trainer) -> None:
        save(self)
        now[0] += 1000.0

    def slow_look(self: Trainer) -> None:
        look(self)
        now[0] += 5000.0

    def a_minute(self: Trainer, outcome: Any) -> Any:
        now[0] += 60.0
        return took(self, outcome)

    monkeypatch.setattr(Trainer, "save", slow_save)
    monkeypatch.setattr(Trainer, "look", slow_look)
    monkeypatch.setattr(Trainer, "_took", a_minute)
    config = settings(max_steps=UNLIMITED_STEPS, max_minutes=5.0, checkpoint_every=2, eval_every=1)
    first = Trainer(config)
    for _ in range(2):  # killed after two minutes: nothing but the checkpoint of step 2 remains
        first.advance(next(first.stream))
        first.do_what_is_due()
    first.close()
    assert load_checkpoint(locate(config.run_path)).state["elapsed_seconds"] == 120.0
    run(Trainer(config))
    assert load_checkpoint(locate(config.run_path)).step == 5


def test_a_run_ends_when_its_minutes_are_over(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    at_once = OptimizerConfig(lr_warmup_steps=0)
    with caplog.at_level(logging.INFO, logger="aime"):
        folder = train(settings(max_steps=100_000, max_minutes=0.05, log_every=1, optimizer=at_once))
    lines = metrics(folder)
    assert 1 <= lines[-1]["step"] < 100_000
    assert lines[-1]["learning_rate"] < lines[0]["learning_rate"] or len(lines) < 3
    assert "0.05 minutes are over at step" in caplog.text
    assert load_checkpoint(locate(folder)).step == lines[-1]["step"]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="aime"):
        train(settings(max_steps=100_000, max_minutes=0.05, log_every=1, optimizer=at_once))
    assert f"the 0.05 minutes of {folder} are over, at step {lines[-1]['step']}; raise --max-minutes" in caplog.text
    with pytest.raises(ConfigError, match="max_minutes must be above zero"):
        settings(max_minutes=0.0)


def test_interrupted_again_and_again(settings: Settings, uninterrupted: Path) -> None:
    config = settings("cut", eval_every=4)
    for at in (1, 2, 6):
        trainer = Interrupted(config)
        trainer.at, trainer.number = at, signal.SIGINT
        run(trainer)
    train(config)
    assert_same_run(config.run_path, uninterrupted)


def test_a_crash_between_checkpoints_goes_back_to_the_last_one(settings: Settings, uninterrupted: Path) -> None:
    class Crashing(Trainer):
        def advance(self, batch: dict[str, torch.Tensor]) -> Any:
            if self.step == 5:
                raise MemoryError
            return super().advance(batch)

    config = settings("cut", eval_every=4)
    with pytest.raises(MemoryError):
        run(Crashing(config))
    assert [line["step"] for line in metrics(config.run_path)][-1] == 4
    assert load_checkpoint(locate(config.run_path)).step == 3
    train(config)
    assert_same_run(config.run_path, uninterrupted)


def test_signals_end_the_command_with_its_work_saved(settings: Settings, uninterrupted: Path, tmp_path: Path) -> None:
    """A process of its own is told to end, and then the same command is left in peace."""
    config = settings("cut", eval_every=4)
    (tmp_path / "settings.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-c", _COMMAND, str(tmp_path / "settings.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for interrupted in (True, False):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        if interrupted:
            wait_for_step(config.run_path, 2, process)
            process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
        assert ("stopped by SIGTERM" in said) == interrupted and "Traceback" not in said
    assert_same_run(config.run_path, uninterrupted)


_COMMAND = """
import logging, sys, time, torch
from pathlib import Path
logging.basicConfig(level=logging.INFO)
torch.set_num_threads(1)
from aime.training.config_file import read_config
from aime.training.trainer import Trainer, train
advance = Trainer.advance
def slowly(self, batch):
    time.sleep(0.3)  # so that a signal finds the run in the middle
    return advance(self, batch)
Trainer.advance = slowly
Trainer.draw = lambda self: []
train(read_config(Path(sys.argv[1])))
"""


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the log tells of a step."""
    for _ in range(1200):
        path = folder / "metrics.jsonl"
        if path.exists() and any(json.loads(line)["step"] >= step for line in path.read_text().splitlines()):
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError(f"step {step} never came")


def test_different_seeds_are_different_runs_and_the_same_seed_is_the_same(settings: Settings) -> None:
    runs = [train(settings(name, max_steps=2, seed=seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    assert_same_run(runs[0], runs[1])
    with pytest.raises(AssertionError):
        assert_same_run(runs[0], runs[2])


def test_a_finished_run_says_so_and_goes_on_when_max_steps_is_raised(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings(max_steps=2)
    train(config)
    with caplog.at_level(logging.INFO, "aime"):
        train(config)
    assert "at step 2 already; raise --max-steps" in caplog.text
    assert metrics(config.run_path)[-1]["step"] == 2
    train(replace(config, max_steps=4))
    assert load_checkpoint(locate(config.run_path)).step == 4
    assert read_config(config.run_path / "config.yaml").max_steps == 4


def test_a_run_folder_tells_what_the_run_was(uninterrupted: Path, ball_store: Path) -> None:
    config = read_config(uninterrupted / "config.yaml")
    assert config.precision == "float32" and config.device == "cpu"
    record = json.loads((uninterrupted / "run.json").read_text())
    assert record["task"] == "pushed-ball" and record["action_dim"] == 3 and record["data_fingerprint"]
    assert [p.name for p in sorted((uninterrupted / "checkpoints").iterdir())] == [
        "step-00000003",
        "step-00000006",
        "step-00000008",
    ]


def test_old_checkpoints_go(settings: Settings) -> None:
    config = settings(checkpoint_every=1, keep_checkpoints=2, max_steps=4)
    train(config)
    assert [p.name for p in sorted((config.run_path / "checkpoints").iterdir())] == ["step-00000003", "step-00000004"]


def test_precisions_are_resolved_once_and_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([0.5, 5.0])
    monkeypatch.setattr("aime.training.device.cpu_bf16_gain", lambda _: next(measured))
    monkeypatch.setattr("aime.training.device.cpu_bf16_recurrent_gain", lambda *_: next(measured))
    config = settings(precision="auto", max_steps=1)
    for steps in (1, 2):  # a second measurement would find the iterator empty
        train(replace(config, max_steps=steps))
        there = read_config(config.run_path / "config.yaml")
        assert (there.precision, there.optimizer.consolidation_precision) == ("float32", "bf16")


def test_a_run_of_before_rests_in_the_precision_it_was_begun_in(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(max_steps=1)
    train(config)
    path = config.run_path / "config.yaml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "consolidation_precision" not in line) + "\n")
    monkeypatch.setattr("aime.training.device.cpu_bf16_recurrent_gain", lambda *_: pytest.fail("measured"))
    train(replace(config, max_steps=2, precision="auto"))
    assert read_config(path).optimizer.consolidation_precision == "float32"
    with pytest.raises(ConfigError, match="consolidation_precision is float32 there, bf16 here"):
        train(replace(config, optimizer=replace(config.optimizer, consolidation_precision="bf16")))


def test_a_trained_model_loads_from_its_run_and_from_its_checkpoint(uninterrupted: Path) -> None:
    latest = locate(uninterrupted)
    for name in (uninterrupted, str(latest), uninterrupted / "checkpoints"):
        model = load(name)
        assert not model.training
        saved = load_file(latest / MODEL)
        assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())


def test_a_new_run_starts_from_given_weights(settings: Settings, uninterrupted: Path) -> None:
    trainer = Trainer(settings("tuned", load_checkpoint=str(uninterrupted), seed=5))
    trainer.close()
    saved = load_file(locate(uninterrupted) / MODEL)
    assert trainer.step == 0
    assert all(torch.equal(value, saved[key]) for key, value in trainer.model.state_dict().items())


def test_weights_of_another_size_are_refused(settings: Settings, uninterrupted: Path) -> None:
    config = settings("tuned", load_checkpoint=str(uninterrupted))
    with pytest.raises(CheckpointError, match="latent_dim is 8 in it, 12 here"):
        train(replace(config, model=replace(config.model, latent_dim=12)))


def test_an_action_size_that_does_not_fit_is_refused(settings: Settings, uninterrupted: Path, tmp_path: Path) -> None:
    other = DataConfig(env="pushed-ball", data_dir=write_store(tmp_path / "other", actions=5), batch_size=2)
    with pytest.raises(CheckpointError, match="actions of 3 numbers, but the data's have 5"):
        train(settings("tuned", load_checkpoint=str(uninterrupted), data=other))


def test_real_video_with_everything_switched_on(settings: Settings, humanoid_store_path: Path) -> None:
    data = DataConfig(env="humanoid-walk", data_dir=humanoid_store_path, batch_size=2)
    config = settings(data=data, max_steps=2, eval_every=1, tensorboard=True, precision="auto", device="auto")
    config = replace(config, model=replace(config.model, input_dim=64))
    train(config)
    model = aime.load(config.run_path)
    assert model.config.action_dim == 21
    clip = fixed_clips(EpisodeStore.open(humanoid_store_path), "test", 8, 1)
    belief = model.observe(clip["observations"][:, :4], clip["actions"][:, :4])
    dream = model.imagine(belief, clip["actions"][:, 4:])
    assert dream.observations.shape == (1, 4, 3, 64, 64)
    assert list((config.run_path / "tensorboard").iterdir())
    assert [line["step"] for line in metrics(config.run_path) if "validation/dream_psnr" in line] == [1, 2]


def test_a_run_is_not_continued_under_other_settings(settings: Settings) -> None:
    config = settings(max_steps=1)
    train(config)
    with pytest.raises(ConfigError, match=r"batch_size is 2 there, 3 here; latent_dim is 8 there, 12 here"):
        train(replace(config, data=replace(config.data, batch_size=3), model=replace(config.model, latent_dim=12)))


def test_a_run_is_not_continued_on_other_data(settings: Settings, tmp_path: Path) -> None:
    config = settings(max_steps=1)
    train(config)
    moved = replace(config.data, data_dir=write_store(tmp_path / "other", seed=1))
    with pytest.raises(CheckpointError, match=r"is not what the run in .* was trained on"):
        train(replace(config, data=moved, max_steps=2))
    same = replace(config.data, data_dir=write_store(tmp_path / "copy", seed=0))
    train(replace(config, data=same, max_steps=2))


def test_a_task_that_does_not_exist_is_named_and_leaves_nothing_behind(settings: Settings, tmp_path: Path) -> None:
    config = settings(data=DataConfig(env="walker-wlak", data_dir=tmp_path / "none"))
    with pytest.raises(ConfigError, match="walker-walk"):
        train(config)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_refused(settings: Settings) -> None:
    config = settings()
    with pytest.raises(ConfigError, match="32×32, but the model's are 64×64: give --input-dim 32"):
        train(replace(config, model=replace(config.model, input_dim=64)))


def test_data_of_another_task_are_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_store(tmp_path / "data" / "walker-walk")
    with pytest.raises(DataError, match="holds pushed-ball, not walker-walk"):
        train(settings(data=DataConfig(env="walker-walk", batch_size=2)))


def test_wandb_that_is_missing_is_found_out_before_anything_is_written(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = settings(wandb=True, data=DataConfig(env="walker-walk", data_dir=tmp_path / "none", episodes=3))
    with pytest.raises(ConfigError, match=r"pip install 'aime\[wandb\]', or train without it: --no-wandb"):
        train(config)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_newest_checkpoint_is_passed_over_and_kept(
    settings: Settings, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settings("cut", eval_every=4)
    trainer = Interrupted(config)
    trainer.at = 7
    run(trainer)
    broken = RunFolder(config.run_path).checkpoint(7)
    (broken / MODEL).write_bytes(b"x" * 100)
    with caplog.at_level(logging.WARNING, "aime"):
        train(config)
    assert f"{broken} is not whole" in caplog.text
    assert (broken / MODEL).read_bytes() == b"x" * 100
    assert_same_run(config.run_path, uninterrupted)


def test_a_run_whose_checkpoints_are_all_broken_is_not_begun_anew(settings: Settings) -> None:
    config = settings(max_steps=4)
    train(config)
    for checkpoint in RunFolder(config.run_path).checkpoints.iterdir():
        (checkpoint / MODEL).write_bytes(b"x" * 100)
    told = metrics(config.run_path)
    with pytest.raises(CheckpointError, match=rf"move {config.run_path} away .*--run-dir"):
        train(config)
    assert metrics(config.run_path) == told != []


def test_a_new_checkpoint_is_kept_though_a_damaged_one_is_of_a_later_step(settings: Settings) -> None:
    config = settings(max_steps=6)
    train(config)
    run = RunFolder(config.run_path)
    weights = bytearray((run.checkpoint(6) / MODEL).read_bytes())
    weights[-1] ^= 1  # of the right size all the same
    (run.checkpoint(6) / MODEL).write_bytes(weights)
    train(replace(config, max_steps=5, keep_checkpoints=1))
    assert sorted(run.checkpoints.iterdir()) == [run.checkpoint(5), run.checkpoint(6)]


def test_a_full_disk_stops_the_run_with_a_sentence_and_the_last_checkpoint_survives(
    settings: Settings, uninterrupted: Path
) -> None:
    class Filling(Trainer):
        def save(self) -> None:
            if self.step < 6:
                super().save()
            else:
                with disk_of(50_000):
                    super().save()

    config = settings("cut", eval_every=4)
    with pytest.raises(TrainingError, match=r"step-00000006 could not be written .*the disk is full"):
        run(Filling(config))
    assert [p.name for p in RunFolder(config.run_path).checkpoints.iterdir()] == ["step-00000003"]
    train(config)
    assert_same_run(config.run_path, uninterrupted)


def test_memory_does_not_grow_with_the_steps(settings: Settings) -> None:
    trainer = Trainer(settings(max_steps=100, log_every=1))
    sizes = []
    try:
        for _ in range(3):
            for _ in range(2):
                trainer.advance(next(trainer.stream))
            sizes.append(live_tensors())
    finally:
        trainer.close()
    assert sizes[1] == sizes[2]


def live_tensors() -> tuple[int, int]:
    """How many tensors there are, and numbers in them."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    return len(tensors), sum(t.numel() for t in tensors)


def test_pictures_and_curves_are_drawn_at_the_end(settings: Settings) -> None:
    config = settings(max_steps=2)
    train(config)
    names = {path.name for path in (config.run_path / "pictures").rglob("*") if path.stat().st_size > 0}
    assert {"strip.png", "attention.png", "slots.png", "mixture.png", "losses.png", "gradients.png"} <= names
