"""A range coder (Martin 1979): symbols to bytes by their frequencies, in integers without a limit.

The bytes are the digits, base 256, of a number within the interval that the symbols have narrowed. Zeros at its end are
left out. docs/wire-protocol.md says the same in words.
"""

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

WORD = 32
LOWEST = 1 << WORD
MASK = LOWEST - 1


class CodingError(ValueError):
    """Bytes that are no coded grid, or of another grid, another coder or another past than they were made with."""


def encode_range(intervals: np.ndarray) -> bytes:
    """The shortest bytes for symbols by their frequencies, whole numbers (3, n) below 2^32: those of the symbols below
    each, its own, and of all.

    What the symbols add to the lower end of the interval is added up at last, 32 bits to a word.
    """
    below, own, total = intervals.compress(intervals[2] > 1, 1)  # what is certain changes nothing
    parts = np.fromiter(_narrow(own.data, total.data), np.uint64, len(own))
    widths = parts * own.astype(np.uint64)
    moves = widths < LOWEST
    word, added = moves.cumsum() - moves, parts * below.astype(np.uint64)
    words = np.zeros(moves.sum() + 2)  # float64 is exact: all that is added to a word is below 2^53
    for shift, half in enumerate((added >> WORD, added & MASK)):
        words += np.bincount(word + shift, half, len(words))
    return _finish(words.astype(np.uint64), int(widths[-1]) << WORD * int(moves[-1]) if len(own) else 1 << 2 * WORD)


def _narrow(own: memoryview, total: memoryview) -> Iterator[int]:
    """How wide a frequency of one is at each symbol, while their frequencies narrow the interval."""
    width = 1 << 2 * WORD
    for each, whole in zip(own, total, strict=True):
        width //= whole
        yield width
        width *= each
        if width < LOWEST:
            width <<= WORD


def _finish(words: np.ndarray, width: int) -> bytes:
    """The shortest bytes of a number from `words`, most significant first, each with a carry, to `width` above."""
    low = (int(words[-2]) << WORD) + int(words[-1])
    drop = 2 * WORD
    while (low + width - 1) >> drop << drop < low:
        drop -= 8
    last = (low + width - 1) >> drop << drop
    words[-2:] = last >> WORD, last & MASK
    while (carries := words[1:] >> WORD).any():
        words &= MASK
        words[:-1] += carries
    return words.astype(">u4").tobytes().rstrip(b"\0")


class RangeDecoder:
    """Finds the symbols again; behind the end of the bytes there are zeros."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(8 + -len(data) % 4), ">u4").tolist()
        self._words = iter(words)
        self._code = (next(self._words) << WORD) | next(self._words)
        self._range = 1 << 2 * WORD
        self._read, self._size = 8, len(data)

    def decode(self, up_to: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """The next symbols (n,) int64, by the frequencies of the symbols up to and with each, int32 (n, symbols).

        With `rows` (n,) those of each symbol are a row of `up_to`. CodingError for bytes that no encoder gives, though
        not for all of them.
        """
        count, size = up_to.shape
        sums = up_to.ravel().data
        code, width, found = self._code, self._range, []
        for first in range(0, count * size, size) if rows is None else (rows.astype(np.int64) * size).tolist():
            last = first + size - 1
            part = width // sums[last]
            place = bisect_right(sums, code // part, first, last)
            under = sums[place - 1] if place > first else 0
            code -= part * under
            width = part * (sums[place] - under)
            if width < LOWEST:
                if code >= width:
                    raise CodingError("the bytes lie outside what any symbols give")
                code, width = (code << WORD) | next(self._words, 0), width << WORD
                self._read += 4
            found.append(place - first)
        self._code, self._range = code, width
        return np.array(found, np.int64)

    @property
    def exhausted(self) -> bool:
        """Whether all bytes have been read: with some left over, they were not made for these symbols."""
        return self._read >= self._size
