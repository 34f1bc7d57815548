"""Codes and decodes the grids of streams, and keeps the token coder's past of each, on both ends of a connection."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from streamtok.coding.coder import FRESH, CodingError, Past, TokenCoder, grid_checksum
from streamtok.coding.library import Coders, MissingCoder
from streamtok.wire.errors import WireError
from streamtok.wire.header import DTYPES, Coding, TokenHeader
from streamtok.wire.message import TokenMessage, unpack_grid


@dataclass
class GridCoder:
    """Codes the grids of one stream for sending; `independent` codes each grid without those before it.

    The past advances only when a grid was sent (`note_sent`), so a grid that was not sent is never depended on.
    """

    coder: TokenCoder
    independent: bool = False
    _past: Past = FRESH
    _next: Past = FRESH

    def encode(self, tokens: np.ndarray, keyframe: bool) -> tuple[bytes, Coding]:
        """Code the next grid (h, w); returns the payload, and the header's `coding` field."""
        fresh = keyframe or self.independent
        payload, self._next = self.coder.encode(tokens, FRESH if fresh else self._past)
        return payload, Coding(self.coder.fingerprint, grid_checksum(tokens), self.independent)

    def note_sent(self) -> None:
        """Note that the last encoded grid was sent."""
        self._past = self._next


@dataclass
class GridReader:
    """Decodes the coded messages of many streams on the receiving end.

    `unreadable` counts, per stream, messages that cannot be decoded: a grid they depend on was lost, or their coder or
    the zstd package is not here. The caller may add those that raise WireError.
    """

    coders: Coders
    unreadable: Counter[str] = field(default_factory=Counter)
    _pasts: dict[str, Past] = field(default_factory=dict)

    def read(self, message: TokenMessage, continues: bool) -> TokenMessage:
        """Return the message with its tokens, if it can be decoded. `continues`: it is a keyframe, or follows no loss.

        Raises WireError if the payload does not match its grid; the next keyframe makes the stream readable again.
        """
        header = message.header
        if not isinstance(header.coding, Coding):
            message = unpack_grid(message)
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
    """Decode a payload to its grid (h, w) and the next grid's past; WireError if it is not the grid that was coded."""
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
