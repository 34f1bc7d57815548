"""Detect missing pictures in codecs that number them in order of presentation (MPEG-1, MPEG-2, AV1).

Their decoders go on silently after a picture that never came.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

CREDIT = 10  # jumps in the numbers before a stream's numbers are distrusted: about one group of pictures


@dataclass(frozen=True)
class Order:
    """What an access unit tells about picture order.

    `missing` is n if a picture is missing that the unit n units earlier refers to (0: this unit); else None.
    `clean_since` is n if this picture and those shown after it refer to none more than n units earlier; else None.
    `stays_turned`: whether the orientation of this picture, of H.264, is that of those shown after it; None: as before.
    """

    missing: int | None = None
    clean_since: int | None = None
    recovers: bool = False  # a key frame of H.264 or H.265, or the start of a gradual refresh
    has_sei: bool = False  # has SEI messages before its slices
    empty: bool = False  # has no picture
    stays_turned: bool | None = None


class Shown(NamedTuple):
    """A picture by its `number` in order of presentation, modulo `numbers`."""

    number: int
    numbers: int
    between: bool = False  # no other picture refers to it (a B-picture)
    begins: bool = False  # its number does not follow from those before
    clean: bool = False  # a key frame, if its header alone tells
    twice: bool = False  # its other field may have the same number


class ShownOrder:
    """Follows the numbers that `read` finds in access units; `read` gives an `Order` for one without a number.

    A reference picture may be decoded before B-pictures that are shown before it, so a missing picture shows only at
    the next reference; without reordering it shows at once. Missing B-pictures are no damage: nothing refers to them.
    Numbers are trusted while most of them are consecutive, and at first, as one loss can cause several jumps.
    """

    def __init__(self, read: Callable[[bytes], Shown | Order], reordered: bool) -> None:
        self._read, self._reordered = read, reordered
        self._followed = self._jumped = 0  # numbers that were consecutive, and that were not: in some streams none are
        self.restart()

    def restart(self) -> None:
        """Forget the past: the next unit is from another place of the stream."""
        self._last: Shown | None = None  # the last reference picture
        self._awaited: set[int] = set()  # numbers before it that have not come and may be reference pictures
        self._age = 0  # of the last reference picture, in units
        self._step = self._usual = 0  # numbers from the reference before to the last one; the same where all came

    def see(self, data: bytes) -> Order:
        """Take the next access unit in order of decoding."""
        shown, last = self._read(data), self._last
        if isinstance(shown, Order):
            return shown
        number, numbers = shown.number, shown.numbers
        self._age += 1
        if shown.between:
            self._awaited = {n for n in self._awaited if 0 < (number - n) % numbers < numbers // 2}
            if last is not None and not 0 < (last.number - number) % numbers < self._step:
                return self._judge(True, 0)
            return self._judge(self._lacks_reference(), self._age)
        begins = last is None or shown.begins
        if last is not None and number == last.number and not begins:
            return Order() if shown.twice else self._judge(True, 0)
        missing, age = self._lacks_reference(), self._age
        self._usual = self._usual if self._awaited else self._step
        self._age, self._last = 0, shown
        self._step = number + 1 if last is None or begins else (number - last.number) % numbers
        self._awaited = set() if begins else {(number - n) % numbers for n in range(1, self._step)}
        lost_head = self._step > numbers // 2  # a group whose first pictures are lost counts from 0
        if self._awaited and not missing and (not self._reordered or lost_head):
            missing, age, self._awaited = not shown.clean, 0, set()
        return self._judge(missing, age, 0 if shown.clean else None)

    def _lacks_reference(self) -> bool:
        """Whether pictures are missing before the last reference picture that may be references, too."""
        return bool(self._awaited) and self._step != self._usual and not (self._last and self._last.clean)

    def _judge(self, missing: bool, age: int, clean_since: int | None = None) -> Order:
        believed = missing and self._jumped <= self._followed + CREDIT
        self._followed, self._jumped = self._followed + (not missing), self._jumped + missing
        return Order(age if believed else None, clean_since)
