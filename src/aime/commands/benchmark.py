"""``aime benchmark``: AIME and its peer on the same data for the same minutes, and one table of both.

aime benchmark                                                            five tasks: some four hours
aime benchmark --tasks cartpole-swingup --minutes 5 --clips 32 --samples 2    a quarter of an hour on a laptop
"""

from __future__ import annotations

from collections.abc import Sequence

from aime.commands.flags import parse
from aime.studies.benchmark import BenchmarkConfig, benchmark


def run(argv: Sequence[str]) -> int:
    """The command."""
    config = parse(BenchmarkConfig, argv, prog="aime benchmark")
    print(benchmark(config).text)
    print(f"\nwritten to {config.out / 'benchmark.json'} and {config.out / 'benchmark.md'}")
    return 0
