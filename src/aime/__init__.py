"""AIME, the Adaptive Infinite Mixture Engine: a world model for embodied agents."""

__version__ = "0.1.0"
