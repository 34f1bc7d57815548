"""Sort the images of one camera by time: recorders write them slightly out of order, and clocks are set back."""

import bisect
import itertools
from collections.abc import Callable, Iterator

from streamtok.drives.item import Item

REORDER_FRAMES = 4  # recorders write images of several threads slightly out of order
MOST_STRAY = 2  # so few images ahead of all later ones have a wrong time; with more, the clock was set back


class CameraOrder:
    """A reorder buffer of up to `REORDER_FRAMES` images.

    That many images in a row with rising times before the newest one's show that the clock was set back. They continue
    in the new time, with `turn` increased by one. But if only an image or two were ahead, their own times were wrong.
    Such images, and single ones that come too late, are dropped: `leave_out` is called with the reason.
    """

    def __init__(self, leave_out: Callable[[Item, str], None], note: Callable[[Item, str], None]) -> None:
        self._leave_out, self._note = leave_out, note
        self._held: list[Item] = []  # by time
        self._past: list[Item] = []  # images with times before the newest, in order of arrival
        self._last: Item | None = None  # the last one that came out
        self._turn = 0

    def push(self, item: Item) -> Iterator[Item]:
        """Take the next image in order of arrival; yields those that are due."""
        newest = self._held[-1] if self._held else self._last
        if newest is not None and item.capture_ns <= newest.capture_ns:
            if item.damage:  # decoders report late that a packet gave no picture
                self._leave_out(item, item.damage)
                return
            self._past.append(item)
            if len(self._past) >= REORDER_FRAMES:
                yield from self._settle_past()
            return
        self._merge_past()
        self._held.append(item)
        while len(self._held) > REORDER_FRAMES:
            yield from self._give(self._held.pop(0))

    def flush(self) -> Iterator[Item]:
        """The images still held, at the end of the drive."""
        self._merge_past()
        held, self._held = self._held, []
        for item in held:
            yield from self._give(item)

    def _settle_past(self) -> Iterator[Item]:
        """Decide about the images before the newest: the clock was set back, the newest are wrong, or sort them in."""
        first = self._past[0].capture_ns
        if any(b.capture_ns <= a.capture_ns for a, b in itertools.pairwise(self._past)):
            self._merge_past()
            return
        ahead = [item for item in self._held if item.capture_ns > first]
        before = [item for item in self._held if item.capture_ns <= first]
        goes_on = bool(before) or (self._last is not None and self._last.capture_ns < first)
        if goes_on and len(ahead) <= MOST_STRAY:
            for item in ahead:
                self._leave_out(item, "its time lies ahead of those that follow")
            self._held = before
            self._merge_past()
            return
        for item in self._held:
            yield from self._give(item)
        if self._last is not None:
            back = (self._last.capture_ns - first) / 1e9
            self._note(self._past[0], f"the clock was set back by {back:.3f} s; going on in the new time")
        self._held, self._past, self._last = self._past, [], None
        self._turn += 1

    def _merge_past(self) -> None:
        for item in self._past:
            bisect.insort(self._held, item, key=lambda held: held.capture_ns)
        self._past = []

    def _give(self, item: Item) -> Iterator[Item]:
        if self._last is not None and item.capture_ns <= self._last.capture_ns:
            back = (self._last.capture_ns - item.capture_ns) / 1e9
            self._leave_out(item, f"its time runs backwards by {back:.3f} s")
            return
        self._last = item
        yield item._replace(turn=self._turn) if item.turn != self._turn else item
