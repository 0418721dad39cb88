"""Checkpoints are whole or not there, come back to the bit, and say what is wrong with them."""

import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from aime.config import TrainConfig
from aime.errors import CheckpointError, TrainingError
from aime.perception import full_trust
from aime.training import checkpoint
from aime.training.checkpoint import MODEL, OPTIMIZER, STATE, is_whole, load_checkpoint, save_checkpoint
from aime.training.random_state import random_state, restore_random_state
from tests.helpers import small_model
from tests.training.limits import disk_of
from tests.training.standin import Sized


class Balancer:
    """A balancer's state: tensors, numbers, branches."""

    def __init__(self, seed: int = 0) -> None:
        self.state = {"consensus": torch.randn(5, generator=torch.Generator().manual_seed(seed)), "step": seed}

    def state_dict(self) -> dict[str, object]:
        return {"inner": dict(self.state), "names": ["a", "b"]}

    def load_state_dict(self, state: dict[str, object]) -> None:
        assert state["names"] == ["a", "b"]
        self.state = state["inner"]  # type: ignore[assignment]


def trained(seed: int = 0, steps: int = 3) -> tuple[Sized, dict[str, torch.optim.Optimizer]]:
    torch.manual_seed(seed)
    model = Sized()
    optimizers = {
        "one": torch.optim.AdamW([model.first.weight], fused=True),
        "two": torch.optim.AdamW([model.first.bias], fused=True),
    }
    for _ in range(steps):
        learn(model, optimizers)
    return model, optimizers


def learn(model: Sized, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    model(torch.randn(8, 4)).square().mean().backward()
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_model_optimizers_balancer_and_random_states_come_back_to_the_bit(tmp_path: Path) -> None:
    model, optimizers = trained()
    state = {"step": 3, "random": random_state()}
    save_checkpoint(tmp_path / "c", model, optimizers=optimizers, balancer=Balancer(7), state=state)
    for _ in range(3):
        learn(model, optimizers)
    expected = weights(model)

    other, others = trained(seed=1)
    balancer = Balancer()
    opened = load_checkpoint(tmp_path / "c")
    opened.restore_model(other)
    opened.restore_training(other, others, balancer)
    restore_random_state(opened.state["random"])
    assert opened.step == 3
    assert balancer.state["step"] == 7 and torch.equal(balancer.state["consensus"], Balancer(7).state["consensus"])
    for _ in range(3):
        learn(other, others)
    assert equal(weights(other), expected)


def test_optimizer_state_goes_by_name_not_by_position(tmp_path: Path) -> None:
    model = Sized()
    optimizer = torch.optim.AdamW([model.first.weight, model.first.bias])
    learn(model, {"one": optimizer})
    save_checkpoint(tmp_path / "c", model, optimizers={"one": optimizer}, balancer=Balancer())
    turned = torch.optim.AdamW([model.first.bias, model.first.weight])
    load_checkpoint(tmp_path / "c").restore_training(model, {"one": turned}, Balancer())
    for parameter in (model.first.weight, model.first.bias):
        assert torch.equal(turned.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """Neither a .pt file, nor a pickle under a name of ours."""

    trap = tmp_path / "sprung"
    bomb = pickle.dumps(_Bomb(str(trap)))
    (tmp_path / "checkpoint.pt").write_bytes(bomb)
    with pytest.raises(CheckpointError, match="pickles, which AIME never opens"):
        load_checkpoint(tmp_path / "checkpoint.pt")

    folder = save_checkpoint(tmp_path / "c", Sized())
    (folder / MODEL).write_bytes(bomb)
    state = json.loads((folder / STATE).read_text())
    state["files"][MODEL] = {"bytes": len(bomb), "sha256": hashlib.sha256(bomb).hexdigest()}
    (folder / STATE).write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=f"{MODEL} cannot be read as safetensors"):
        load_checkpoint(folder).restore_model(Sized())
    assert not trap.exists()


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (open, (self.path, "w"))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_foreign_folders(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match=r"not a checkpoint of AIME: it has no state\.json"):
        load_checkpoint(tmp_path / "other")
    (tmp_path / "other" / STATE).write_text('{"epoch": 3}')
    with pytest.raises(CheckpointError, match="another program's"):
        load_checkpoint(tmp_path / "other")


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, "balancer.safetensors", "config.yaml", STATE])
def test_truncated_and_missing_files_are_named(tmp_path: Path, name: str) -> None:
    model, optimizers = trained()
    folder = save_checkpoint(tmp_path / "c", model, optimizers=optimizers, balancer=Balancer())
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    before = sorted((p.name, p.read_bytes()) for p in folder.iterdir())
    assert not is_whole(folder)
    with pytest.raises(CheckpointError, match=f"{folder}.*not whole.*{name}"):
        load_checkpoint(folder)
    assert sorted((p.name, p.read_bytes()) for p in folder.iterdir()) == before, "it must be left untouched"
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "c", Sized())
    content = bytearray((folder / MODEL).read_bytes())
    content[-1] ^= 1
    (folder / MODEL).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"damaged: {MODEL}"):
        load_checkpoint(folder)


def test_a_newer_format_asks_for_the_newer_version(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "c", Sized())
    state = json.loads((folder / STATE).read_text())
    (folder / STATE).write_text(json.dumps(state | {"format_version": 2, "aime_version": "9.1"}))
    with pytest.raises(CheckpointError, match=r"format 2 of AIME 9\.1"):
        load_checkpoint(folder)


