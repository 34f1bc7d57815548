"""What users import of `streamtok.tokens`: datasets for training on tokens, and token files."""

from streamtok.tokens.dataset import IterableTokenDataset, TokenDataset
from streamtok.tokens.resuming import ResumableSampler
from streamtok.tokens.tokenfile import TokenFile, TokenFileWriter

__all__ = ["IterableTokenDataset", "ResumableSampler", "TokenDataset", "TokenFile", "TokenFileWriter"]
