"""Coded grids of many streams: the coder's past of each, on both ends."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from streamtok.coding.coder import FRESH, CodingError, Past, TokenCoder, grid_checksum
from streamtok.coding.library import Coders, MissingCoder
from streamtok.wire.errors import WireError
from streamtok.wire.header import DTYPES, Coding, TokenHeader
from streamtok.wire.message import TokenMessage


@dataclass
class GridCoder:
    """The sending end of one stream; `independent` codes each grid without those before it.

    What follows is coded from a grid once that has been `sent`.
    """

    coder: TokenCoder
    independent: bool = False
    _past: Past = FRESH
    _next: Past = FRESH

    def encode(self, tokens: np.ndarray, keyframe: bool) -> tuple[bytes, Coding]:
        """The payload of the next grid (h, w) and what the header says of it."""
        fresh = keyframe or self.independent
        payload, self._next = self.coder.encode(tokens, FRESH if fresh else self._past)
        return payload, Coding(self.coder.fingerprint, grid_checksum(tokens), self.independent)

    def note_sent(self) -> None:
        """Note that the grid which was encoded last went out."""
        self._past = self._next


@dataclass
class GridReader:
    """The receiving end of many streams: messages get the tokens that their coded payloads stand for.

    `unreadable` counts per stream those that stay without: a grid before was lost, or what reads them is not here.
    """

    coders: Coders
    unreadable: Counter[str] = field(default_factory=Counter)
    _pasts: dict[str, Past] = field(default_factory=dict)

    def read(self, message: TokenMessage, continues: bool) -> TokenMessage:
        """The message with its tokens, if it can be read. `continues`: it is a keyframe, or follows without a loss.

        WireError for a payload that is not of its grid; the stream is readable again from the next keyframe on.
        """
        header = message.header
        if not isinstance(header.coding, Coding):
            return self._leave(message, message.unreadable) if message.unreadable else message
        try:
            coder = self.coders.find(header.coding.coder)
        except MissingCoder as error:
            return self._leave(message, str(error))
        alone = header.keyframe or header.coding.independent
        before = self._pasts.pop(header.stream, None)
        past = FRESH if alone else before
        if past is None or not (continues or alone):
            return self._leave(message, "a grid that it is coded from was lost: readable from the next keyframe on")
        tokens, after = decode_grid(header, bytes(message.payload), coder, past)
        self._pasts[header.stream] = after
        return replace(message, grid=tokens)

    def _leave(self, message: TokenMessage, reason: str) -> TokenMessage:
        self.unreadable[message.stream] += 1
        return replace(message, unreadable=reason)


def decode_grid(header: TokenHeader, payload: bytes, coder: TokenCoder, past: Past) -> tuple[np.ndarray, Past]:
    """The grid (h, w) of a coded payload, and the past of the next; WireError unless it is the one that was coded."""
    levels = list(coder.alphabet.levels)
    if not isinstance(header.coding, Coding) or levels != header.levels:
        raise WireError("coding", f"coder {coder.fingerprint} is of levels {levels}, the message of {header.levels}")
    try:
        tokens, after = coder.decode_checked(payload, (header.grid[0], header.grid[1]), header.coding.checksum, past)
    except CodingError as error:
        raise WireError("coding", f"{header.stream} seq {header.seq}: {error}") from error
    tokens = tokens.astype(DTYPES[header.dtype])
    tokens.flags.writeable = False
    return tokens, after
