"""``aime ablate``: what each pillar of AIME is worth, by training without it.

aime ablate                                                  twelve runs of 15 minutes on cartpole-swingup
aime ablate --variants no-context --seeds 1 --minutes 5      one pillar, at a glance
aime ablate --steps 1000 --precision float32                 as many steps each, whatever the machine does beside
"""

from __future__ import annotations

from collections.abc import Sequence

from aime.commands.flags import parse
from aime.studies.ablation import AblationConfig, ablate


def run(argv: Sequence[str]) -> int:
    """The command."""
    config = parse(AblationConfig, argv, prog="aime ablate")
    print(ablate(config).text)
    print(f"\nwritten to {config.out / 'ablation.json'} and {config.out / 'ablation.md'}")
    return 0
