"""``aime bench``: how fast AIME is on this machine, in one table from one run.

aime bench                                            tiny and base, everything; some minutes on two cores
aime bench --quick --presets tiny --only step         whether it is fast here, in half a minute
aime bench --device cuda --out bench.json             on a GPU, with every figure in a file
"""

from __future__ import annotations

from collections.abc import Sequence

from aime.bench.config import BenchConfig
from aime.commands.flags import parse
from aime.places import require_file


def run(argv: Sequence[str]) -> int:
    """The command."""
    config = parse(BenchConfig, argv, prog="aime bench")
    if config.out is not None:
        require_file(config.out)

    from aime.bench.run import measure

    report = measure(config)
    for line in report.lines():
        print(line)
    if config.out is not None:
        report.save(config.out)
        print(f"\nwritten to {config.out}")
    return 0
