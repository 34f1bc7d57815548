"""The network: pure PyTorch, no I/O."""

from streamtok.config import TokenizerConfig
from streamtok.model.frames import NonFiniteError
from streamtok.model.predictive import PredictiveTokenizer
from streamtok.model.state import detach
from streamtok.model.stream import DecodeStream, Encoded, EncodeStream
from streamtok.model.tokenizer import Reconstruction, Tokenizer


def build(config: TokenizerConfig, deterministic: bool = False) -> Tokenizer:
    """The tokenizer that a configuration describes, with freshly initialised weights, in eval mode."""
    return (PredictiveTokenizer if config.predictive else Tokenizer)(config, deterministic)


__all__ = [
    "DecodeStream",
    "EncodeStream",
    "Encoded",
    "NonFiniteError",
    "PredictiveTokenizer",
    "Reconstruction",
    "Tokenizer",
    "build",
    "detach",
]
