"""``aime evaluate RUN``: what a model predicts on held-out episodes, in figures that can be published.

aime evaluate runs/humanoid-walk                             the protocol, into runs/humanoid-walk/evaluation/
aime evaluate runs/humanoid-walk --clips 32 --samples 2      a quick look on a laptop
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from aime.commands.flags import parse
from aime.config import Device
from aime.evaluation.config import EvaluationConfig


@dataclass(frozen=True)
class EvaluateFlags:
    """Figures on held-out episodes: what a model reconstructs and dreams, beside copying the last frame."""

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """A run folder, a checkpoint folder, a bundled model or a hub name."""
    protocol: EvaluationConfig = field(default_factory=EvaluationConfig)
    data_dir: Path | None = None
    """Other data than that which the model was trained on."""
    out: Path | None = None
    """Where evaluation.json and the plots go; by default the run's evaluation/."""
    device: Device = "auto"
    """Where to compute."""


def run(argv: Sequence[str]) -> int:
    """The command."""
    flags = parse(EvaluateFlags, argv, prog="aime evaluate")
    return evaluate_model(flags.run, flags.protocol, data_dir=flags.data_dir, out=flags.out, device=flags.device)


def evaluate_model(
    name: str,
    protocol: EvaluationConfig | None = None,
    *,
    data_dir: Path | None = None,
    out: Path | None = None,
    device: Device = "auto",
) -> int:
    """Evaluate a model by the name of its run or checkpoint, print the tables and write them down."""
    from rich.console import Console

    from aime.commands.subject import open_subject
    from aime.evaluation import evaluate

    subject = open_subject(name, data_dir=data_dir, device=device)
    protocol = (protocol or EvaluationConfig()).on(subject.store)
    folder = out or subject.folder / "evaluation"
    step = subject.checkpoint.step
    progress = Console(stderr=True)
    found = evaluate(subject.model, subject.store, protocol, folder, name=str(name), step=step, console=progress)
    found.print()
    print(f"written to {folder}")
    return 0
