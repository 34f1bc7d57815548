"""Choose the clock of each camera's images, and interpolate times of images that have none.

The rules are in docs/drives.md, "Which clock".
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Literal, NamedTuple, TypeVar

from streamtok.drives.camera_order import REORDER_FRAMES
from streamtok.io.messages.image_messages import ImageMessage
from streamtok.times import is_uneven

ClockName = Literal["header", "publish", "log"]
AskedClock = Literal["auto", "header", "publish", "log"]
Camera = TypeVar("Camera")
Span = tuple[int, int]
"""The first and the last time of something, ns."""
CLOCKS: tuple[ClockName, ...] = ("header", "publish", "log")
SAMPLE, RISING = 32, 0.75
ARRIVAL_SAMPLE = 128  # if the header's clock is not usable: bursts of arrival need a longer sample
SAME_BASE_NS, SAME_SHIFT_NS = 60 * 10**9, 10**9
AHEAD_NS = -37 * 10**9, -18 * 10**9  # from TAI and from GPS time to UTC
BOOT_NS = 10 * 365 * 86400 * 10**9  # no clock has run for so long: stamps so far behind are times since boot
MOST_WAITING = 64  # images without a time, held until one with a time comes
RECENT = 4  # images back in which copies are sought
MOST_NS = (1 << 63) - 1


class Stamps(NamedTuple):
    """The times of one message, ns; 0 if it has none."""

    header: int
    publish: int
    log: int


@dataclass
class Choice:
    """The clock of a camera, the reason (empty for its stamps as they are), and its positive first steps, ns.

    `shuffled`: images came slightly out of order, as video packets with B-frames do. `shift_ns` is added to stamps.
    `behind_ns` is how far they are behind other cameras' where that is kept.
    """

    clock: ClockName = "header"
    reason: str = ""
    steps: list[int] = field(default_factory=list)
    shuffled: bool = False
    shift_ns: int = 0
    behind_ns: int = 0

    def read(self, stamps: Stamps) -> int:
        """The time of a message, ns; 0 if it has none. The shift ends where the camera's clock was set right."""
        time_ns = max(0, getattr(stamps, self.clock)) & MOST_NS
        if not self.shift_ns:
            return time_ns
        shifted = time_ns + self.shift_ns
        return shifted if time_ns and abs(shifted - stamps.log) < abs(time_ns - stamps.log) else time_ns

    @property
    def uneven(self) -> bool:
        """Whether a single step does not show a gap: times of arrival, and stamps in bursts."""
        return self.clock != "header" or is_uneven(self.steps)


class Timed(NamedTuple):
    """An image message with its time by the chosen clock (0: not known).

    `image` is None if the message cannot be read, and `error` says why. `guessed`: the time was interpolated between
    those of its neighbours. `session` is that of the streamtok node that recorded it, if one did.
    """

    stream: str
    time_ns: int
    log_ns: int
    image: ImageMessage | None
    error: str = ""
    frame_id: int | None = None
    guessed: bool = False
    session: str = ""


def choose_clocks(samples: Mapping[Camera, Sequence[Stamps]], asked: AskedClock = "auto") -> dict[Camera, Choice]:
    """Choose the clock of each camera by its first messages (docs/drives.md), or the one that was `asked` for."""
    samples = {name: stamps for name, stamps in samples.items() if stamps}
    if asked == "auto":
        choices = {name: choose_clock(stamps) for name, stamps in samples.items()}
    else:
        choices = {name: _choice(stamps, asked, "as asked for") for name, stamps in samples.items()}
    _compare_clocks(samples, choices, mended=asked == "auto")
    return choices


