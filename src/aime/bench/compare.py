"""What a step costs beside others: RGB against one summed backward, and AIME against a peer of its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from aime.bench.figures import Figure
from aime.bench.subject import Subject
from aime.bench.timing import Timing, seconds, take_turns
from aime.learning.balancers import Gradients
from aime.presets import peer_config
from aime.training.build import build_model, build_updater
from aime.training.distributed import World
from aime.training.update import ADVERSARY, OBJECTIVES


def measure_balance(subject: Subject, rounds: int) -> Iterator[Figure]:
    """A step with the objectives' gradients balanced (by RGB), in turns with a step on their plain sum.

    Model, batch, optimizers and adversary are the same; only the lines from the losses to `.grad` differ.
    """
    updater, batch, device = subject.updater(), subject.batch(), subject.device
    model, balancer = updater.model, updater.balancer
    algebra: list[float] = []

    def combine(gradients: Gradients) -> None:
        algebra.append(seconds(lambda: balancer.combine(gradients), device))

    def balanced(losses: Mapping[str, Tensor]) -> None:
        combine(balancer.differentiate(losses))

    def summed(losses: Mapping[str, Tensor]) -> None:
        sum((losses[name] for name in OBJECTIVES[1:]), losses[OBJECTIVES[0]]).backward()  # type: ignore[no-untyped-call]

    def step(differentiate: Callable[[Mapping[str, Tensor]], None]) -> None:
        for optimizer in updater.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        with subject.autocast():
            losses, _ = model.compute_total_loss(*batch.values(), loss=subject.config.loss)
        differentiate(losses)
        # Not before: the sum's gradient reaches the adversary, too, on its way to the decoder.
        updater.optimizers["discriminator"].zero_grad(set_to_none=True)
        losses[ADVERSARY].backward()  # type: ignore[no-untyped-call]
        for optimizer in updater.optimizers.values():
            optimizer.step()

    times = take_turns({"balanced": lambda: step(balanced), "sum": lambda: step(summed)}, rounds, device)
    own = Timing(tuple(algebra[-rounds:]))
    name = {"rgb": "RGB"}.get(subject.config.balancer.balancer, subject.config.balancer.balancer)
    yield Figure.taken(f"a step with {name}", times["balanced"])
    yield Figure.taken("a step on the sum", times["sum"])
    yield Figure.ratio(f"{name} against the sum", times["balanced"], times["sum"])
    yield Figure.ratio(f"{name}'s own algebra, of a step", own, times["balanced"], unit="share")


def measure_peer(subject: Subject, rounds: int) -> Iterator[Figure]:
    """AIME's training step in turns with that of an RSSM of as many parameters, on the same batch."""
    config = peer_config(subject.config)
    peer = build_model("rssm", subject.sizes).to(subject.device).train()
    updater = build_updater(peer, config, subject.precision, World())
    batch = subject.batch()
    runs = {"aime": subject.stepper(), "rssm": lambda: updater.step(batch, lr_factor=1.0, beta=1.0)}
    times = take_turns(runs, rounds, subject.device)
    yield Figure("parameters of the RSSM", sum(p.numel() for p in peer.parameters()), "parameters")
    yield Figure.rate("AIME trained on", subject.frames, "frames/s", times["aime"])
    yield Figure.rate("RSSM trained on", subject.frames, "frames/s", times["rssm"])
    yield Figure.ratio("AIME's frames/s against the RSSM's", times["rssm"], times["aime"])
