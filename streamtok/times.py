"""What the times of a stream's images or grids say: gaps, rates, clocks that were set. Needs only numpy."""

from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

GAP_STEPS = 1.75  # a step of token grids longer than so many usual ones is a gap; one missing grid makes it 2
USUAL_STEPS, BURST_STEPS = 15, 127  # latest steps that define the usual one: of even times, of times in bursts
LEAST_STEPS = 5  # with fewer steps nothing is judged
FALLS, LEAST_BACK = 8, 4  # of a clock that was set back, at most one time in 8 falls, and at least 4 in a row lie back
STEP_DIFFERS, LEAST_USUAL = 0.25, 0.75  # two passes overlap if fewer than 75 % of steps are within 25 % of the usual
NEW_RATE_STEPS = 5  # after so many long steps in a row of about one length, the frame rate has changed
FAR_NS = 5 * 10**9  # a time further ahead of its arrival than recorders buffer
# After a step longer than both, the clock was set (by 54 years if it had no battery). A time lapse has long steps, too.
DAY_NS, DAY_STEPS = 86_400 * 10**9, 1000
# After so many usual steps, images without numbers count as lost. A loss starts an epoch, so 2 are no loss: a camera
# that is throttled to two images of three has steps of 1 and 2.
LOST_STEPS = 2.5
# Usual steps shorter than a camera's are of guessed times or of a flushed buffer. A step of so many of them ends them.
CLOSE_NS, CLOSE_STEPS = 1_000_000, 100
REACH_STEPS, UNKNOWN_REACH_NS = 0.6, 50_000_000  # see `find_reach`; of a camera of which one grid is known


def usual_step(times: np.ndarray) -> float:
    """The median of the steps between `times` (n,), in their unit; 0 if there are none."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def find_reach(steps_ns: Sequence[int] | np.ndarray) -> int:
    """Within how many ns of any moment a camera has a grid: a little over half the usual one of its `steps_ns` (n,).

    Recorded and live grids of several cameras are aligned by it, so that a model sees the same in both.
    """
    return int(REACH_STEPS * np.median(steps_ns)) if len(steps_ns) else UNKNOWN_REACH_NS


def find_nearest(times_ns: np.ndarray, wanted_ns: np.ndarray, within_ns: int) -> np.ndarray:
    """The indices in `times_ns` (m,), rising, nearest to `wanted_ns` (n,); -1 if none is within reach. int64 (n,)."""
    right = np.searchsorted(times_ns, wanted_ns).clip(1, max(1, len(times_ns) - 1))
    left = right - 1
    right = right.clip(max=len(times_ns) - 1)
    closer = np.abs(times_ns[right] - wanted_ns) < np.abs(times_ns[left] - wanted_ns)
    found = np.where(closer, right, left)
    return np.where(np.abs(times_ns[found] - wanted_ns) <= within_ns, found, -1)


def time_covered(times: np.ndarray, set_at: Sequence[int] = ()) -> int:
    """The sum of the steps between `times`, int64 ns (n,), without those where the clock was set.

    Times alone show that for steps back, and those of over a day. `set_at` are the indices of times after other ones.
    """
    steps = np.diff(times)
    steps[np.array(set_at, np.int64) - 1] = 0
    return int(steps[(steps > 0) & (steps <= max(DAY_NS, DAY_STEPS * usual_step(times)))].sum())


def count_between(step: float, usual: float) -> int:
    """How many images or grids are missing within a step; `usual` is the step with none missing, in the same unit."""
    return max(0, round(step / usual) - 1)


def is_uneven(steps: Sequence[int]) -> bool:
    """Whether times come in bursts: the mean step is far longer than the median one, even without the two longest."""
    usual = sorted(steps)[:-2]
    return len(usual) >= LEAST_STEPS and sum(usual) / len(usual) > LOST_STEPS * max(1, median(usual))


class Step(NamedTuple):
    """The verdict on an image's time: how many images are `missing` before it, or that its clock `was_set` there."""

    missing: int = 0
    was_set: bool = False


