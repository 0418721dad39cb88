"""Studies: several runs under one plan, trained in turn, evaluated under one protocol, and compared clip by clip."""

from aime.studies.ablation import AblationConfig, ablate
from aime.studies.benchmark import BenchmarkConfig, benchmark

__all__ = ["AblationConfig", "BenchmarkConfig", "ablate", "benchmark"]
