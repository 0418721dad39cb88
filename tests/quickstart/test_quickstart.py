"""The quickstart's four cards and all its commands run as they stand in the copy beside this file.

The cards' code is executed word for word, with Card 1's sizes and `cuda` in it (which falls back to the CPU where there
is no GPU); for Card 2, `...` stands for Card 1's arguments, as the quickstart means it. What is small is the data: the
folder that Card 2 names holds one batch of two clips, so that its loop takes one step.

The commands are run with flags appended: the tiny preset, two steps, a small data set. Their own flags stay.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aime.presets import preset_config
from aime.training.config_file import settings
from tests.cli.made import write_store

TEXT = Path(__file__).with_name("quickstart.md").read_text(encoding="utf-8")
SECTIONS = {int(part[0]): part for part in TEXT.split("### Card ")[1:]}
CARDS = {n: code[1] for n, part in SECTIONS.items() if (code := re.search(r"```python\n(.*?)```", part, re.S))}
PROJECT = Path(__file__).parents[2]
SCRIPT = "VRNN/dmc_vb_transition_dynamics_trainer.py"
HAS_GPU = torch.cuda.is_available()
FRAMES, ACTIONS = (1, 16, 3, 64, 64), (1, 16, 6)


def commands() -> list[str]:
    """Every command line in the quickstart that calls python, its continuation lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("python ")]


@pytest.fixture(autouse=True)
def _from_the_projects_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the quickstart says: the project's root is on the path."""
    monkeypatch.syspath_prepend(str(PROJECT))


@pytest.fixture(scope="module")
def card_1() -> Iterator[dict[str, Any]]:
    """What Card 1 leaves behind when it is run."""
    torch.manual_seed(0)
    names = {"torch": torch, "observations": torch.rand(FRAMES), "actions": torch.rand(ACTIONS) * 2 - 1}
    before = list(sys.path)
    sys.path.insert(0, str(PROJECT))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        exec(CARDS[1], names)
    sys.path[:] = before
    names["said"] = [str(w.message) for w in said]
    yield names


def test_the_copy_holds_all_four_cards_and_commands() -> None:
    assert list(SECTIONS) == [1, 2, 3, 4]
    assert list(CARDS) == [1, 2, 4], "Card 3 is a table"
    assert len(commands()) == 4 and all(SCRIPT in command for command in commands())


# ---------------------------------------------------------------------- Card 1


def test_card_1_runs_and_its_four_losses_are_finite(card_1: dict[str, Any]) -> None:
    for name in ("total_vae_loss", "perceiver_loss", "attention_loss", "adversarial_loss"):
        loss = card_1["losses"][name]
        assert loss.requires_grad and torch.isfinite(loss), name


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_without_a_gpu_cuda_is_the_cpu_and_a_warning_says_so(card_1: dict[str, Any]) -> None:
    assert card_1["model"].device.type == "cpu"
    assert any("CPU" in message for message in card_1["said"])


def test_the_step_of_card_2_trains_every_objective_and_the_adversary(card_1: dict[str, Any]) -> None:
    model, losses = card_1["model"], card_1["losses"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = re.search(r"    # RGB backward.*?zero_grad\(\)\n", CARDS[2], re.S)
    assert step is not None
    exec("if True:\n" + step[0], {"torch": torch, "model": model, "losses": losses})
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, part in model.named_children() if any(True for _ in part.parameters())}
    assert moved == trained
    norms = model.rgb_optimizer.report.norms
    assert norms.shape == (4,) and bool((norms > 0).all()), "each of the four objectives has its say"
    assert all(p.grad is None for p in model.parameters())


# ---------------------------------------------------------------------- Card 3


def rows_of_card_3() -> dict[str, list[int]]:
    rows = re.findall(r"\| `(\w+)` \| `\[([\d, ]+)\]` \|", SECTIONS[3])
    return {name: [int(n) for n in shape.split(",")] for name, shape in rows}


@pytest.mark.parametrize("name", ["context", "latents", "reconstructions"])
def test_card_3_shapes_per_clip(card_1: dict[str, Any], name: str) -> None:
    expected = [1, *rows_of_card_3()[name][1:]]
    assert list(getattr(card_1["outputs"], name).shape) == expected


