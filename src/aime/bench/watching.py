"""Watching and dreaming: all frames at once against frame by frame, a live stream, and dreams."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from aime.belief import MixturePrior
from aime.bench.figures import Figure
from aime.bench.subject import Subject
from aime.bench.timing import take_turns
from aime.inputs import to_unit_frames
from aime.outputs import Belief
from aime.world_model import WorldModel

HORIZON = 16
"""Frames of a dream."""
CROWD = 512
"""Dreams at once, where only latents are wanted."""
SHOWN = 16
"""Dreams at once, where frames are wanted."""


def all_at_once(model: WorldModel, observations: Tensor, actions: Tensor) -> Tensor:
    """The reconstruction of a clip, with each module called once on all its frames."""
    watched = model.watch(to_unit_frames(observations), actions, sample=False)
    return model.decode(watched.latents, watched.expected)


def frame_by_frame(model: WorldModel, observations: Tensor, actions: Tensor) -> Tensor:
    """The same by the same modules in a loop over the frames, as a model whose posterior reads h would have to."""
    belief: Belief | None = None
    means = []
    for frame, action in zip(observations.split(1, dim=1), actions.split(1, dim=1), strict=True):
        watched = model.watch(to_unit_frames(frame), action, None, belief, sample=False)
        belief = watched.belief
        means.append(model.decode(watched.latents, watched.expected))
    return torch.cat(means, dim=1)


def measure_parallel(subject: Subject, rounds: int) -> Iterator[Figure]:
    """A batch reconstructed with its gradient and without: at once, in turns with the loop."""
    model, batch = subject.model().eval(), subject.batch()
    clip = batch["observations"], batch["actions"]

    def differentiated(reconstruct: Callable[[WorldModel, Tensor, Tensor], Tensor]) -> None:
        with subject.autocast():
            mean = reconstruct(model, *clip)
        model.zero_grad(set_to_none=True)
        mean.float().square().mean().backward()  # type: ignore[no-untyped-call]

    def plain(reconstruct: Callable[[WorldModel, Tensor, Tensor], Tensor]) -> None:
        with torch.no_grad(), subject.autocast():
            reconstruct(model, *clip)

    for how, run in (("forward", plain), ("forward and backward", differentiated)):
        runs = {"once": lambda run=run: run(all_at_once), "loop": lambda run=run: run(frame_by_frame)}
        times = take_turns(runs, rounds, subject.device)
        yield Figure.taken(f"{how}, all frames at once", times["once"])
        yield Figure.taken(f"{how}, frame by frame", times["loop"])
        yield Figure.ratio(f"{how}, the loop against all at once", times["loop"], times["once"])


@torch.no_grad()
def measure_streaming(subject: Subject, rounds: int) -> Iterator[Figure]:
    """One more frame of one live stream, and dreams of `HORIZON` frames from there: latents alone, and frames."""
    model, stream = subject.model().eval(), subject.batch(1, 2 * subject.config.model.sequence_length)
    many = torch.rand(CROWD, HORIZON, stream["actions"].shape[-1], device=subject.device) * 2 - 1
    with subject.autocast():
        belief = model.observe(stream["observations"], stream["actions"])  # beyond the window: the memory is full
        frame, action = stream["observations"][:, -1], stream["actions"][:, -1]
        one = take_turns({"frame": lambda: belief.step(frame, action)}, 5 * rounds, subject.device)["frame"]
        runs: dict[str, Callable[[], object]] = {
            "one": lambda: model.dream(belief, many[:1], MixturePrior.sample),
            "crowd": lambda: model.dream(belief.repeat(CROWD), many, MixturePrior.sample),
            "seen": lambda: model.imagine(belief, many[:1]),
            "shown": lambda: model.imagine(belief.repeat(SHOWN), many[:SHOWN]),
        }
        times = take_turns(runs, rounds, subject.device)
    yield Figure.taken("watch one more frame", one)
    yield Figure.rate("dream, latents, batch 1", HORIZON, "steps/s", times["one"])
    yield Figure.rate(f"dream, latents, batch {CROWD}", CROWD * HORIZON, "steps/s", times["crowd"])
    yield Figure.rate("dream, frames, batch 1", HORIZON, "frames/s", times["seen"])
    yield Figure.rate(f"dream, frames, batch {SHOWN}", SHOWN * HORIZON, "frames/s", times["shown"])
