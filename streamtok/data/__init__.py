"""Token files, datasets for training on tokens, exports, and the tokenization of many drives."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamtok.data.dataset import IterableTokenDataset, TokenDataset
    from streamtok.data.resuming import ResumableSampler
    from streamtok.data.tokenfile import TokenFile, TokenFileWriter

__all__ = ["IterableTokenDataset", "ResumableSampler", "TokenDataset", "TokenFile", "TokenFileWriter"]

_MODULES = {
    "IterableTokenDataset": "streamtok.data.dataset",
    "ResumableSampler": "streamtok.data.resuming",
    "TokenDataset": "streamtok.data.dataset",
    "TokenFile": "streamtok.data.tokenfile",
    "TokenFileWriter": "streamtok.data.tokenfile",
}


def __getattr__(name: str) -> Any:
    """Reading a token file needs no data loader, and the other way round."""
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'streamtok.data' has no attribute {name!r}")