@pytest.mark.parametrize(("row", "field"), [("h_t", "hidden"), ("attention_map",) * 2, ("dpgmm_weights",) * 2])
def test_card_3_shapes_at_one_time(card_1: dict[str, Any], row: str, field: str) -> None:
    at_t = getattr(card_1["outputs"], field)[:, 7]
    assert list(at_t.shape) == [1, *rows_of_card_3()[row][1:]]


def test_card_3_is_covered_whole() -> None:
    inputs = {"observations", "actions"}
    outputs = {"context", "latents", "h_t", "attention_map", "dpgmm_weights", "reconstructions"}
    assert rows_of_card_3().keys() == inputs | outputs


# ---------------------------------------------------------------------- Card 4


def test_card_4s_names_are_settings_with_those_defaults() -> None:
    card: dict[str, Any] = {}
    exec(CARDS[4], {}, card)
    assert {"warmup_epochs", "mu", "lambd", "alpha_steps", "batch_size", "grad_clip"} <= card.keys()
    ours = settings(preset_config("base"))
    assert {name: ours.get(name) for name in card} == card


# ---------------------------------------------------------------------- Card 2


def card_2() -> str:
    """Card 2, with Card 1's arguments for its three dots."""
    call = re.search(r"DPGMMVariationalRecurrentAutoencoder\((.*?)\n\)\.to", CARDS[1], re.S)
    assert call is not None and CARDS[2].count("(...)") == 1
    return CARDS[2].replace("(...)", f"({call[1]}\n)")


def test_card_2_runs_on_a_humanoids_21_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_store(Path("data/dmc_humanoid"), episodes=3, length=32, actions=21, size=64, task="humanoid-walk")
    names: dict[str, Any] = {}
    with pytest.warns(UserWarning, match="actions of size 6, but this data has 21"):
        exec(card_2(), names)
    printed = re.findall(r"^Loss: (-?[\d.]+)$", capsys.readouterr().out, re.M)
    assert len(printed) == len(names["loader"]) == 1
    assert names["actions"].shape[1:] == (16, 21)
    assert names["model"].config.action_dim == 21
    assert len(names["model"].optimizer.state) > 0, "the optimizer steps the model that met the data"
    in_optimizer = {p for group in names["model"].optimizer.param_groups for p in group["params"]}
    assert in_optimizer == set(names["model"].parameters())


def test_once_met_the_size_of_an_action_stays(card_1: dict[str, Any]) -> None:
    from aime.errors import ShapeError

    with pytest.raises(ShapeError, match="actions of size 6"):
        card_1["model"].compute_total_loss(torch.rand(FRAMES), torch.zeros(1, 16, 21))


def test_an_argument_that_does_not_exist_is_named() -> None:
    from VRNN.dpgmm_stickbreaking_prior_vrnn import DPGMMVariationalRecurrentAutoencoder

    from aime.errors import ConfigError

    with pytest.raises(ConfigError, match=r"latent_dmi.*latent_dim"):
        DPGMMVariationalRecurrentAutoencoder(latent_dmi=36)


def test_the_first_use_of_a_data_folder_collects_a_little_video(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from VRNN.dmc_vb_transition_dynamics_trainer import DMCVBDataset

    root = tmp_path / "dmc_humanoid"
    data = DMCVBDataset(root=root, sequence_length=4, episodes=3, episode_length=8)
    assert "collecting 3 episodes of humanoid-walk" in caplog.text
    assert data[0]["observations"].shape == (4, 3, 64, 64) and data[0]["actions"].shape == (4, 21)
    caplog.clear()
    assert len(DMCVBDataset(root=root, sequence_length=4)) == len(data)
    assert not caplog.text, "a second use collects nothing"


def test_a_data_folder_that_names_no_task_is_a_sentence(tmp_path: Path) -> None:
    from VRNN.dmc_vb_transition_dynamics_trainer import DMCVBDataset

    from aime.errors import DataError

    with pytest.raises(DataError, match=r"no data in .*my_robot.*aime collect"):
        DMCVBDataset(root=tmp_path / "my_robot")
    assert not (tmp_path / "my_robot").exists()


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_a_batch_sent_to_a_gpu_that_is_not_there_stays_and_says_so(tmp_path: Path) -> None:
    from VRNN.devices import PortableTensor
    from VRNN.dmc_vb_transition_dynamics_trainer import DMCVBDataset

    data = DMCVBDataset(write_store(tmp_path / "store", size=64), sequence_length=8)
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=3)))
    with pytest.warns(UserWarning, match="CPU"):
        sent = batch["observations"].to(torch.device("cuda"))
    assert type(sent) is torch.Tensor and sent.device.type == "cpu"
    assert torch.equal(sent, torch.stack([data[i]["observations"] for i in range(3)]).to("cpu"))
    assert not isinstance(batch["actions"] * 2, PortableTensor), "no computation carries the habit on"


