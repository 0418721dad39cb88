"""The Perceiver IO by the quickstart's path: it lives in `aime.perception`.

`extract_context(videos)` is a method of the model, `aime.WorldModel.extract_context`.
"""

from aime.perception import CausalPerceiver, PerceiverCache, PerceiverOutput, VQTokenizer

__all__ = ["CausalPerceiver", "PerceiverCache", "PerceiverOutput", "VQTokenizer"]
