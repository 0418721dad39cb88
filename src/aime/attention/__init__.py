"""Attention: slots that see (bottom-up), a schema that expects (top-down), and precision."""

from aime.attention.precision import gaussian_nll, gaussian_nll_of, motion_target, precision_map, weighted_error
from aime.attention.schema import AttentionSchema, map_kl
from aime.attention.slots import SlotAttention, Slots, slot_overlap, slot_spread

__all__ = [
    "AttentionSchema",
    "SlotAttention",
    "Slots",
    "gaussian_nll",
    "gaussian_nll_of",
    "map_kl",
    "motion_target",
    "precision_map",
    "slot_overlap",
    "slot_spread",
    "weighted_error",
]
