"""Number the images of one camera, by its own counter or else by time, and count those that are missing."""

from collections import deque
from collections.abc import Callable
from statistics import mean, median

from streamtok.drives.clocks import Choice
from streamtok.drives.item import Item
from streamtok.times import BURST_STEPS, CLOSE_NS, LEAST_STEPS, USUAL_STEPS, Step, TimeJudge

MOST_AHEAD, FASTER = 10, 4  # a jump above both 10 and 4 times the steps in that time is a counter that restarted
FASTEST_NS = 4_000_000  # the step from number to number while none is known yet
TURNED_AHEAD = 1000  # the largest jump that is a gap where the clock was set back, so that time does not tell


class Numbering:
    """Numbers the images of one camera so that numbers jump where images are missing.

    The camera's counter gives the numbers. Time does for images without one, and where a `checked` counter restarts.
    `note` is called with the stream and what was noticed.
    """

    def __init__(self, clock: Choice, checked: bool, note: Callable[[str, str], None]) -> None:
        self._judge = TimeJudge(clock.uneven, clock.steps)
        self._uneven, self._checked, self._note = clock.uneven, checked, note
        # The latest steps (ns) from number to number; those from image to image are longer where images are lost.
        self._paces = deque[float](maxlen=BURST_STEPS if clock.uneven else USUAL_STEPS)
        self._next_id = self._turn = self._last_ns = 0
        self._offset: int | None = None  # the counter minus the numbers given, since the counter last restarted

    def take(self, item: Item) -> Item:
        """The next image with its number, and with how many are missing before it."""
        counter, turned, went_ns = item.frame_id, item.turn != self._turn, item.capture_ns - self._last_ns
        if turned:
            self._judge.restart()
        step = self._judge.see(item.capture_ns, item.log_ns)
        self._turn, self._last_ns = item.turn, item.capture_ns
        if counter is not None and self._offset is None:
            self._offset, self._next_id = 0, counter
            ahead = 0
        elif counter is not None and self._offset is not None:
            ahead = self._count_ahead(item.stream, counter - self._offset - self._next_id, step, turned, went_ns)
        else:
            ahead = self._count_by_time(item.stream, step, went_ns) if self._offset is None else 0
        number, missing = self._next_id + ahead, max(0, ahead)
        if counter is not None:
            self._offset = counter - number
        self._next_id = number + 1
        return item._replace(frame_id=number, missing=missing, was_set=step.was_set)

    def _count_ahead(self, stream: str, ahead: int, step: Step, turned: bool, went_ns: int) -> int:
        """How far an image's number is `ahead` of the expected one, by time if its counter has restarted."""
        if self._checked and ahead != 0 and self._has_restarted(ahead, 0 if turned else went_ns):
            self._note(stream, f"its counter jumps by {ahead} images within {went_ns / 1e9:.3f} s: time counts there")
            return self._count_by_time(stream, step, went_ns)
        if not turned:
            self._paces.append(went_ns / (1 + max(0, ahead)))
        return ahead

    def _count_by_time(self, stream: str, step: Step, went_ns: int) -> int:
        if step.was_set:
            self._note(stream, f"the clock was set forward by {went_ns / 1e9:.3f} s; nothing is missing there")
        return step.missing

    def _has_restarted(self, ahead: int, went_ns: int) -> bool:
        """Whether a counter `ahead` of the expected number was restarted; `went_ns` is 0 if time is unknown."""
        known = (mean if self._uneven else median)(self._paces) if len(self._paces) >= LEAST_STEPS else FASTEST_NS
        fits = went_ns / max(CLOSE_NS, known)
        return ahead < 0 or ahead > (max(MOST_AHEAD, FASTER * fits) if went_ns else TURNED_AHEAD)
