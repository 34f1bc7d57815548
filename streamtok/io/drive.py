"""Recorded drives, read without ROS: several cameras on one clock, frame by frame, in constant memory.

    from streamtok.io.drive import open_drive

    with open_drive("drive.mcap") as drive:
        for frame in drive:
            print(frame.stream, frame.frame_id, frame.capture_ns, frame.image.shape)
        print(drive.report())

A drive is an MCAP file (or a folder with the parts of one recording), a ROS 1 or ROS 2 bag, a video, a folder of
images, or a folder with one video or one folder of images per camera. What a file is, is told from its contents.
Damage costs the frames it touches: they are counted in `counts` and listed in `problems`.
"""

from __future__ import annotations

import difflib
import heapq
import itertools
import logging
import re
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from streamtok.engine.pixels import RawImage
from streamtok.io.image_messages import DamagedFrame
from streamtok.io.source import Frame

log = logging.getLogger("streamtok.drive")

REORDER_FRAMES = 4  # per camera: recorders write frames of several threads slightly out of order
GAP_STEPS = 2.5  # times the usual step: a camera that gives every second or third frame in turn has no gaps
USUAL_STEPS, LEAST_STEPS = 15, 5
STEP_BACK_NS = 1_000_000_000
NEW_CLOCK_FRAMES = 30  # after so many frames that rise together in the past, the clock was set back for good
MOST_PROBLEMS, LOGGED_PROBLEMS = 1000, 5
KINDS = {
    b"\x89MCAP0\r\n": "mcap",
    b"#ROSBAG V2.0": "bag",
    b"SQLite format 3\x00": "db3",
}
SUFFIXES = {".mcap": "mcap", ".bag": "bag", ".db3": "db3"}
NAMES = {"mcap": "an MCAP file", "bag": "a ROS 1 bag", "db3": "a ROS 2 bag (SQLite)", "video": "a video"}
TAIL_WORDS = re.compile(r"(/(image_raw|image_rect|image_rect_color|image_color|image|compressed|video|raw))+$")


class Item(NamedTuple):
    """One camera image of a drive before it is decoded; `load` gives a `Frame.picture` or raises DamagedFrame."""

    stream: str
    capture_ns: int
    load: Callable[[], np.ndarray | RawImage]
    frame_id: int | None = None
    packet: bytes | None = None
    codec: str | None = None


@dataclass(frozen=True)
class Problem:
    """Something of a drive that was left out, and why; `stream` is empty for what concerns the file."""

    stream: str
    text: str
    frame_id: int | None = None


@dataclass
class Place:
    """How far one camera has been read."""

    next_id: int = 0
    last_ns: int | None = None  # of the last frame given
    seen_ns: int | None = None  # of the last image met, which may have been damaged
    past: int = 0  # frames skipped in a row because their time lies in the past
    past_ns: int = 0
    steps: deque[int] = field(default_factory=lambda: deque(maxlen=USUAL_STEPS))

    def missing(self, capture_ns: int) -> int:
        """Images that the time since the last one leaves room for, if it is much longer than usual."""
        before, self.seen_ns = self.seen_ns, capture_ns
        if before is None or capture_ns <= before:
            return 0
        step = capture_ns - before
        usual = statistics.median(self.steps) if len(self.steps) >= LEAST_STEPS else 0
        if usual and step > GAP_STEPS * usual:
            return round(step / usual) - 1
        self.steps.append(step)
        return 0


