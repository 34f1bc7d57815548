"""A recording, or the synthetic drive, that plays a camera in real time, with outages and frozen images on request.

    camera:synthetic:96x160@30?seed=1#lost=2-3,10-12&frozen=5-6&loop=1

Tests and demonstrations use it in place of a live camera. Spans are in seconds since the camera was switched on; `lost`
makes it unreachable, `frozen` makes it repeat its last image.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamtok.io.base import EndOfSource, RecordedSource, Source
from streamtok.io.cameras.camera import Device, Grabbed
from streamtok.io.spec import parse_switch, split_options
from streamtok.types import Frame

Span = tuple[float, float]
LATE_NS = 150_000_000  # an image that nobody fetched for this long is lost, as in a camera with few buffers


@dataclass(frozen=True)
class Faults:
    """The faults of a played camera, as spans in seconds, and whether it starts over at its end."""

    lost: tuple[Span, ...] = ()
    frozen: tuple[Span, ...] = ()
    loop: bool = False


class MachineClock:
    """The clock of a played camera: this machine's, unless a subclass is given."""

    def now_ns(self) -> int:
        """The monotonic time, ns."""
        return time.monotonic_ns()

    def wait_until(self, due_ns: int) -> None:
        """Sleep until the monotonic time `due_ns`."""
        time.sleep(max(due_ns - self.now_ns(), 0) / 1e9)


class PlayedDevice(Device):
    """Plays the recording that `make_source` gives at the pace of its timestamps, with `faults`; see the module."""

    kind, clock = "recording that plays a camera", "the recording's times"
    _source: RecordedSource  # from `connect` on

    def __init__(
        self,
        make_source: Callable[[], RecordedSource],
        name: str = "played",
        faults: Faults | None = None,
        clock: MachineClock | None = None,
    ) -> None:
        self.name, self.faults, self._clock = name, faults or Faults(), clock or MachineClock()
        self._make_source = make_source
        self._started, self._switched_on_ns = False, 0
        self._reached_ns = 0
        self._lap = (0, 0)
        self._position = (0, 0)
        self._image: np.ndarray | None = None

    def connect(self) -> None:
        """Switch the camera on, or reconnect; OSError within a lost span."""
        if not self._started:
            self._start()
            self._switched_on_ns = self._clock.now_ns()
        if _is_within(self.faults.lost, self._now_ns()):
            raise ConnectionRefusedError(f"{self.name} is out of reach until the span ends")
        self._reached_ns = self._now_ns() if self._image is not None else 0

    def grab(self) -> Grabbed | None:
        """The next image when it is due; None once a lost span has begun.

        Like a camera it does not wait: a late reader, or one after an outage, has missed frames.
        """
        frame = self._next()
        number, position_ns = self._position
        due_ns = self._switched_on_ns + position_ns
        self._clock.wait_until(due_ns)
        if _is_within(self.faults.lost, position_ns):
            return None
        if self._image is None or not _is_within(self.faults.frozen, position_ns):
            self._image = frame.image
        return Grabbed(self._image, due_ns, number)

    def release(self) -> None:
        """Disconnect; the camera itself goes on."""

    def _start(self) -> None:
        if self._started:
            self._source.close()
        self._source, self._started = self._make_source(), True
        self._source.open()
        self.fps, self.size = self._source.fps, self._source.size

    def _now_ns(self) -> int:
        return self._clock.now_ns() - self._switched_on_ns

    def _next(self) -> Frame:
        """The next frame that is not too late; without a loop, earlier ones are skipped undecoded where possible."""
        oldest_ns = max(self._now_ns() - LATE_NS, self._reached_ns)
        if not self.faults.loop:
            self._source.skip_to(self._source.start_ns + oldest_ns)
        frame = self._read()
        while self._position[1] < oldest_ns:
            frame = self._read()
        return frame

    def _read(self) -> Frame:
        try:
            frame = self._source.read()
        except EndOfSource:
            if not self.faults.loop:
                raise
            number, position_ns = self._position
            self._lap = number + 1, position_ns + round(1e9 / (self.fps or 30.0))
            self._start()
            frame = self._source.read()
        if frame is None:
            raise EndOfSource(f"{self.name} gave no image")
        self._position = self._lap[0] + frame.frame_id, self._lap[1] + frame.capture_ns - self._source.start_ns
        return frame


def parse_played(spec: str, open_source: Callable[[str], Source], clock: MachineClock | None = None) -> PlayedDevice:
    """The device of "camera:SRC#lost=A-B,C-D&frozen=A-B&loop=1"; `open_source` opens SRC, a recording."""
    target, _, fragment = spec.removeprefix("camera:").partition("#")
    known: dict[str, Callable[[str], object]] = {"lost": _parse_spans, "frozen": _parse_spans, "loop": parse_switch}
    _, faults = split_options(spec, f"?{fragment}", known)

    def recorded() -> RecordedSource:
        source = open_source(target)
        if not isinstance(source, RecordedSource):
            raise ValueError(f"source camera:{target}: {target!r} is live already; camera: plays a recording")
        return source

    recorded()  # raises at once if the name is wrong
    return PlayedDevice(recorded, target, Faults(**faults), clock)


def _parse_spans(text: str) -> tuple[Span, ...]:
    spans = []
    for part in text.split(","):
        start, dash, stop = part.partition("-")
        if not dash or not 0 <= float(start) < float(stop) < math.inf:
            raise ValueError("expected seconds as START-STOP, for example 2-3.5,10-12")
        spans.append((float(start), float(stop)))
    return tuple(spans)


def _is_within(spans: tuple[Span, ...], time_ns: int) -> bool:
    return any(start <= time_ns / 1e9 < stop for start, stop in spans)