def _compare_clocks(samples: Mapping[Camera, Sequence[Stamps]], choices: Mapping[Camera, Choice], mended: bool) -> None:
    """Note in `choices` which cameras' clocks differ from that of logging, which others keep.

    What surely differs is added to their stamps if they are to be `mended`; what may be meant, over a minute, is told.
    """
    lags: dict[Camera, int] = {}  # of times behind the log
    for name, choice in choices.items():
        pairs = [(ns, each.log) for each in samples[name] if 0 < (ns := getattr(each, choice.clock)) <= MOST_NS]
        if pairs and all(len(set(times)) > 1 for times in zip(*pairs, strict=True)):
            lags[name] = median_low(log_ns - time_ns for time_ns, log_ns in pairs)
    kept = min(lags.values(), key=abs, default=0)
    mended = mended and abs(kept) < SAME_BASE_NS  # some camera keeps the log's clock
    dead = any(choice.clock != "header" for choice in choices.values())
    shifts = list(AHEAD_NS)
    for choice, behind in [(choices[name], lags[name] - kept) for name in lags if choices[name].clock == "header"]:
        known = [ns for ns in shifts if abs(behind - ns) < SAME_SHIFT_NS]
        is_far = abs(behind) >= SAME_BASE_NS
        if mended and (known or (is_far and (dead or behind > BOOT_NS))):
            choice.shift_ns = known[0] if known else behind
            choice.reason = f"{choice.shift_ns / 1e9:+.3f} s, as other cameras have another clock"
            shifts.append(choice.shift_ns)
        elif is_far:
            choice.behind_ns = behind
            where = "behind" if behind > 0 else "ahead of"
            if mended:
                choice.reason = f"{abs(behind) / 1e9:.0f} s {where} other cameras, which is kept"


def choose_clock(stamps: Sequence[Stamps]) -> Choice:
    """The first usable clock of a topic: header, publish or log time."""
    faults: list[str] = []
    for clock in CLOCKS:
        fault = find_clock_fault([getattr(each, clock) for each in stamps])
        if not fault:
            return _choice(stamps, clock, "; ".join(faults))
        faults.append(f"{clock} times {fault}")
    return _choice(stamps, "log", "; ".join(faults))


def find_clock_fault(times: Sequence[int]) -> str:
    """Why the times of successive images are not usable as a clock, in words; empty if they are."""
    known = [time_ns for time_ns in times if time_ns > 0]
    if 2 * len(known) < len(times) or not known:
        return "are zero"
    if max(known) > MOST_NS:
        return "are beyond the year 2262"
    steps = [after - before for before, after in itertools.pairwise(_put_in_order(known))]
    if len(steps) < 2 or sum(step > 0 for step in steps) >= RISING * len(steps):
        return ""
    if len(set(known)) == 1:
        return "stand still"
    return "are whole seconds" if all(time_ns % 10**9 == 0 for time_ns in known) else "do not rise"


def _choice(stamps: Sequence[Stamps], clock: ClockName, reason: str) -> Choice:
    times = [time_ns for each in stamps if 0 < (time_ns := getattr(each, clock)) <= MOST_NS]
    ordered = _put_in_order(times)
    return Choice(clock, reason, [b - a for a, b in itertools.pairwise(ordered) if b > a], ordered != times)


def _put_in_order(times: list[int]) -> list[int]:
    """Times sorted as `CameraOrder` will, if they all differ and none is far from its place; else as they are."""
    places = {time_ns: place for place, time_ns in enumerate(sorted(times))}
    near = all(abs(places[time_ns] - place) < REORDER_FRAMES for place, time_ns in enumerate(times))
    return sorted(times) if near and len(places) == len(times) else times


