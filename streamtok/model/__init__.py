"""The network: pure PyTorch, no I/O."""

from streamtok.config import TokenizerConfig
from streamtok.model.decode_stream import DecodeStream
from streamtok.model.encode_stream import Encoded, EncodeStream
from streamtok.model.frames import NonFiniteError
from streamtok.model.predictive import PredictiveTokenizer
from streamtok.model.refining import RefiningTokenizer
from streamtok.model.state import detach
from streamtok.model.stream import Stream
from streamtok.model.tokenizer import Context, Reconstruction, Tokenizer


def build(config: TokenizerConfig, deterministic: bool = False) -> Tokenizer:
    """The tokenizer that a configuration describes, with freshly initialised weights, in eval mode."""
    if config.refinement:
        return RefiningTokenizer(config, deterministic)
    return (PredictiveTokenizer if config.predictive else Tokenizer)(config, deterministic)


__all__ = [
    "Context",
    "DecodeStream",
    "EncodeStream",
    "Encoded",
    "NonFiniteError",
    "PredictiveTokenizer",
    "Reconstruction",
    "RefiningTokenizer",
    "Stream",
    "Tokenizer",
    "build",
    "detach",
]
