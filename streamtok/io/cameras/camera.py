"""Live cameras: how a device of any kind becomes a source that survives outages.

A `Capture` grabs frames on its thread, so that `read` never waits longer than its timeout. A device that fails or falls
silent makes the source "lost". Reconnecting is tried after a moment, then with exponential backoff up to 10 s, never
longer than half the outage so far. After an outage `frame_id` jumps by the frames that the camera must have taken
meanwhile (at least one), so that readers see a gap.
"""

import logging
import math
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streamtok.io.base import GRAB_S, EndOfSource, FreezeWatch, Source
from streamtok.io.capture import Capture
from streamtok.times import TimeJudge, count_between
from streamtok.types import Frame

log = logging.getLogger("streamtok.io")

STALL_S = 5.0
JOIN_S = 1.0


@dataclass(frozen=True)
class Grabbed:
    """One image from a device: uint8 RGB (H, W, 3), its time (monotonic ns), and its number if the device counts.

    `damaged` is how many images were dropped just before it. `timed`: the time is the camera's own, not the arrival;
    `stream_ns` is the same by the camera's clock, where that is not this machine's.
    """

    image: np.ndarray
    capture_ns: int
    number: int | None = None
    damaged: int = 0
    timed: bool = False
    stream_ns: int | None = None


class Device(Protocol):
    """What CameraSource drives, on its capture's thread except for the first `connect`."""

    kind: str
    clock: str
    name: str
    fps: float | None = None
    size: tuple[int, int] | None = None
    closing: bool = False  # set by another thread: a waiting `grab` should return

    def connect(self) -> None:
        """Open the device; raises OSError that says what failed."""

    def grab(self) -> Grabbed | None:
        """Wait for the next image; None when the device is lost. Raises EndOfSource when it has ended for good."""

    def release(self) -> None:
        """Close the device; may be called when not open."""


@dataclass
class Backoff:
    """Seconds to wait before the next try: `first`, then twice as long each time, at most `most`.

    No wait is longer than half the outage so far, where that is known, so that waiting never doubles an outage.
    """

    first: float = 0.1
    most: float = 10.0
    tries: int = 0

    def next(self, outage: float = math.inf) -> float:
        """Seconds to wait after one more failure, which came `outage` seconds after the first."""
        self.tries += 1
        return min(self.first * 2 ** min(self.tries - 1, 30), self.most, max(outage / 2, self.first))

    def reset(self) -> None:
        """Start over after a success."""
        self.tries = 0


