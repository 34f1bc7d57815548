"""Token files, datasets for training on tokens, exports, and the tokenization of many drives."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamtok.tokens.dataset import IterableTokenDataset, TokenDataset
    from streamtok.tokens.resuming import ResumableSampler
    from streamtok.tokens.tokenfile import TokenFile, TokenFileWriter

__all__ = ["IterableTokenDataset", "ResumableSampler", "TokenDataset", "TokenFile", "TokenFileWriter"]

_MODULES = {
    "IterableTokenDataset": "streamtok.tokens.dataset",
    "ResumableSampler": "streamtok.tokens.resuming",
    "TokenDataset": "streamtok.tokens.dataset",
    "TokenFile": "streamtok.tokens.tokenfile",
    "TokenFileWriter": "streamtok.tokens.tokenfile",
}


def __getattr__(name: str) -> Any:
    """Reading a token file needs no data loader, and the other way round."""
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'streamtok.tokens' has no attribute {name!r}")