class Drive:
    """Frames of several cameras in order of capture time. A context manager; iterating starts from the beginning.

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

    def __enter__(self) -> Drive:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what is open. Closing twice is fine."""

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def frames(self, streams: Iterable[str] | None = None) -> Iterator[Frame]:
        """Frames of the given cameras (None: all), merged; per camera the capture times rise."""
        names = self._known(streams)
        places = {name: Place() for name in names}
        for name in names:
            self.counts[name].clear()
        for item in reorder(self._items(names), REORDER_FRAMES * len(names) if self.checked else 0):
            frame = self.accept(item, places[item.stream])
            if frame is not None:
                yield frame

    def items(self) -> Iterator[Item]:
        """Every image of the drive as it is stored, not decoded, nothing left out."""
        return self._items(self.streams)

    def report(self) -> str:
        """What was read and what was left out, in a few lines."""
        lines = [
            f"{name}: " + (", ".join(f"{key} {value}" for key, value in counts.items()) or "nothing read")
            for name, counts in self.counts.items()
        ]
        lines += [f"{problem.stream or self.path.name}: {problem.text}" for problem in self.problems[:20]]
        if len(self.problems) > 20:
            lines.append(f"... and {len(self.problems) - 20} more")
        return "\n".join(lines)

    def note(self, stream: str, text: str, frame_id: int | None = None) -> None:
        """List something that was left out; the same words are listed once."""
        problem = Problem(stream, text, frame_id)
        if problem in self.problems or len(self.problems) >= MOST_PROBLEMS:
            return
        if len(self.problems) < LOGGED_PROBLEMS:
            log.warning("path=%s stream=%s problem=%r", self.path, stream or "-", text)
        self.problems.append(problem)

    def _items(self, streams: list[str]) -> Iterator[Item]:
        raise NotImplementedError

    def _known(self, streams: Iterable[str] | None) -> list[str]:
        names = self.streams if streams is None else list(streams)
        for name in names:
            if name not in self.streams:
                raise ValueError(f"{self.path} has no camera {name!r}; it has {', '.join(self.streams) or 'none'}")
        return names

    def accept(self, item: Item, place: Place) -> Frame | None:
        """The frame of an item, or None if it is damaged or its time does not go on."""
        counts = self.counts[item.stream]
        frame_id = item.frame_id
        if frame_id is None:  # a gap in time is a gap in the count, so that what follows starts anew after it
            frame_id = place.next_id + place.missing(item.capture_ns)
        place.next_id = frame_id + 1
        if self.checked and not self._goes_on(item, place, frame_id):
            counts["backwards"] += 1
            return None
        try:
            picture = item.load()
        except DamagedFrame as error:
            counts["damaged"] += 1
            self.note(item.stream, f"frame {frame_id}: {error}", frame_id)
            return None
        counts["frames"] += 1
        place.last_ns = item.capture_ns
        return Frame(item.stream, frame_id, item.capture_ns, picture, item.packet, item.codec)

    def _goes_on(self, item: Item, place: Place, frame_id: int) -> bool:
        if place.last_ns is None or item.capture_ns > place.last_ns:
            place.past = 0
            return True
        back = (place.last_ns - item.capture_ns) / 1e9
        if place.past == 0:
            self.note(
                item.stream,
                f"frame {frame_id}: time runs backwards by {back:.3f} s; frames are left out until it goes on",
                frame_id,
            )
        rises = place.past == 0 or item.capture_ns > place.past_ns
        place.past, place.past_ns = (place.past + 1 if rises else 1), item.capture_ns
        if place.past <= NEW_CLOCK_FRAMES:
            return False
        self.note(item.stream, f"frame {frame_id}: the clock was set back by {back:.3f} s; going on in the new time")
        place.past = 0
        return True


class SourcesDrive(Drive):
    """A drive of one source (video file or image folder) per camera."""

    kind = "files"

    def __init__(self, path: str | Path, open_sources: dict[str, Callable[[], Iterator[Item]]]) -> None:
        super().__init__(path, list(open_sources))
        self._open_sources = open_sources

    def add_streams(self, names: list[str]) -> None:
        """Name the cameras that have been added to the sources since this drive was made."""
        self.streams += names
        self.counts |= {name: Counter() for name in names}

    def _items(self, streams: list[str]) -> Iterator[Item]:
        sources = [self._open_sources[name]() for name in streams]
        return heapq.merge(*sources, key=lambda item: item.capture_ns)