class CameraSource(Source):
    """Frames of one live device.

    `open` raises OSError if a `required` device is not there; after later losses it is reconnected. Frames of an image
    that stands still are delivered all the same. `counts` also has `missed` (frames that the device must have taken but
    that never came) and `dropped` (that nobody read in time).
    """

    live = True
    own_clock = True

    def __init__(
        self,
        device: Device,
        stream: str = "cam0",
        *,
        max_frames: int | None = None,
        freeze_after: float = 5.0,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(stream, max_frames=max_frames)
        self.device = device
        self.capture = Capture(self)  # grabs and queues frames from `open` to `close`
        self._watch = FreezeWatch(freeze_after)
        self._backoff = backoff or Backoff()
        self._connected = False
        self._retry_at = self._heard_at = 0.0  # monotonic s
        self._next_id = 0
        self._last_ns: int | None = None
        self._last_number: int | None = None
        self._judge = TimeJudge()

    def open(self) -> None:
        try:
            super().open()
        except OSError as error:
            if self.required:
                raise
            self.state = "up"
            self._lose(str(error))
        self._heard_at = time.monotonic()
        self.capture = Capture(self)
        self.capture.start()

    def grab(self) -> Frame | None:
        """The next frame, on the capture's thread; while the camera is lost, None after a short wait."""
        if not self._connected and not self._reconnect():
            return None
        try:
            grabbed = self.device.grab()
        except EndOfSource:
            raise
        except Exception as error:  # unforeseen: readers see it as the end of the source
            log.exception("stream=%s event=failed device=%s", self.stream, self.device.name)
            raise EndOfSource(f"{self.device.name} failed: {error!r}") from error
        if grabbed is not None:
            return self._to_frame(grabbed)
        self._lose("no image")
        return None

    def release(self) -> None:
        self.device.release()

    def check_stalled(self) -> None:
        if self.state == "up" and time.monotonic() - self._heard_at > STALL_S:
            self._note_lost("silent")

    def _open(self) -> None:
        self.device.closing = False
        self.device.connect()
        self.fps, self.size, self._connected = self.device.fps, self.device.size, True

    def _read(self, timeout: float | None) -> Frame | None:
        frame = self.capture.wait(timeout)
        if frame is None and (self.capture.finished or self.state == "ended"):
            self.end(self.capture.end_reason or "closed")
        self.check_stalled()
        return frame

    def _close(self) -> None:
        self.device.closing = True
        if not self.capture.close(JOIN_S):
            log.warning("stream=%s event=device_hangs device=%s", self.stream, self.device.name)
            self.capture = Capture(self)  # the hanging thread is abandoned: a second close does not wait for it

    def _to_frame(self, grabbed: Grabbed) -> Frame:
        self.check_stalled()  # this process may have been suspended
        self._heard_at = time.monotonic()
        missed = self._missed_before(grabbed)
        self.counts["missed"] += missed
        self.counts["damaged"] += grabbed.damaged
        self._next_id += max(missed, grabbed.damaged)
        if self.state == "lost":
            self.state = "up"
            self._backoff.reset()
            log.info("stream=%s event=up device=%s missed=%d", self.stream, self.device.name, missed)
        capture_ns = grabbed.capture_ns if self._last_ns is None else max(grabbed.capture_ns, self._last_ns + 1)
        self._last_ns = capture_ns
        if self._watch.see(grabbed.image, capture_ns):
            self.counts["frozen"] += 1
            log.warning("stream=%s event=frozen device=%s", self.stream, self.device.name)
        frame = Frame(self.stream, self._next_id, capture_ns, grabbed.image)
        self._next_id += 1
        return frame

    def _missed_before(self, grabbed: Grabbed) -> int:
        """How many frames are missing before this one by the device's numbers, else its times; after an outage >= 1.

        A gap in arrival times alone says nothing, because a network may only have delayed the frames. After an outage
        no delayed frame can come, the camera's clock may have begun anew, and the usual step gives the number.
        """
        outage = self.state == "lost"
        if grabbed.number is not None:
            last, self._last_number = self._last_number, grabbed.number
            return max(0 if last is None else grabbed.number - last - 1, int(outage))
        if outage:
            self._judge.restart()
        own_ns = grabbed.capture_ns if grabbed.stream_ns is None else grabbed.stream_ns
        missing = self._judge.see(own_ns, grabbed.capture_ns).missing if grabbed.timed else 0
        usual_ns = self._judge.usual_step or 1e9 / (self.fps or math.inf)
        if outage and self._last_ns is not None and usual_ns:
            missing = count_between(grabbed.capture_ns - self._last_ns, usual_ns)
        return max(missing, int(outage))

    def _note_lost(self, reason: str) -> None:
        if self.state == "up":
            self.state = "lost"
            log.warning("stream=%s event=lost device=%s reason=%r", self.stream, self.device.name, reason)

    def _lose(self, reason: str) -> None:
        self._note_lost(reason)
        self.device.release()
        self._connected = False
        self._delay_retry()

    def _delay_retry(self) -> None:
        now = time.monotonic()
        self._retry_at = now + self._backoff.next(now - self._heard_at)

    def _reconnect(self) -> bool:
        """Open the device again when it is due; False, after a short wait, if that was not possible."""
        left = self._retry_at - time.monotonic()
        if self._stop.wait(min(max(left, 0.0), GRAB_S)) or left > GRAB_S:
            return False
        try:
            self._open()
        except OSError as error:
            self._delay_retry()
            if self._backoff.tries in (1, 10, 100):
                log.warning("stream=%s event=still_lost tries=%d error=%r", self.stream, self._backoff.tries, error)
            return False
        self.counts["reconnects"] += 1
        return True


def find_capture(source: Source) -> Capture:
    """The `Capture` of an open source: a camera's own, which runs since it was opened, or a new one."""
    return source.capture if isinstance(source, CameraSource) else Capture(source)
