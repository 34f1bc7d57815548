"""Pictures that their codecs count as they are shown (MPEG-1, MPEG-2, AV1): what is missing in decoding order.

Decoders of them go on over a picture that never came, and say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from streamtok.io.nal_units import START

PICTURE, GROUP, SEQUENCE_END = b"\0\0\1\0", b"\0\0\1\xb8", b"\0\0\1\xb7"  # start codes of MPEG-2
LAST_SLICE, B_PICTURE = 0xAF, 3
MPEG2_NUMBERS = 1024  # to which it counts


@dataclass(frozen=True)
class Order:
    """What an access unit says: `missing` is n if one that the unit n units before needs did not come; else None.

    `clean_since` is n if this picture and those shown after it need none that came more than n units before; else None.
    `recovers` is True at a key frame of H.265, and where it begins to be refreshed bit by bit; `has_sei` where it has
    messages beside the picture; `empty` where it has no picture, `broken` where damage shows in its bytes.
    """

    missing: int | None = None
    clean_since: int | None = None
    recovers: bool = False
    has_sei: bool = False
    empty: bool = False
    broken: bool = False


class Shown(NamedTuple):
    """A picture by its `number` in order of presentation, modulo `numbers`.

    `between` is True for one that no other needs, `begins` where it is not counted from those before, `clean` for a
    key frame, where its header alone tells. `twice`: its other field may have the same number.
    """

    number: int
    numbers: int
    between: bool = False
    begins: bool = False
    clean: bool = False
    twice: bool = False


class ShownOrder:
    """Follows the numbers that `read` finds in access units; it gives an `Order` for one without a number.

    A reference picture may come before those that are shown before it, so that what is missing shows at the next one.
    Where none is `reordered`, it shows at once. Pictures between, as many as usual, may be missing: nothing needs them.
    """

    def __init__(self, read: Callable[[bytes], Shown | Order], reordered: bool) -> None:
        self._read, self._reordered = read, reordered
        self._followed = self._jumped = 0  # how often reference pictures counted on, and did not: some never do
        self.restart()

    def restart(self) -> None:
        """Forget what came before: the next unit is from another place of the stream."""
        self._last: int | None = None  # the number of the last reference picture
        self._awaited: set[int] = set()  # those before it that may be reference pictures
        self._age = 0  # of it, in units
        self._step = self._usual = 0  # from the reference picture before to it, and where all between came

    def see(self, data: bytes) -> Order:
        """Take the next access unit in order of decoding."""
        shown = self._read(data)
        if isinstance(shown, Order):
            return shown
        number, numbers, last = shown.number, shown.numbers, self._last
        self._age += 1
        if shown.between:
            self._awaited = {n for n in self._awaited if 0 < (number - n) % numbers < numbers // 2}
            return self._judge(last is not None and not 0 < (last - number) % numbers < self._step, 0)
        begins = last is None or shown.begins
        if number == last and not begins:
            return self._judge(not shown.twice, 0)
        missing, age, self._age, self._last = bool(self._awaited), self._age, 0, number
        missing, self._usual = missing and self._step != self._usual, self._usual if missing else self._step
        self._step = number + 1 if last is None or begins else (number - last) % numbers
        self._awaited = set() if begins else {(number - n) % numbers for n in range(1, self._step)}
        lost_head = self._step > numbers // 2  # a group that lost its beginning counts from 0
        if self._awaited and not missing and (not self._reordered or lost_head):
            missing, age, self._awaited = True, 0, set()
        return self._judge(missing, age, 0 if shown.clean else None)

    def _judge(self, missing: bool, age: int, clean_since: int | None = None) -> Order:
        believed = missing and self._jumped <= self._followed
        self._followed, self._jumped = self._followed + (not missing), self._jumped + missing
        return Order(age if believed else None, clean_since)


def read_mpeg2(data: bytes) -> Shown | Order:
    """temporal_reference (ITU-T H.262, 6.3.9), which counts the pictures of a group; MPEG-1 has it too.

    Nothing counts the last pictures of a group.
    """
    at = data.find(PICTURE)
    if not any(1 <= code <= LAST_SLICE for code in _codes_behind(data, at)):
        return Order(empty=not data.startswith(SEQUENCE_END))
    head = int.from_bytes(data[at + 4 : at + 6], "big")
    return Shown(head >> 6, MPEG2_NUMBERS, head >> 3 & 7 == B_PICTURE, GROUP in data[:at], twice=True)


def _codes_behind(data: bytes, at: int) -> Iterator[int]:
    """The start codes behind the one at a place, of which there is none if it is negative."""
    while at >= 0:
        at = data.find(START, at + 3)
        if 0 <= at < len(data) - 3:
            yield data[at + 3]
