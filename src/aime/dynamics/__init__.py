"""Dynamics: the recurrent core that carries the belief through time."""

from aime.dynamics.vrnn import RecurrentCore, RecurrentState

__all__ = ["RecurrentCore", "RecurrentState"]
