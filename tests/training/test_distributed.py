"""Two processes train one model: they stay equal, read different clips, and one of them writes."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from aime.config import TrainConfig
from aime.training import device
from aime.training.checkpoint import MODEL, load_checkpoint
from aime.training.distributed import World, any_rank, average_gradients, broadcast_from_first, join_world
from aime.training.locate import locate
from aime.training.trainer import Trainer

Settings = Callable[..., TrainConfig]


def test_alone_nothing_is_exchanged() -> None:
    with join_world("cpu") as world:
        assert world == World(0, 1) and world.writes
        layer = nn.Linear(2, 2)
        layer(torch.ones(1, 2)).sum().backward()
        before = layer.weight.grad.clone()
        average_gradients(layer.parameters(), world)
        broadcast_from_first(layer.parameters(), world)
        assert torch.equal(layer.weight.grad, before)
        assert any_rank(torch.tensor(True), world) and not any_rank(torch.tensor(False), world)


def test_two_processes_train_one_model(settings: Settings, tmp_path: Path) -> None:
    config = settings(max_steps=3, log_every=1, precision="auto")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=train_rank, args=(rank, port, config, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=120)
        assert rank.exitcode == 0
    mine, other = (torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in range(2))
    assert mine["writes"] and not other["writes"]
    different = [name for name, value in mine["model"].items() if not torch.equal(value, other["model"][name])]
    assert different == []
    assert not torch.equal(mine["clip"], other["clip"]), "each rank reads its own part of a batch"
    assert mine["noise"] != other["noise"]
    assert mine["precisions"] == other["precisions"] == ("float32", "bf16"), "what rank 0 measured"
    checkpoint = load_checkpoint(locate(config.run_path))
    # Ten clips an epoch, four a step: the third step begins the second epoch.
    assert checkpoint.step == 3 and checkpoint.state["data"] == {"epoch": 1, "position": 4}
    assert (checkpoint.folder / MODEL).is_file()
    assert len((config.run_path / "metrics.jsonl").read_text().splitlines()) == 3, "one process writes"


def train_rank(rank: int, port: int, config: TrainConfig, out: Path) -> None:
    """What torchrun starts, in one of two processes."""
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ.update(address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"})
    device.cpu_bf16_gain = lambda model: 0.5 if rank == 0 else 2.0  # type: ignore[assignment]
    device.cpu_bf16_recurrent_gain = lambda width, clips: 2.0 if rank == 0 else 0.5  # type: ignore[assignment]
    with join_world("cpu") as world:
        trainer = Trainer(config, world)
        trainer.draw = lambda: []  # type: ignore[method-assign]
        clip = next(trainer.stream)["observations"]
        trainer.stream.load_state_dict({"epoch": 0, "position": 0})
        trainer.run()
        trainer.close()
        model = trainer.model.state_dict()
        precisions = trainer.config.precision, trainer.config.optimizer.consolidation_precision
        learned = {"model": model, "clip": clip, "writes": world.writes, "noise": torch.rand(()).item()}
        learned["precisions"] = precisions
        torch.save(learned, out / f"rank{rank}")
