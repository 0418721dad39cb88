"""Evaluation: what a world model predicts when it is not shown the answer."""

from aime.evaluation.config import EvaluationConfig
from aime.evaluation.health import Check, check_health, health_table, read_health
from aime.evaluation.protocol import evaluate
from aime.evaluation.report import Evaluation

__all__ = ["Check", "Evaluation", "EvaluationConfig", "check_health", "evaluate", "health_table", "read_health"]
