"""World models to compare AIME with, trained and evaluated by the same code on the same windows."""

from aime.peers.rssm import RSSM

__all__ = ["RSSM"]