def reorder(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Items by capture time, as far as holding back `depth` of them allows. Where the clock was set back (several
    frames of a camera lie far ahead of its next one) what is held back comes first."""
    if not depth:
        yield from items
        return
    count = itertools.count()
    heap: list[tuple[int, int, Item]] = []
    for item in items:
        ahead = [held for _, _, held in heap
                 if held.stream == item.stream and held.capture_ns > item.capture_ns + STEP_BACK_NS]  # fmt: skip
        if len(ahead) > 1:
            yield from (held for _, _, held in sorted(heap))
            heap.clear()
        heapq.heappush(heap, (item.capture_ns, next(count), item))
        if len(heap) > depth:
            yield heapq.heappop(heap)[2]
    while heap:
        yield heapq.heappop(heap)[2]


def stream_names(topics: Sequence[str]) -> dict[str, str]:
    """A stream name for each topic: "/cam/front/image_raw/compressed" is "cam_front" unless another camera has it."""
    names: dict[str, str] = {}
    for topic in topics:
        recorded = topic.removeprefix("frames/")
        short = re.sub(r"[^A-Za-z0-9_-]+", "_", TAIL_WORDS.sub("", recorded)).strip("_") or "cam"
        if short in names.values():
            short = re.sub(r"[^A-Za-z0-9_-]+", "_", topic).strip("_")
        name, number = short[:64], 1
        while name in names.values():
            number += 1
            name = f"{short[:60]}_{number}"
        names[topic] = name
    return names


def choose_topics(
    path: Path, cameras: Sequence[str], others: dict[str, str], topics: Sequence[str] | dict[str, str] | None
) -> dict[str, str]:
    """{topic: stream name} of the cameras to read, `others` being {topic: type} of what is no image.

    `topics` are topic or stream names, or {topic: stream name} to name them; None takes every camera. ValueError
    says what there is.
    """
    names = stream_names(cameras)
    if topics is None:
        wanted = [topic for topic in cameras if "depth" not in topic.lower()] or list(cameras)
        if not wanted:
            found = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(others.items())) or "no topics at all"
            raise ValueError(f"{path} has no camera images; it has {found}")
        return {topic: names[topic] for topic in wanted}
    chosen = {}
    by_name = {name: topic for topic, name in names.items()}
    for asked in topics:
        topic = asked if asked in names else by_name.get(asked)
        if topic is None:
            raise ValueError(_no_topic(path, asked, names, others))
        chosen[topic] = topics[asked] if isinstance(topics, dict) else names[topic]
    return chosen


def _no_topic(path: Path, asked: str, names: dict[str, str], others: dict[str, str]) -> str:
    if asked in others:
        return f"{path}: topic {asked!r} is {others[asked]}, not camera images; cameras: {', '.join(names) or 'none'}"
    near = difflib.get_close_matches(asked, [*names, *names.values()], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{path} has no topic {asked!r}; cameras: {', '.join(names) or 'none'}{hint}"


def kind_of(path: Path) -> str:
    """ "mcap", "bag", "db3" or "video", told from the first bytes of a file; anything unknown counts as a video."""
    with path.open("rb") as stream:
        head = stream.read(16)
    if not head:
        raise ValueError(f"{path} is empty")
    return next((kind for magic, kind in KINDS.items() if head.startswith(magic)), "video")


def open_drive(path: str | Path, topics: Sequence[str] | dict[str, str] | None = None) -> Drive:
    """Open a recorded drive. `topics` chooses cameras by topic or stream name, or names them: {topic: stream name}.

    Raises FileNotFoundError, and ValueError for a file that is nothing readable or lacks a topic that was asked for.
    A file that is not what its name says is read as what it is, with a note in `problems`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"drive {str(path)!r}: no such file or folder")
    if path.is_dir():
        from streamtok.io.drive_folder import open_folder

        return open_folder(path, topics)
    kind, named = kind_of(path), SUFFIXES.get(path.suffix.lower(), "video")
    if kind == "video" and named != "video":
        raise ValueError(f"{path}: not {NAMES[named]}, nor any other recording: its first bytes are {_head(path)!r}")
    drive = _open_kind(kind, path, topics)
    if kind != named:
        drive.note("", f"named {path.suffix or 'without suffix'}, but it is {NAMES[kind]}: read as that")
    return drive


def _open_kind(kind: str, path: Path, topics: Sequence[str] | dict[str, str] | None) -> Drive:
    if kind == "mcap":
        from streamtok.io.mcap_drive import McapDrive

        return McapDrive([path], topics)
    if kind in ("bag", "db3"):
        from streamtok.io.bag import BagDrive

        return BagDrive(path, kind, topics)
    from streamtok.io.drive_folder import open_video

    return open_video(path, topics)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(16)
