"""Finds token coders: those that ship with our weights, and those that a reader is given."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from streamtok.coding.coder import FILE, TokenCoder, load_coder

SHIPPED = Path(__file__).parents[1] / "weights"


class MissingCoder(ValueError):
    """No coder here has the fingerprint that tokens were coded with, or is for their tokenizer."""


def coders_beside(path: Path) -> list[Path]:
    """The path of the coder in the folder of a token file, or no path."""
    beside = path.parent / FILE
    return [beside] if beside.is_file() else []


class Coders:
    """The coders of a reader: the shipped ones, and those `given` as files or as tokenizers' folders.

    ValueError for one that cannot be read.
    """

    def __init__(self, given: Iterable[str | Path] = ()):
        self._given = {coder.fingerprint: coder for coder in map(load_coder, map(Path, given))}

    def find(self, fingerprint: str) -> TokenCoder:
        """The coder with a fingerprint; MissingCoder says what to give."""
        coder = self._given.get(fingerprint) or _shipped().get(fingerprint)
        if coder is None:
            raise MissingCoder(
                f"coded by token coder {fingerprint}, which is not here: give the {FILE} of its tokenizer (coders=, "
                "--coder, or beside the file), or let the node send with compression none"
            )
        return coder


@cache
def _shipped() -> dict[str, TokenCoder]:
    return {coder.fingerprint: coder for coder in map(load_coder, sorted(SHIPPED.glob(f"*/{FILE}")))}


def find_coder(tokenizer: str, folder: Path | None = None) -> TokenCoder | None:
    """As `coder_for`, but None if there is no coder. ValueError if the folder's coder is for other weights."""
    try:
        return coder_for(tokenizer, folder)
    except MissingCoder:
        return None


def coder_for(tokenizer: str, folder: Path | None = None) -> TokenCoder:
    """The coder for a tokenizer's fingerprint, from its `folder` or a shipped one.

    MissingCoder if there is neither. ValueError if the folder's coder is for other weights.
    """
    if folder is not None and (folder / FILE).is_file():
        coder = load_coder(folder)
        if coder.tokenizer != tokenizer:
            raise ValueError(
                f"{folder / FILE} is of tokenizer {coder.tokenizer}, the weights beside it are {tokenizer}: make it "
                "anew with streamtok train-coder"
            )
        return coder
    for coder in _shipped().values():
        if coder.tokenizer == tokenizer:
            return coder
    raise MissingCoder(f"tokenizer {tokenizer} has no token coder: make one with streamtok train-coder (of FSQ)")