class TimeJudge:
    """Counts the images missing before each image of one stream, live or recorded, from their times (ns) alone.

    A gap is a step of more than `gap_steps` times the usual one, the median of the latest `USUAL_STEPS`. Arrival times
    come in bursts, so single steps mean little. With `uneven`, a gap exceeds `gap_steps` times the second longest of
    the latest `BURST_STEPS`, and the mean step says how many frames it holds. `steps` (ns) are those known beforehand.
    """

    def __init__(self, uneven: bool = False, steps: Iterable[int] = (), gap_steps: float = LOST_STEPS) -> None:
        self._uneven, self._gap_steps = uneven, gap_steps
        self._steps: deque[int] = deque(steps, maxlen=BURST_STEPS if uneven else USUAL_STEPS)
        self._long: list[int] = []  # the latest consecutive steps that were gaps
        self._last: tuple[int, int] | None = None
        self._origin = 0, 0  # both clocks' times when one was last set

    @property
    def usual_step(self) -> float:
        """The median of the latest steps (ns), or the mean of uneven ones; 0 until there are enough of them."""
        if len(self._steps) < LEAST_STEPS:
            return 0.0
        return sum(self._steps) / len(self._steps) if self._uneven else median(self._steps)

    def restart(self) -> None:
        """Forget the previous time, because the clock was set."""
        self._last = None

    def see(self, time_ns: int, arrival_ns: int = 0) -> Step:
        """Judge the next image by its time.

        Its clock was set if the time does not rise or jumps by more than a day; 5 s will do if `arrival_ns` does not
        jump along. `arrival_ns` is on another clock (0: unknown). It is ignored where it has run at less than half the
        pace of `time_ns`, as in a file that was converted.
        """
        before, self._last = self._last, (time_ns, arrival_ns)
        if before is None:
            self._origin = self._last
            return Step()
        step, origin = time_ns - before[0], self._origin
        known = bool(arrival_ns and before[1]) and 2 * (before[1] - origin[1]) >= before[0] - origin[0]
        if step <= 0 or (step > FAR_NS and known and arrival_ns - before[1] < step // 2):
            self._origin = self._last
            return Step(was_set=True)
        if (usual := self.usual_step) < CLOSE_NS and step > CLOSE_STEPS * usual > 0:
            self._steps.clear()
        elif usual:
            longest = sorted(self._steps)[-2] if self._uneven else usual
            if step > self._gap_steps * longest and not self._has_new_rate(step):
                if step > max(DAY_NS, DAY_STEPS * usual):
                    self._origin = self._last
                    return Step(was_set=True)
                return Step(count_between(step, max(1, usual)))
        self._long.clear()
        self._steps.append(step)
        return Step()

    def _has_new_rate(self, step: int) -> bool:
        """Whether this step and the long ones before it are alike; if so, they become the usual steps."""
        self._long.append(step)
        if max(self._long) > GAP_STEPS * min(self._long):
            self._long = [step]
        if len(self._long) < NEW_RATE_STEPS:
            return False
        self._steps.clear()
        self._steps.extend(self._long)
        return True


def find_time_jumps(times: np.ndarray) -> np.ndarray:
    """Which `times` of token grids, int64 (n,), follow a gap or a step back, the first included; bool (n,)."""
    usual, jumps = usual_step(times), np.arange(len(times)) == 0
    steps = np.diff(times)
    if np.all((steps > 0) & (steps <= GAP_STEPS * usual)):
        return jumps
    judge = TimeJudge(steps=[round(usual)] * LEAST_STEPS, gap_steps=GAP_STEPS)
    judged = [judge.see(time) for time in times.tolist()]
    return jumps | np.array([bool(step.missing or step.was_set) for step in judged])


def go_over_twice(times: Sequence[int] | np.ndarray) -> bool:
    """Whether times, in the order written, cover a stretch of time twice: the clock was set back, or looped.

    Times that are merely out of order do not: more than one in `FALLS` falls, or fewer than `LEAST_BACK` in a row lie
    back. Nor do parts in another order, nor interleaved times, whose sorted steps there are the usual ones. But times
    interleaved over more than `FAR_NS`, longer than recorders buffer, are a second run, and count. So do a few wrong
    times, fewer than `LEAST_BACK`, further than `FAR_NS` from those beside them, which sorting would move over more
    than `LEAST_BACK` others.
    """
    values = np.array(times, float)
    written = np.diff(values)
    if FALLS * np.sum(written < 0) > len(values):
        return False
    ordered = np.sort(values)
    far = np.flatnonzero(np.abs(written) > FAR_NS)
    is_few = (np.diff(far) < LEAST_BACK) & (np.diff(np.sign(written[far])) != 0)
    for before, last in zip(far[:-1][is_few], far[1:][is_few], strict=True):
        if np.ptp(np.searchsorted(ordered, values[before : last + 1])) > LEAST_BACK:
            return True
    is_back = values < np.maximum.accumulate(values)
    steps = np.diff(ordered)
    usual = np.median(steps[steps > 0]) if np.any(is_back) else 0.0
    for begin, end in np.flatnonzero(np.diff(is_back, prepend=False, append=False)).reshape(-1, 2).tolist():
        again = values[begin:end]
        first, last = np.searchsorted(ordered, again.min()), np.searchsorted(ordered, again.max(), "right") - 1
        others = last - first + 1 - (end - begin)
        is_usual = np.abs(steps[first:last] - usual) <= usual * STEP_DIFFERS
        is_run = others >= LEAST_BACK and np.ptp(again) > FAR_NS
        if end - begin >= LEAST_BACK and others and (is_run or np.mean(is_usual) < LEAST_USUAL):
            return True
    return False
