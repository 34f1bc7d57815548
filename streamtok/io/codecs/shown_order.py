"""Pictures that their codecs count as they are shown (MPEG-1 and 2, AV1): what is missing in decoding order.

Decoders of them go on over a picture that never came, and say nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

CREDIT = 10  # pictures that need not count on before the numbers of a stream are not believed: about a group


@dataclass(frozen=True)
class Order:
    """What an access unit says.

    `missing` is n if one that the unit n units before needs did not come; else None. `clean_since` is n if this picture
    and those shown after it need none that came more than n units before; else None.
    """

    missing: int | None = None
    clean_since: int | None = None
    recovers: bool = False  # it is a key frame of H.264 or H.265, or begins to be refreshed bit by bit
    has_sei: bool = False  # it has messages beside the picture
    empty: bool = False  # it has no picture


class Shown(NamedTuple):
    """A picture by its `number` in order of presentation, modulo `numbers`."""

    number: int
    numbers: int
    between: bool = False  # no other needs it
    begins: bool = False  # it is not counted from those before
    clean: bool = False  # it is a key frame, where its header alone tells
    twice: bool = False  # its other field may have the same number


class ShownOrder:
    """Follows the numbers that `read` finds in access units; it gives an `Order` for one without a number.

    A reference picture may come before those that are shown before it, so that what is missing shows at the next one.
    Where none is `reordered`, it shows at once. Pictures between, as many as usual, may be missing: nothing needs them.
    Numbers are believed while most of them count on, and at first: one that is lost may have many others not count on.
    """

    def __init__(self, read: Callable[[bytes], Shown | Order], reordered: bool) -> None:
        self._read, self._reordered = read, reordered
        self._followed = self._jumped = 0  # how often pictures counted on, and did not: some streams never do
        self.restart()

    def restart(self) -> None:
        """Forget what came before: the next unit is from another place of the stream."""
        self._last: Shown | None = None  # reference picture
        self._awaited: set[int] = set()  # those before it that may be reference pictures
        self._age = 0  # of it, in units
        self._step = self._usual = 0  # from the reference picture before to it, and where all between came

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
        lost_head = self._step > numbers // 2  # a group that lost its beginning counts from 0
        if self._awaited and not missing and (not self._reordered or lost_head):
            missing, age, self._awaited = not shown.clean, 0, set()
        return self._judge(missing, age, 0 if shown.clean else None)

    def _lacks_reference(self) -> bool:
        """Whether pictures did not come before the last reference picture that may be such, too."""
        return bool(self._awaited) and self._step != self._usual and not (self._last and self._last.clean)

    def _judge(self, missing: bool, age: int, clean_since: int | None = None) -> Order:
        believed = missing and self._jumped <= self._followed + CREDIT
        self._followed, self._jumped = self._followed + (not missing), self._jumped + missing
        return Order(age if believed else None, clean_since)
