"""The public names of `streamtok.tokens`: token files, and datasets for training on tokens."""

from streamtok.tokens.dataset import IterableTokenDataset, TokenDataset
from streamtok.tokens.resuming import ResumableSampler
from streamtok.tokens.tokenfile import TokenFile
from streamtok.tokens.tokenfile_writer import TokenFileWriter

__all__ = ["IterableTokenDataset", "ResumableSampler", "TokenDataset", "TokenFile", "TokenFileWriter"]
