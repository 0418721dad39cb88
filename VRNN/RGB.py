"""Rotation-based gradient balancing by the quickstart's path: it lives in `aime.learning`."""

from aime.learning import RGB, BalanceReport, GradientBalancer

__all__ = ["RGB", "BalanceReport", "GradientBalancer"]
