"""The configuration of tokenizers, and the presets."""

from streamtok.config.presets import PRESETS, list_presets
from streamtok.config.tokenizer_config import FSQ_LEVELS, QUANTIZERS, TokenizerConfig

__all__ = ["FSQ_LEVELS", "PRESETS", "QUANTIZERS", "TokenizerConfig", "list_presets"]