class RecentImages:
    """Detects copies: images with the time and the bytes of one of the last few, or of any within the spans `twice`.

    Such spans of log times are where parts of a recording overlap. There a video packet is a copy only if all packets
    of its part before it are: a decoder needs those.
    """

    def __init__(self, twice: Sequence[Span] = ()) -> None:
        self._images: deque[tuple[int, ImageMessage]] = deque(maxlen=RECENT)
        self._twice, self._seen = twice, set[int]()
        self._last_ns, self._copying = 0, False

    def have(self, time_ns: int, log_ns: int, image: ImageMessage) -> bool:
        """Whether an image is a copy; remembers it if not."""
        if self._twice and any(first <= log_ns <= last for first, last in self._twice):
            key, begins, self._last_ns = hash((time_ns, bytes(image.data))), log_ns <= self._last_ns, log_ns
            self._copying = key in self._seen and (image.kind != "video" or self._copying or begins)
            self._seen.add(key)
            return self._copying
        for known_ns, known in self._images:
            if time_ns == known_ns and image.has_bytes_of(known):
                return True
        self._images.append((time_ns, image))
        return False


class TimeFiller:
    """Drops copies among the images of one camera, and interpolates missing times, in order of arrival.

    `RecentImages` finds copies. An image without a time, or with the time of the one before, gets one between its
    neighbours', in proportion to their log times. Images before the first known time are placed by their log times. If
    that would be before the clock's zero, the clock began with the first image. `split` makes several images of a
    message.
    """

    def __init__(self, twice: Sequence[Span] = (), split: Callable[[Timed], list[Timed]] = lambda one: [one]) -> None:
        self.copies = 0
        self._split = split
        self._known: Timed | None = None
        self._stamp_ns = 0  # of the latest image with a time of its own
        self._waiting: list[Timed] = []
        self._recent = RecentImages(twice)

    def push(self, timed: Timed) -> list[Timed]:
        """Take the next image: it and those that waited, once their times are known."""
        if timed.time_ns and timed.image is not None and self._recent.have(timed.time_ns, timed.log_ns, timed.image):
            self.copies += 1
            return []
        return [ready for picture in self._split(timed) for ready in self._push(picture)]

    def _push(self, timed: Timed) -> list[Timed]:
        if not timed.time_ns or timed.time_ns == self._stamp_ns:
            self._waiting.append(timed._replace(time_ns=0))
            return self.flush() if len(self._waiting) > MOST_WAITING else []
        filled = list(self._fill(timed)) if self._waiting else []
        self._known, self._stamp_ns = timed, timed.time_ns
        return [*filled, timed]

    def flush(self) -> list[Timed]:
        """The images that still wait for a known time, at the end of the drive."""
        return list(self._fill(None))

    def _fill(self, following: Timed | None) -> Iterator[Timed]:
        waiting, self._waiting = self._waiting, []
        before = self._known
        if before is None and waiting and following is not None and _time_between(None, waiting[0], following, 1) <= 0:
            before = waiting[0]._replace(log_ns=waiting[0].log_ns - 1)  # the clock began with the first image
        least = before.time_ns if before is not None else 0
        for number, timed in enumerate(waiting):
            left = len(waiting) - number
            time_ns = _time_between(before, timed, following, left)
            if time_ns <= least and before is not None:
                time_ns = least + 1
            if following is not None and (before is None or following.time_ns > before.time_ns):
                time_ns = min(time_ns, following.time_ns - left)
            filled = timed._replace(time_ns=max(0, time_ns), guessed=True)
            least = max(least, time_ns)
            if following is None and time_ns > 0:
                self._known = filled
            yield filled


def _time_between(before: Timed | None, timed: Timed, following: Timed | None, left: int) -> int:
    """Interpolate an image's time, ns, `left` steps before the `following` one; 0 without neighbours."""
    if before is not None and following is not None and following.time_ns > before.time_ns:
        span, logged = following.time_ns - before.time_ns, following.log_ns - before.log_ns
        if logged > 0 and before.log_ns < timed.log_ns < following.log_ns:
            return before.time_ns + span * (timed.log_ns - before.log_ns) // logged
        return following.time_ns - span * left // (left + 1)
    if before is not None:
        return before.time_ns + timed.log_ns - before.log_ns
    return 0 if following is None else following.time_ns - (following.log_ns - timed.log_ns)
