"""Every moment of a step counts for one part, its backward passes for the part that caused them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function

from aime.bench.pillars import PILLARS, REST, Shares, marked, marked_method, own_time, recorded, shares_of
from tests.helpers import random_clip, small_model

CPU = torch.device("cpu")


def shares_of_time(run: Callable[[], object]) -> Shares:
    return shares_of(recorded(run, CPU), own_time(CPU))


def products(event: FunctionEvent) -> float:
    """One for each matrix product: a count is the same on a busy machine."""
    return float(event.name == "aten::mm")


class Repeated(nn.Module):
    """A part that is as slow as one likes."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(128))
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x @ self.weight
        return x


def test_the_parts_are_the_modules_of_the_world_model():
    modules = {name for name, child in small_model().named_children() if list(child.parameters())}
    named = [part for parts in PILLARS.values() for part in parts]
    assert len(named) == len(set(named))
    assert modules == set(named) - {"balancer", "optimizers"}


def test_shares_sum_to_one_and_every_part_that_ran_has_one():
    model = small_model()
    frames, actions = random_clip()

    def run() -> None:
        losses, _ = model.compute_total_loss(frames, actions)
        losses["total_vae_loss"].backward()

    with marked(model):
        shares = shares_of_time(run)
    assert sum(forward + backward for forward, backward in shares.values()) == pytest.approx(1)
    assert all(value >= 0 for share in shares.values() for value in share)
    watching = {
        "tokenizer",
        "perceiver",
        "encoder",
        "decoder",
        "slot_attention",
        "schema",
        "posterior",
        "prior",
        "core",
    }
    assert watching | {"context_head", "discriminator", REST} == set(shares)
    perception = {"tokenizer", "perceiver"}
    assert all(min(shares[part]) > 0 for part in watching - perception)
    assert all(shares[part][1] == 0 for part in perception), "the ELBO is not differentiated for them"


def test_a_backward_pass_counts_for_the_part_that_it_differentiates():
    """Whichever order the parts run in, and though the engine knows nothing of parts."""
    model = nn.ModuleDict({"little": Repeated(2), "much": Repeated(60)})
    x = torch.randn(128, 128)
    for order in (("little", "much"), ("much", "little")):

        def run(order: tuple[str, ...] = order) -> None:
            y = x
            for name in order:
                y = model[name](y)
            with torch.no_grad():
                y.square()  # bears the number of the node that comes next, and is not its maker
            y.sum().backward()

        with marked(model):
            run()
            shares = shares_of(recorded(run, CPU), products)
        # Going back, a product is one for the weight and one for what came in, which no one asks of the clip itself.
        counted = {name: (times, 2 * times - (name == order[0])) for name, times in (("little", 2), ("much", 60))}
        whole = sum(map(sum, counted.values()))
        for name, (forward, backward) in counted.items():
            assert shares[name] == pytest.approx((forward / whole, backward / whole))


def test_an_operation_weighs_what_it_took_by_itself():
    event: Any = SimpleNamespace(
        self_cpu_time_total=3.0, cpu_time_total=9.0, self_device_time_total=5.0, device_time_total=7.0
    )
    assert own_time(CPU)(event) == 3
    assert own_time(torch.device("cuda"))(event) == 5
    event.self_cpu_time_total = -0.1  # so the profiler may round
    assert own_time(CPU)(event) == 0


def test_what_is_not_differentiated_has_no_backward_share():
    model = nn.ModuleDict({"seen": Repeated(3), "learned": Repeated(3)})

    def run() -> None:
        model["learned"](model["seen"](torch.randn(8, 128)).detach()).sum().backward()

    with marked(model):
        shares = shares_of_time(run)
    assert shares["seen"][1] == 0 < shares["learned"][1]


def test_marks_are_taken_away_again():
    model = nn.ModuleDict({"part": Repeated(1)})
    marks = record_function("x")
    with marked(model), marked_method(marks, "__enter__", "name"):
        pass
    assert not model["part"]._forward_hooks and not model["part"]._forward_pre_hooks
    assert "__enter__" not in vars(marks)
