"""What users import of `streamtok.tokens`: datasets for training on tokens, and token files."""

from typing import TYPE_CHECKING, Any

from streamtok import tokens

if TYPE_CHECKING:
    from streamtok.tokens import IterableTokenDataset, ResumableSampler, TokenDataset, TokenFile, TokenFileWriter

__all__ = ["IterableTokenDataset", "ResumableSampler", "TokenDataset", "TokenFile", "TokenFileWriter"]


def __getattr__(name: str) -> Any:
    """Each name is imported at its first use, as `streamtok.tokens` does."""
    return getattr(tokens, name)