# ---------------------------------------------------------------------- commands and places


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Episodes long enough for the protocol of `--eval-only`."""
    return write_store(tmp_path / "store", episodes=4, length=50, actions=21, size=64, task="humanoid-walk")


SMALL = "--preset tiny --max-steps 2 --batch-size 1 --eval-every 0 --no-tensorboard"


def test_the_first_command_trains_as_a_script_and_the_others_go_on_from_there(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, evaluate, change, draw = (shlex.split(command)[1:] for command in commands())
    monkeypatch.chdir(tmp_path)

    # Each command is checked to be the script with flags; the first runs in a Python of its own, as a user's would.
    first = [sys.executable, str(PROJECT / train[0]), *train[1:], *shlex.split(SMALL)]
    first += ["--data-dir", str(store), "--run-dir", str(tmp_path / "checkpoints" / "humanoid-walk")]
    done = subprocess.run(first, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if not HAS_GPU:
        assert "CPU" in done.stderr, "--device cuda without a GPU is said"
    run = tmp_path / "checkpoints" / "humanoid-walk"
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert {"model.safetensors", "optimizer.safetensors"} <= {path.name for path in checkpoint.iterdir()}

    from VRNN import dmc_vb_transition_dynamics_trainer as script

    monkeypatch.setattr(script, "CHECKPOINTS", tmp_path / "checkpoints")
    shutil.copytree(checkpoint, "path/to/checkpoint.pt")
    assert script.main(evaluate[1:]) == 0, capsys.readouterr().err
    assert "PSNR" in capsys.readouterr().out

    assert script.main([*change[1:], *shlex.split(SMALL), "--data-dir", str(store)]) == 0, capsys.readouterr().err
    changed = settings(script.train.settings(["--run-dir", "checkpoints/humanoid-walk-2"], root=tmp_path))
    assert (changed["latent_dim"], changed["max_components"], changed["learning_rate"]) == (48, 20, 0.0001)

    assert script.main(draw[1:]) == 0, capsys.readouterr().err
    drawn = {path.name for path in run.glob("pictures/**/*.png")}
    assert {"attention.png", "slots.png", "strip.png"} <= drawn


def test_runs_go_beside_the_script_by_default() -> None:
    from VRNN import dmc_vb_transition_dynamics_trainer as script

    assert script.CHECKPOINTS == PROJECT / "VRNN" / "checkpoints"


@pytest.mark.parametrize(
    ("module", "names"),
    {
        "dpgmm_stickbreaking_prior_vrnn": ["DPGMMVariationalRecurrentAutoencoder", "DPGMMPrior", "AttentionSchema"],
        "dmc_vb_transition_dynamics_trainer": ["DMCVBDataset", "main"],
        "perceiver.video_prediction_perceiverIO": ["CausalPerceiver"],
        "RGB": ["RGB"],
        "Kumaraswamy": ["kl_kumaraswamy_beta"],
    }.items(),
)
def test_every_file_that_the_quickstart_names_is_there(module: str, names: list[str]) -> None:
    import importlib

    assert (PROJECT / "VRNN" / (module.replace(".", "/") + ".py")).is_file()
    loaded = importlib.import_module(f"VRNN.{module}")
    assert all(hasattr(loaded, name) for name in names)


def test_the_methods_that_the_quickstart_names_are_there() -> None:
    from VRNN.dpgmm_stickbreaking_prior_vrnn import DPGMMPrior, DPGMMVariationalRecurrentAutoencoder

    for name in ("forward_sequence", "compute_total_loss", "extract_context", "imagine"):
        assert callable(getattr(DPGMMVariationalRecurrentAutoencoder, name))
    assert callable(DPGMMPrior.compute_kl_divergence_mc)
