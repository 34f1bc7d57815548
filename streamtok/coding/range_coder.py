"""A range coder (Martin 1979): symbols to bytes and back, given the frequencies of the symbols.

The bytes are the base-256 digits of a number inside the interval that the symbols have narrowed, without trailing
zeros. docs/wire-protocol.md specifies it.
"""

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

WORD = 32
LOWEST = 1 << WORD
MASK = LOWEST - 1


class CodingError(ValueError):
    """The bytes are no coded grid, or one of another size, coder or past."""


def encode_range(intervals: np.ndarray) -> bytes:
    """The shortest bytes for n symbols. `intervals` (3, n), integers below 2^32, has for each symbol the summed
    frequency of the symbols below it, its own frequency, and the total.

    What each symbol adds to the interval's lower end is summed afterwards, in 32-bit words with carries.
    """
    below, own, total = intervals.compress(intervals[2] > 1, 1)  # a total of 1 is a certain symbol: it takes no bits
    parts = np.fromiter(_narrow(own.data, total.data), np.uint64, len(own))
    widths = parts * own.astype(np.uint64)
    moves = widths < LOWEST
    word, added = moves.cumsum() - moves, parts * below.astype(np.uint64)
    words = np.zeros(moves.sum() + 2)  # float64 is exact: the sum in each word stays below 2^53
    for shift, half in enumerate((added >> WORD, added & MASK)):
        words += np.bincount(word + shift, half, len(words))
    return _finish(words.astype(np.uint64), int(widths[-1]) << WORD * int(moves[-1]) if len(own) else 1 << 2 * WORD)


def _narrow(own: memoryview, total: memoryview) -> Iterator[int]:
    """Narrow the interval symbol by symbol, and yield the width of one unit of frequency at each."""
    width = 1 << 2 * WORD
    for frequency, sum_of_all in zip(own, total, strict=True):
        width //= sum_of_all
        yield width
        width *= frequency
        if width < LOWEST:
            width <<= WORD


def _finish(words: np.ndarray, width: int) -> bytes:
    """The shortest bytes of a number in [low, low + width), low given as `words`, most significant first, with carries
    to propagate."""
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
    """Decodes symbols from the bytes of `encode_range`; past their end it reads zeros."""

    def __init__(self, data: bytes) -> None:
        words = np.frombuffer(data + bytes(8 + -len(data) % 4), ">u4").tolist()
        self._words = iter(words)
        self._code = (next(self._words) << WORD) | next(self._words)
        self._range = 1 << 2 * WORD
        self._read, self._size = 8, len(data)

    def decode(self, up_to: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """The next symbols (n,) int64, given their cumulative frequencies (inclusive), int32 (n, symbols).

        With `rows` (n,), symbol i has row `rows[i]` of `up_to` instead. CodingError for bytes that no encoder makes,
        though not all such bytes are detected.
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
        """Whether all bytes have been read; if some are left over, they were not made for these symbols."""
        return self._read >= self._size
