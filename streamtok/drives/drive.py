"""What all recorded drives share: frames of several cameras in order of time, gaps counted, damage noted."""

import heapq
import itertools
import logging
import statistics
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from streamtok.io.image_messages import DamagedFrame
from streamtok.measures import LOST_STEPS
from streamtok.preprocessing.pixels import RawImage
from streamtok.types import Frame

log = logging.getLogger("streamtok.drive")

REORDER_FRAMES = 4  # per camera: recorders write frames of several threads slightly out of order
USUAL_STEPS, LEAST_STEPS = 15, 5
STEP_BACK_NS = 1_000_000_000
NEW_CLOCK_FRAMES = 30  # after so many frames that rise together in the past, the clock was set back for good
MOST_PROBLEMS, LOGGED_PROBLEMS = 1000, 5


class Item(NamedTuple):
    """One camera image of a drive before it is decoded; `load` gives a `Frame.picture` or raises DamagedFrame."""

    stream: str
    capture_ns: int
    load: Callable[[], np.ndarray | RawImage]
    frame_id: int | None = None
    packet: bytes | None = None
    codec: str | None = None


class Problem(NamedTuple):
    """Something of a drive that was left out, and why; `stream` is empty for what concerns the file."""

    stream: str
    text: str
    frame_id: int | None = None


@dataclass
class Progress:
    """How far one camera has been read."""

    next_id: int = 0
    last_ns: int | None = None  # of the last frame given
    seen_ns: int | None = None  # of the last image met, which may have been damaged
    past: int = 0  # frames skipped in a row because their time lies in the past
    past_ns: int = 0
    steps: deque[int] = field(default_factory=lambda: deque(maxlen=USUAL_STEPS))

    def count_missing(self, capture_ns: int) -> int:
        """Images that the time since the last one leaves room for, if it is much longer than usual."""
        before, self.seen_ns = self.seen_ns, capture_ns
        if before is None or capture_ns <= before:
            return 0
        step = capture_ns - before
        usual = statistics.median(self.steps) if len(self.steps) >= LEAST_STEPS else 0
        if usual and step > LOST_STEPS * usual:
            return round(step / usual) - 1
        self.steps.append(step)
        return 0


class Drive(ABC):
    """Frames of several cameras in order of capture time. A context manager; each iteration starts from the beginning.

    Images without a number of their own are counted, over gaps in time as many as fit there. `streams` are the camera
    names, `counts[stream]` holds `frames`, `damaged` and `backwards` of the last iteration, `problems` what was left
    out so far.
    """

    kind = ""
    checked = True  # reorder frames, and leave out those whose time runs backwards

    def __init__(self, path: str | Path, streams: Sequence[str]) -> None:
        self.path = Path(path)
        self.streams = list(streams)
        self.problems: list[Problem] = []
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in self.streams}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None  # files are open while their frames are read, and not after

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, streams: Iterable[str] | None = None) -> Iterator[Frame]:
        """Frames of the given cameras (None: all), merged; per camera the capture times rise."""
        names = self.streams if streams is None else list(streams)
        for name in names:
            if name not in self.streams:
                raise ValueError(f"{self.path} has no camera {name!r}; it has {', '.join(self.streams) or 'none'}")
            self.counts[name].clear()
        progress = {name: Progress() for name in names}
        for item in reorder_items(self._items(names), REORDER_FRAMES * len(names) if self.checked else 0):
            frame = self.accept(item, progress[item.stream])
            if frame is not None:
                yield frame

    def items(self) -> Iterator[Item]:
        """Every image of the drive as it is stored, not decoded, nothing left out."""
        return self._items(self.streams)

    def note(self, stream: str, text: str, frame_id: int | None = None) -> None:
        """List something that was left out; the same words are listed once."""
        problem = Problem(stream, text, frame_id)
        if problem in self.problems or len(self.problems) >= MOST_PROBLEMS:
            return
        if len(self.problems) < LOGGED_PROBLEMS:
            log.warning("path=%s stream=%s problem=%r", self.path, stream or "-", text)
        self.problems.append(problem)

    @abstractmethod
    def _items(self, streams: list[str]) -> Iterator[Item]: ...

    def accept(self, item: Item, progress: Progress) -> Frame | None:
        """The frame of an item, or None if it is damaged or its time does not go on."""
        counts = self.counts[item.stream]
        frame_id = item.frame_id
        if frame_id is None:  # a gap in time is a gap in the count, so that what follows starts anew after it
            frame_id = progress.next_id + progress.count_missing(item.capture_ns)
        progress.next_id = frame_id + 1
        if self.checked and not self._goes_on(item, progress, frame_id):
            counts["backwards"] += 1
            return None
        try:
            picture = item.load()
        except DamagedFrame as error:
            counts["damaged"] += 1
            self.note(item.stream, f"frame {frame_id}: {error}", frame_id)
            return None
        counts["frames"] += 1
        progress.last_ns = item.capture_ns
        return Frame(item.stream, frame_id, item.capture_ns, picture, item.packet, item.codec)

    def _goes_on(self, item: Item, progress: Progress, frame_id: int) -> bool:
        if progress.last_ns is None or item.capture_ns > progress.last_ns:
            progress.past = 0
            return True
        back = (progress.last_ns - item.capture_ns) / 1e9
        if progress.past == 0:
            text = f"frame {frame_id}: time runs backwards by {back:.3f} s; frames are left out until it goes on"
            self.note(item.stream, text, frame_id)
        rises = progress.past == 0 or item.capture_ns > progress.past_ns
        progress.past, progress.past_ns = (progress.past + 1 if rises else 1), item.capture_ns
        if progress.past <= NEW_CLOCK_FRAMES:
            return False
        self.note(item.stream, f"frame {frame_id}: the clock was set back by {back:.3f} s; going on in the new time")
        progress.past = 0
        return True


def reorder_items(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Items by capture time, as far as holding back `depth` of them allows. Where the clock was set back (several
    frames of a camera lie far ahead of its next one) what is held back comes first."""
    if not depth:
        yield from items
        return
    count = itertools.count()
    heap: list[tuple[int, int, Item]] = []
    for item in items:
        newest_ns = item.capture_ns + STEP_BACK_NS
        if sum(held.stream == item.stream and held.capture_ns > newest_ns for _, _, held in heap) > 1:
            yield from (held for _, _, held in sorted(heap))
            heap.clear()
        heapq.heappush(heap, (item.capture_ns, next(count), item))
        if len(heap) > depth:
            yield heapq.heappop(heap)[2]
    while heap:
        yield heapq.heappop(heap)[2]
