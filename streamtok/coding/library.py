"""Where coders are found: those that ship with weights, and those that a reader is given."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from streamtok.coding.coder import FILE, TokenCoder, load_coder

SHIPPED = Path(__file__).parents[1] / "weights"


class MissingCoder(ValueError):
    """Tokens are coded by a coder that is not here."""


def coders_beside(path: Path) -> list[Path]:
    """The coder in the folder of a file of tokens, if there is one."""
    beside = path.parent / FILE
    return [beside] if beside.is_file() else []


class Coders:
    """The coders that a reader has: the shipped ones, and those `given` as files or as folders of tokenizers.

    ValueError for one that cannot be read.
    """

    def __init__(self, given: Iterable[str | Path] = ()):
        self._given = {coder.fingerprint: coder for coder in map(load_coder, map(Path, given))}

    def find(self, fingerprint: str) -> TokenCoder:
        """The coder of a fingerprint; MissingCoder says what to give."""
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
    """What `coder_for` gives, or None if there is none. ValueError for one of other weights in the folder."""
    try:
        return coder_for(tokenizer, folder)
    except MissingCoder:
        return None


def coder_for(tokenizer: str, folder: Path | None = None) -> TokenCoder:
    """The coder of a tokenizer's fingerprint: that in its `folder`, or one that ships; MissingCoder without either."""
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
    raise MissingCoder(f"tokenizer {tokenizer} has no token coder: make one with streamtok train-coder")
