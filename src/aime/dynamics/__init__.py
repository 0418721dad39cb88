"""Dynamics: the recurrent core that carries the belief through time, and the motion of what it sees."""

from aime.dynamics.vrnn import RecurrentCore, RecurrentState, changes_of

__all__ = ["RecurrentCore", "RecurrentState", "changes_of"]
