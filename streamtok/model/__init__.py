"""The tokenizers, their streams and state: pure PyTorch, no I/O. `build` makes one from a configuration."""

from streamtok.config import TokenizerConfig
from streamtok.model.decode_stream import DecodeStream
from streamtok.model.encode_stream import Encoded, EncodeStream
from streamtok.model.frames import NonFiniteError
from streamtok.model.predictive import PredictiveTokenizer
from streamtok.model.predictive_refining import PredictiveRefiningTokenizer
from streamtok.model.refining import RefiningTokenizer
from streamtok.model.state import detach
from streamtok.model.stream import Stream
from streamtok.model.tokenizer import Context, Reconstruction, Tokenizer


def build(config: TokenizerConfig, deterministic: bool = False) -> Tokenizer:
    """The tokenizer that a configuration describes, with freshly initialised weights, in eval mode."""
    kinds = {
        (False, False): Tokenizer,
        (True, False): PredictiveTokenizer,
        (False, True): RefiningTokenizer,
        (True, True): PredictiveRefiningTokenizer,
    }
    return kinds[config.predictive, config.refinement > 0](config, deterministic)


__all__ = [
    "Context",
    "DecodeStream",
    "EncodeStream",
    "Encoded",
    "NonFiniteError",
    "PredictiveRefiningTokenizer",
    "PredictiveTokenizer",
    "Reconstruction",
    "RefiningTokenizer",
    "Stream",
    "Tokenizer",
    "build",
    "detach",
]
