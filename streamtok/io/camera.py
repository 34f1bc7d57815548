"""Live cameras: V4L2 and USB devices, RTSP and other URLs, GStreamer pipelines, and recordings that play a camera.

    /dev/video0?size=720x1280&fps=30&format=MJPG
    /dev/v4l/by-path/platform-camera0-video-index0
    rtsp://user:password@192.168.1.10/stream1
    gst:v4l2src device=/dev/video0 ! videoconvert ! appsink
    camera:drive.mp4#lost=5-8&frozen=12-20&loop=1

A thread grabs frames, so that `read` never waits longer than it is told. A device that fails or falls silent makes the
source "lost"; the thread tries again after 0.5 s, 1 s, ... at most 10 s. After an outage `frame_id` jumps by the frames
that the camera must have taken meanwhile (at least one), so that readers see a gap. The last frames that nobody read
are kept up to QUEUE, older ones are forgotten, counted as `dropped` and show as a gap too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streamtok.io.base import EndOfSource, Source
from streamtok.io.watch import Backoff, FreezeWatch
from streamtok.types import Frame

log = logging.getLogger("streamtok.io")

QUEUE = 8
STALL_S = 5.0
JOIN_S = 1.0


@dataclass(frozen=True)
class Grabbed:
    """One image as it came: uint8 RGB (H, W, 3), its time (monotonic ns), and its number if the device counts."""

    image: np.ndarray
    capture_ns: int
    number: int | None = None


class Device(Protocol):
    """What CameraSource drives, always from its own thread except for the first `connect`."""

    name: str
    fps: float | None
    size: tuple[int, int] | None

    def connect(self) -> None:
        """Open; raises OSError that says what failed."""

    def grab(self) -> Grabbed | None:
        """Wait for the next image; None when the device is lost. Raises EndOfSource when it has ended for good."""

    def release(self) -> None:
        """Close; may be called when not open."""


class CameraSource(Source):
    """Frames of one live device. Opening fails with OSError if the device is not there, unless it is not `required`;
    later losses heal.

    `counts` has `reconnects`, `frozen` (times that the image stood still for `freeze_after` seconds), `missed` (frames
    that the device must have taken meanwhile), `dropped` (frames that nobody read in time) and `frames`. `frozen` says
    whether the image stands still now; such frames are delivered all the same.
    """

    live = True

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
        self._watch = FreezeWatch(freeze_after)
        self._backoff = backoff or Backoff()
        self._ready = threading.Condition()
        self._queue: deque[Frame] = deque()
        self._thread: threading.Thread | None = None
        self._next_id = 0
        self._last_ns: int | None = None
        self._last_number: int | None = None
        self._ended = ""

    def skip_to_newest(self) -> None:
        """As `Source.skip_to_newest`; what is left out is counted as `dropped`."""
        with self._ready:
            while len(self._queue) > 1:
                self._queue.popleft()
                self.counts["dropped"] += 1

    def open(self) -> None:
        absent: OSError | None = None
        try:
            super().open()
        except OSError as error:
            if self.required:
                raise
            absent, self.state = error, "up"
        self._ended = ""
        self._queue.clear()
        self._heard_ns = time.monotonic_ns()
        if absent is not None:
            self._lose(str(absent))
        self._thread = threading.Thread(target=self._run, name=f"camera-{self.stream}", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        self.device.connect()
        self.fps, self.size = self.device.fps, self.device.size

    def _read(self, timeout: float | None) -> Frame | None:
        with self._ready:
            self._ready.wait_for(lambda: self._queue or self._ended, timeout)
            if self._queue:
                return self._queue.popleft()
            ended = self._ended
        if ended:
            self.end(ended)
        if self.state == "up" and time.monotonic_ns() - self._heard_ns > STALL_S * 1e9:
            self._lose("silent")
        return None

    def _close(self) -> None:
        with self._ready:
            self._ended = self._ended or "closed"
            self._ready.notify_all()
        if self._thread is not None:
            self._thread.join(JOIN_S)
            if self._thread.is_alive():
                log.warning("stream=%s event=device_hangs device=%s", self.stream, self.device.name)
            self._thread = None

    def _run(self) -> None:
        """The grabbing thread; it alone touches the device, and releases it."""
        try:
            there = self.state == "up" or self._reconnect()
            while there and not self._stop.is_set():
                grabbed = self.device.grab()
                if grabbed is not None:
                    self._deliver(grabbed)
                elif not self._reconnect():
                    break
        except EndOfSource as end:
            self._finish(end.reason)
        except Exception as error:  # a thread's error would be lost otherwise; the reader gets it as the end
            log.exception("stream=%s event=failed device=%s", self.stream, self.device.name)
            self._finish(f"{self.device.name} failed: {error!r}")
        finally:
            self.device.release()

    def _finish(self, reason: str) -> None:
        with self._ready:
            self._ended = self._ended or reason
            self._ready.notify_all()

    def _deliver(self, grabbed: Grabbed) -> None:
        self._heard_ns = time.monotonic_ns()
        missed = self._missed_before(grabbed)
        self.counts["missed"] += missed
        self._next_id += missed
        if self.state == "lost":
            self.state = "up"
            log.info("stream=%s event=up device=%s missed=%d", self.stream, self.device.name, missed)
        capture_ns = grabbed.capture_ns if self._last_ns is None else max(grabbed.capture_ns, self._last_ns + 1)
        self._last_ns = capture_ns
        if self._watch.see(grabbed.image, capture_ns):
            self.counts["frozen"] += 1
            log.warning("stream=%s event=frozen device=%s", self.stream, self.device.name)
        frame = Frame(self.stream, self._next_id, capture_ns, grabbed.image)
        self._next_id += 1
        with self._ready:
            if len(self._queue) >= QUEUE:
                self._queue.popleft()
                self.counts["dropped"] += 1
            self._queue.append(frame)
            self._ready.notify_all()

    def _missed_before(self, grabbed: Grabbed) -> int:
        """Frames that the device took but nobody got: by its own numbers, else by rate after an outage; then >= 1."""
        outage = self.state == "lost"
        if grabbed.number is not None:
            last, self._last_number = self._last_number, grabbed.number
            return max(0 if last is None else grabbed.number - last - 1, int(outage))
        if not outage:
            return 0
        if self._last_ns is None or not self.fps:
            return 1
        return max(round((grabbed.capture_ns - self._last_ns) * self.fps / 1e9) - 1, 1)

    def _lose(self, reason: str) -> None:
        if self.state == "up":
            self.state = "lost"
            log.warning("stream=%s event=lost device=%s reason=%r", self.stream, self.device.name, reason)

    def _reconnect(self) -> bool:
        """Open the device again, as often as it takes; False when the source was closed meanwhile."""
        self._lose("no image")
        self.device.release()
        while not self._stop.wait(self._backoff.next()):
            try:
                self._open()
            except OSError as error:
                if self._backoff.tries in (1, 10, 100):
                    log.warning("stream=%s event=still_lost tries=%d error=%r", self.stream, self._backoff.tries, error)
                continue
            self._backoff.reset()
            self.counts["reconnects"] += 1
            return True
        return False
