"""The base of all recorded drives: frames of several cameras in order of time, with gaps counted and damage noted."""

import contextlib
import heapq
import itertools
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from streamtok.drives.camera_order import REORDER_FRAMES, CameraOrder
from streamtok.drives.clocks import Choice
from streamtok.drives.item import Item
from streamtok.drives.numbering import Numbering
from streamtok.io.images.stills import DamagedFrame
from streamtok.types import Frame

Content = TypeVar("Content")
log = logging.getLogger("streamtok.drive")

MOST_PROBLEMS, LOGGED_PROBLEMS = 1000, 5
GUESSED = "images without a time of their own got one between their neighbours'"
LEFT_OUT = {
    "damaged": "cannot be read",
    "backwards": "have a time that does not go on",
    "duplicates": "are copies",
    "untimed": "have no time",
}
"""The reasons why images of a drive are not among its frames: key of `Drive.counts` -> words."""


class Problem(NamedTuple):
    """Something that was left out or guessed, and why; `stream` is empty if it concerns the file."""

    stream: str
    text: str
    frame_id: int | None = None


def describe_losses(account: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`Drive.account` in words; nothing for a camera without losses and guesses."""
    lines, words = [], LEFT_OUT | {"lost": "are missing in the file", "guessed": "times are guessed"}
    for name, told in account.items():
        parts = [f"{told[count]} {text}" for count, text in words.items() if told[count]]
        parts += [f"timed by {told['clock']} time ({told['clock_reason']})"] if told["clock_reason"] else []
        if parts:
            lines.append(f"{name}: {told['frames']} of {told['images']} images are frames; {', '.join(parts)}")
    return lines


class Drive(ABC):
    """Frames of several cameras in order of capture time. A context manager; each iteration starts from the beginning.

    Images without a number of their own are counted, and gaps in time by the frames that fit there. `streams` are the
    camera names. `counts[stream]` is of the last iteration: `frames`, those `lost` by gaps in number or time, and the
    images left out, by reason (`LEFT_OUT`). Frames and images left out add up to the images in the file. `clocks` is
    the clock of each camera, if the file has several. `problems` is what was left out or guessed so far. `failure` says
    which file could no longer be read, if one vanished or its disk failed; the others are read on.
    """

    kind = ""
    checked = True  # reorder frames, and leave out those whose time runs backwards

    def __init__(self, path: str | Path, streams: Sequence[str]) -> None:
        self.path = Path(path)
        self.streams = list(streams)
        self.problems: list[Problem] = []
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in self.streams}
        self.clocks: dict[str, Choice] = {}
        self.failure = ""
        self.sizes: dict[Path, int] = {}  # of its files when they were opened, bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None  # files are open while their frames are read, and not after

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, streams: Iterable[str] | None = None) -> Iterator[Frame]:
        """Frames of the given cameras (None: all), merged; per camera the capture times rise."""
        for item in self.items(streams):
            if (frame := self.load(item)) is not None:
                yield frame

    def items(self, streams: Iterable[str] | None = None) -> Iterator[Item]:
        """The images of the given cameras (None: all), numbered and in order; those that can be decoded are frames."""
        names = self.streams if streams is None else list(streams)
        for name in names:
            if name not in self.streams:
                raise ValueError(f"{self.path} has no camera {name!r}; it has {', '.join(self.streams) or 'none'}")
            self.counts[name].clear()
        numberings = {name: self.start_numbering(name) for name in names}
        stored = self._items(names)
        depth = REORDER_FRAMES * len(names) if len(names) > 1 else 0  # each camera's own are in order by then
        for item in self._order(stored, depth) if self.checked else stored:
            yield self.number(item, numberings[item.stream])

    @property
    def notes(self) -> list[str]:
        """`problems` as text."""
        return [f"{problem.stream or self.path.name}: {problem.text}" for problem in self.problems]

    def account(self) -> dict[str, dict[str, Any]]:
        """The counts of each camera in the last iteration.

        `images` are those in the file: `frames`, and those left out, by reason. `lost` are missing in the file by
        number or time; `guessed` counts interpolated times. `clock` is None if the file has only one; `clock_reason`
        says why it is not the header's, or what is added to that.
        """
        told: dict[str, dict[str, Any]] = {}
        for name, counts in self.counts.items():
            given, choice = {reason: counts[reason] for reason in ("frames", *LEFT_OUT)}, self.clocks.get(name)
            told[name] = {"images": sum(given.values()), **given, "lost": max(0, counts["lost"] - counts["late"])}
            told[name] |= {"guessed": counts["guessed"], "clock": choice.clock if choice else None}
            told[name] |= {"clock_reason": choice.reason if choice else ""}
        return told

    def note(self, stream: str, text: str, frame_id: int | None = None) -> None:
        """Add to `problems` what was left out or guessed, unless it is nothing or is there already."""
        problem = Problem(stream, text, frame_id)
        if not text or problem in self.problems or len(self.problems) >= MOST_PROBLEMS:
            return
        if len(self.problems) < LOGGED_PROBLEMS:
            log.warning("path=%s stream=%s problem=%r", self.path, stream or "-", text)
        self.problems.append(problem)

    def read_file(self, name: str, place: Path, contents: Iterable[Content]) -> Iterator[Content]:
        """Pass on what is read of a file, at `place`.

        The drive's `failure` is noted if that ends with an OSError, or if the file became shorter since it was opened.
        """
        try:
            yield from contents
        except OSError as error:
            self.failure = f"{name} can no longer be read: {error.strerror or error}"
        with contextlib.suppress(OSError):
            if place.stat().st_size < self.sizes.get(place, 0):
                self.failure = f"{name} became shorter while it was read"
        self.note("", self.failure)

    @abstractmethod
    def _items(self, streams: list[str]) -> Iterator[Item]:
        """The images of these cameras as they are stored."""

    def find_clock(self, stream: str) -> Choice:
        """The clock of a camera."""
        return self.clocks.get(stream) or Choice()

    def start_numbering(self, stream: str) -> Numbering:
        """The numbering of a camera before its first image."""
        return Numbering(self.find_clock(stream), self.checked, self.note)

    def number(self, item: Item, numbering: Numbering) -> Item:
        """The item with its frame number; counts the images that are missing before it."""
        item = numbering.take(item)
        if item.missing:
            self.counts[item.stream]["lost"] += item.missing
        return item

    def load(self, item: Item) -> Frame | None:
        """The frame of an item, or None if it is damaged, which is counted."""
        assert item.frame_id is not None
        try:
            picture = item.load()
        except DamagedFrame as error:
            self.leave_out("damaged", item, item.damage or str(error))
            return None
        self.counts[item.stream]["frames"] += 1
        return Frame(item.stream, item.frame_id, item.capture_ns, picture, item.packet, item.codec)

    def leave_out(self, reason: str, item: Item, text: str) -> None:
        """Count and note an image that does not become a frame."""
        self.counts[item.stream][reason] += 1
        place = f"frame {item.frame_id}" if item.frame_id is not None else f"at {item.capture_ns / 1e9:.3f} s"
        self.note(item.stream, f"{place}: {text}", item.frame_id)

    def _order(self, items: Iterable[Item], depth: int) -> Iterator[Item]:
        """Merge the cameras' items by capture time, in a reorder buffer of `depth` items."""
        orders: dict[str, CameraOrder] = {}
        for name in self.streams:
            orders[name] = CameraOrder(self._leave_out_of_order, self._note_item)
        count = itertools.count()
        heap: list[tuple[int, int, int, Item]] = []
        for item in items:
            for ready in orders[item.stream].push(item):
                heapq.heappush(heap, (ready.turn, ready.capture_ns, next(count), ready))
                if len(heap) > depth:
                    yield heapq.heappop(heap)[-1]
        for order in orders.values():
            for ready in order.flush():
                heapq.heappush(heap, (ready.turn, ready.capture_ns, next(count), ready))
        while heap:
            yield heapq.heappop(heap)[-1]

    def _leave_out_of_order(self, item: Item, text: str) -> None:
        self.leave_out("damaged" if item.damage else "backwards", item, text)
        if item.damage or item.frame_id is not None:
            self.counts[item.stream]["late"] += 1  # in the file, but counted as lost by the gap in numbers

    def _note_item(self, item: Item, text: str) -> None:
        self.note(item.stream, f"at {item.capture_ns / 1e9:.3f} s: {text}")
