"""The interface of all sources of frames (`streamtok.types.Frame`).

Times are nanoseconds of the monotonic clock. A camera's frame has the driver's time if there is one, else its arrival
time, taken before any conversion. A recording's frame has the time when the source was opened plus its presentation
time, whether or not it is played in real time.
"""

import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from streamtok.names import check_stream_name
from streamtok.preprocessing.pixels import RawImage
from streamtok.types import Frame

GRAB_S = 0.1
STRIDE = 8  # of the pixels that `FreezeWatch` compares


class EndOfSource(Exception):
    """No further frame will come; the text says why (end of file, closed, frames asked for delivered)."""


class FreezeWatch:
    """Detects a camera that repeats one image; a working sensor does not, because it has noise.

    `see` takes every picture, uint8 (H, W, 3) or raw, with its time in ns. `frozen` is True from `after_s` seconds of
    identical pictures until a different one comes. Every 8th pixel, or byte, of every 8th row is compared.
    """

    def __init__(self, after_s: float = 5.0) -> None:
        if after_s <= 0:
            raise ValueError(f"freeze_after is {after_s} s: expected more than 0")
        self.after_ns = int(after_s * 1e9)
        self.frozen = False
        self._print: int | None = None
        self._since_ns = 0

    def see(self, picture: np.ndarray | RawImage, time_ns: int) -> bool:
        """Take one picture, uint8 (H, W, C) or raw; True if the camera counts as frozen from this picture on."""
        rows = picture.rows if isinstance(picture, RawImage) else picture
        fingerprint = zlib.crc32(rows[::STRIDE, ::STRIDE].tobytes())
        if fingerprint != self._print:
            self._print, self._since_ns, self.frozen = fingerprint, time_ns, False
            return False
        if self.frozen or time_ns - self._since_ns < self.after_ns:
            return False
        self.frozen = True
        return True


class Source(ABC):
    """Frames of one stream, in order. A context manager, and an iterator that ends when the source does.

    Subclasses fill in `_open`, `_read` and `_close`. `state` is "up", "lost" (not delivering now, may come back) or
    "ended". `counts` holds `frames`, `reconnects`, `frozen` (times the image stood still for too long), `damaged`.
    Callers that take frames one by one use `read`; a `Capture` calls `check_limit`, `grab` and `release` on its thread.
    """

    kind, clock = "", ""
    """For people: what the source is, and which clock its times come from."""
    live = False  # whether the source does not wait for its reader, as a camera; a recording waits
    own_clock = False
    """Whether `capture_ns` is this machine's time of capture. If so, a frame's age counts from it, else from arrival:
    the clock may drift, or a recording is read faster than real time."""
    required = True
    """Whether `open` fails if the camera is not there. If False, it is waited for like one that is lost later."""

    def __init__(self, stream: str = "cam0", *, max_frames: int | None = None) -> None:
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames is {max_frames}: expected 1 or more, or None for no limit")
        self.stream = check_stream_name(stream)
        self.max_frames = max_frames
        self.fps: float | None = None
        self.size: tuple[int, int] | None = None
        self.expected_frames = 0  # an estimate from headers; 0 if unknown
        self.state = "lost"
        self._watch = FreezeWatch()  # fed by live sources only
        self.counts: Counter[str] = Counter()
        self.end_reason = ""
        self._stop = threading.Event()

    def open(self) -> None:
        """Connect or open the file; sets `size` (height, width) and `fps` where they are known. Raises OSError."""
        self._stop.clear()
        self._open()
        self.state = "up"

    def read(self, timeout: float | None = None) -> Frame | None:
        """The next frame, or None when none came within `timeout` seconds; raises EndOfSource at the end."""
        self.check_limit()
        if (frame := self._read(timeout)) is not None:
            self.counts["frames"] += 1
        return frame

    def check_limit(self) -> None:
        """Raise EndOfSource if the source has ended, or all frames that were asked for have been delivered."""
        if self.state == "ended":
            raise EndOfSource(self.end_reason)
        if self.max_frames is not None and self.counts["frames"] >= self.max_frames:
            self.end(f"{self.max_frames} frames asked for were delivered")

    def grab(self) -> Frame | None:
        """The next frame, not counted yet, or None when none came for now; raises EndOfSource at the end."""
        return self._read(GRAB_S)

    def release(self) -> None:  # noqa: B027 only cameras have a device
        """Release the device; called on the thread that grabs."""

    def check_stalled(self) -> None:  # noqa: B027 only cameras can hang
        """Mark the source as lost if nothing came for too long, even while the grabbing thread hangs."""

    @property
    def frozen(self) -> bool:
        """Whether the image has stood still for too long; always False for recordings."""
        return self._watch.frozen

    def end(self, reason: str) -> NoReturn:
        """Mark the source as ended and raise EndOfSource."""
        self.mark_ended(reason)
        raise EndOfSource(reason)

    def mark_ended(self, reason: str) -> None:
        """Note that no further frame will come."""
        self.state, self.end_reason = "ended", reason

    def close(self) -> None:
        """Release device or file; wakes a `read` that waits in another thread. Closing twice is fine."""
        self._stop.set()
        if self.state != "ended":
            self.mark_ended("closed")
        self._close()

    def __enter__(self) -> "Source":
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            try:
                frame = self.read(timeout=1.0)
            except EndOfSource:
                return
            if frame is not None:
                yield frame

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _read(self, timeout: float | None) -> Frame | None: ...

    def _close(self) -> None:  # noqa: B027 most recordings hold nothing
        """Release what `_open` took."""


class RecordedSource(Source):
    """A recording: read as fast as possible, or at the pace of its timestamps if `realtime`.

    Subclasses implement `_next`, which returns None at the end; `capture_ns` starts at `start_ns`, the monotonic time
    of opening.
    """

    def __init__(self, stream: str, *, realtime: bool = False, max_frames: int | None = None) -> None:
        super().__init__(stream, max_frames=max_frames)
        self.realtime = self.own_clock = realtime
        self.start_ns = 0
        self._pending: Frame | None = None

    def open(self) -> None:
        self._pending = None
        super().open()
        self.start_ns = time.monotonic_ns()

    def skip_to(self, capture_ns: int) -> None:
        """Skip the frames before a time (monotonic ns). The recording's last frame stays: its number shows the gap."""
        while self._pending is None or self._pending.capture_ns < capture_ns:
            self._pass_over(capture_ns - self.start_ns)
            following = self._next()
            if following is None:
                return
            self._pending = following

    def _pass_over(self, time_ns: int) -> None:
        """Make `_next` leave out what it can before a time, ns from the start, but not the last frame."""

    @abstractmethod
    def _next(self) -> Frame | None: ...

    def _read(self, timeout: float | None) -> Frame | None:
        if self._pending is None:
            self._pending = self._next()
        frame = self._pending
        if frame is None:
            self.end("end of the recording")
        if self.realtime and not self._wait_until(frame.capture_ns, timeout):
            return None
        self._pending = None
        return frame

    def _wait_until(self, due_ns: int, timeout: float | None) -> bool:
        wait = (due_ns - time.monotonic_ns()) / 1e9
        if wait <= 0:
            return True
        early = timeout is not None and timeout < wait
        if self._stop.wait(timeout if early else wait):
            self.end("closed")
        return not early