def test_a_model_of_another_size_is_refused_with_the_settings_that_differ(tmp_path: Path) -> None:
    opened = load_checkpoint(save_checkpoint(tmp_path / "c", Sized()))
    with pytest.raises(CheckpointError, match="latent_dim is 36 in it, 48 here; hidden_dim is 512 in it, 64 here"):
        opened.restore_model(Sized(latent_dim=48, hidden_dim=64))


def test_an_action_size_that_does_not_fit_the_data_is_refused(tmp_path: Path) -> None:
    opened = load_checkpoint(save_checkpoint(tmp_path / "c", Sized(action_dim=21)))
    with pytest.raises(CheckpointError, match="actions of 21 numbers, but the data's have 6"):
        opened.restore_model(Sized(action_dim=6))


def test_a_model_that_has_changed_since_names_what_does_not_fit(tmp_path: Path) -> None:
    opened = load_checkpoint(save_checkpoint(tmp_path / "c", Sized(width=4)))
    with pytest.raises(CheckpointError, match=r"does not fit the model of this version .*\(4,\) in it, not \(6,\)"):
        other = Sized(width=4)
        other.first.bias = torch.nn.Parameter(torch.zeros(6))
        opened.restore_model(other)
    with pytest.raises(CheckpointError, match=r"it lacks extra\.weight"):
        other = Sized(width=4)
        other.extra = torch.nn.Linear(2, 2, bias=False)
        opened.restore_model(other)


def test_a_model_of_before_guesses_were_measured_shows_what_it_showed_then(tmp_path: Path) -> None:
    """It trusted its guesses in full; where trust was measured, guesses fell back to the background."""
    older, newer = small_model(), small_model()
    torch.nn.init.uniform_(older.decoder.background)
    del older.decoder.trust, older.decoder.mean_frame
    load_checkpoint(save_checkpoint(tmp_path / "c", older)).restore_model(newer)
    assert torch.equal(newer.decoder.trust, full_trust())
    assert torch.equal(newer.decoder.mean_frame, older.decoder.background)


def test_a_checkpoint_of_a_model_alone_can_be_used_but_not_trained_on(tmp_path: Path) -> None:
    model, optimizers = trained()
    opened = load_checkpoint(save_checkpoint(tmp_path / "c", model))
    other = Sized()
    opened.restore_model(other)
    assert equal(weights(other), weights(model))
    with pytest.raises(CheckpointError, match="--load-checkpoint"):
        opened.restore_training(other, optimizers, Balancer())


def test_the_checkpoint_says_how_large_its_model_is_whatever_the_settings_were(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "c", Sized(action_dim=5, latent_dim=12), TrainConfig())
    assert load_checkpoint(folder).model_config == Sized(action_dim=5, latent_dim=12).config


@pytest.mark.parametrize("size", [0, 100, 1_000, 5_000])
def test_a_full_disk_is_a_sentence_and_the_last_whole_checkpoint_survives(tmp_path: Path, size: int) -> None:
    model, optimizers = trained()
    old = save_checkpoint(tmp_path / "step-1", model, state={"random": random_state()})
    before = sorted((p.name, p.read_bytes()) for p in old.iterdir())
    sentence = r"step-\d could not be written .*the disk is full .*MiB free.*last whole checkpoint there is untouched"
    for name in ("step-2", "step-1"):
        with disk_of(size), pytest.raises(TrainingError, match=sentence):
            save_checkpoint(tmp_path / name, model, optimizers=optimizers, state={"random": random_state()})
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"], "nothing half-written may stay"
    assert sorted((p.name, p.read_bytes()) for p in old.iterdir()) == before
    assert load_checkpoint(old)


@pytest.mark.parametrize(("moment", "whole"), [(0, 0), (3, 0), (4, 1), (5, 1), (8, 1), (9, 2)])
def test_a_kill_at_any_moment_leaves_whole_checkpoints_only(tmp_path: Path, moment: int, whole: int) -> None:
    """The process is killed at its n-th forced write to the disk; every folder under its own name is then whole.

    There are five of them to a checkpoint: three files, their folder, and the folder around it, after the renaming.
    """
    process = multiprocessing.get_context("fork").Process(target=save_and_die, args=(tmp_path, moment))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    found = sorted(tmp_path.glob("step-*"))
    assert [load_checkpoint(path).step for path in found] == list(range(1, whole + 1))
    save_checkpoint(tmp_path / "step-1", Sized(), state={"step": 1})
    save_checkpoint(tmp_path / "step-2", Sized(), state={"step": 2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1", "step-2"], "what the kill left is cleared away"


def save_and_die(folder: Path, moment: int) -> None:
    left = itertools.count(moment, -1)

    def sync(path: Path) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.sync = sync
    for step in (1, 2):
        save_checkpoint(folder / f"step-{step}", Sized(), state={"step": step})


def test_replacing_a_checkpoint_leaves_the_new_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", Sized(), state={"step": 1})
    save_checkpoint(tmp_path / "c", Sized(), state={"step": 2})
    assert load_checkpoint(tmp_path / "c").step == 2
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_checkpoint_can_be_moved(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "c", Sized())
    shutil.move(folder, tmp_path / "elsewhere")
    assert load_checkpoint(tmp_path / "elsewhere")
