"""Perception: frames become codes, a causal context and features for attention and the posterior, and come back."""

from aime.perception.decoder import FrameDecoder, full_trust, trust_weights
from aime.perception.encoder import FrameEncoder, FrameFeatures
from aime.perception.perceiver import CausalPerceiver, PerceiverCache, PerceiverOutput
from aime.perception.tokenizer import TokenizerOutput, VQTokenizer

__all__ = [
    "CausalPerceiver",
    "FrameDecoder",
    "FrameEncoder",
    "FrameFeatures",
    "PerceiverCache",
    "PerceiverOutput",
    "TokenizerOutput",
    "VQTokenizer",
    "full_trust",
    "trust_weights",
]
