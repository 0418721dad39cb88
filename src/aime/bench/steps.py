"""A whole training step: its work, its time in each precision, and its memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aime.bench.figures import Figure, NotMeasured
from aime.bench.flops import count_flops
from aime.bench.memory import in_a_fresh_process, training_memory
from aime.bench.probe import FLOP, precisions, product
from aime.bench.subject import Subject
from aime.bench.timing import take_turns


def measure_steps(subject: Subject, rounds: int) -> Iterator[Figure]:
    """`Updater.step` as `aime train` calls it: forward, every backward, RGB, discriminator, the optimizers, and then
    second looks and rehearsals; and the same without these last two.

    Both kinds of step in both precisions and a matrix product in each take turns, so that the share of the product's
    speed, too, is of one and the same moment.
    """
    # One by one: a model of each precision is in memory here, and the third would be for nothing.
    step = subject.at("float32").stepper()
    step()  # the first batch seeds the codebook, which later ones do not
    work = count_flops(step)
    parameters = sum(p.numel() for p in subject.model().parameters())
    del step

    subjects = {name: subject.at(name) for name in precisions(subject.device)}
    runs = {("step", name): each.stepper() for name, each in subjects.items()}
    runs |= {("without", name): each.unrehearsed().stepper() for name, each in subjects.items()}
    runs |= {("product", name): product(name, subject.device) for name in subjects}
    times = take_turns(runs, rounds, subject.device)
    for name, each in subjects.items():
        taken = times["step", name]
        speed = work / taken.median
        yield Figure("parameters", parameters, "parameters", precision=name)
        yield Figure("work of a step", work, "FLOP", precision=name)
        yield Figure.taken("a step", taken, precision=name)
        yield Figure.taken("… without second looks and rehearsals", times["without", name], precision=name)
        yield Figure.rate("trained on", subject.frames, "frames/s", taken, precision=name)
        yield Figure("achieved", speed, "FLOP/s", precision=name)
        share = speed * times["product", name].median / FLOP
        yield Figure("of the matrix product's speed", share, "share", precision=name)
        try:
            peak = float(in_a_fresh_process(training_memory, each, torch.get_num_threads()))
            yield Figure("peak memory", peak, "B", precision=name)
        except NotMeasured as why:
            yield Figure("peak memory", None, "B", note=str(why), precision=name)
