"""Live cameras: V4L2 and USB devices, RTSP and other URLs, GStreamer pipelines, and recordings that play a camera.

    /dev/video0?size=720x1280&fps=30&format=MJPG
    /dev/v4l/by-path/platform-camera0-video-index0
    rtsp://user:password@192.168.1.10/stream1
    gst:v4l2src device=/dev/video0 ! videoconvert ! appsink
    camera:drive.mp4#lost=5-8&frozen=12-20&loop=1

A `Capture` grabs frames on its thread, so that `read` never waits longer than it is told. A device that fails or falls
silent makes the source "lost". It is tried again after a moment, then after half of what the outage has lasted so far,
at most 10 s. So no outage becomes twice as long by waiting. After an outage `frame_id` jumps by the frames that the
camera must have taken meanwhile (at least one), so that readers see a gap.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streamtok.io.base import GRAB_S, EndOfSource, Source
from streamtok.io.capture import Capture
from streamtok.io.watch import Backoff, FreezeWatch
from streamtok.measures import TimeJudge, count_between
from streamtok.types import Frame

log = logging.getLogger("streamtok.io")

STALL_S = 5.0
JOIN_S = 1.0


@dataclass(frozen=True)
class Grabbed:
    """One image as it came: uint8 RGB (H, W, 3), its time (monotonic ns), and its number if the device counts.

    `damaged` images were left out just before it. `timed`: the time is the camera's own, and not that of arrival.
    """

    image: np.ndarray
    capture_ns: int
    number: int | None = None
    damaged: int = 0
    timed: bool = False


class Device(Protocol):
    """What CameraSource drives, always from its capture's thread except for the first `connect`."""

    kind: str
    clock: str
    name: str
    fps: float | None
    size: tuple[int, int] | None
    closing: bool = False  # told from another thread: a `grab` that waits need not go on

    def connect(self) -> None:
        """Open; raises OSError that says what failed."""

    def grab(self) -> Grabbed | None:
        """Wait for the next image; None when the device is lost. Raises EndOfSource when it has ended for good."""

    def release(self) -> None:
        """Close; may be called when not open."""


class CameraSource(Source):
    """Frames of one live device.

    Opening fails with OSError if the device is not there, unless it is not `required`; later losses heal. `frozen` says
    whether the image stands still now; such frames are delivered all the same. `counts` has

    - `frames`, and `reconnects`
    - `frozen`: times that the image stood still for `freeze_after` seconds
    - `missed`: frames that the device must have taken and that never came
    - `damaged`: frames that came and cannot be used
    - `dropped`: frames that nobody read in time
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
        """The next frame, on the capture's thread; None while the camera is lost, after a moment."""
        if not self._connected and not self._reconnect():
            return None
        try:
            grabbed = self.device.grab()
        except EndOfSource:
            raise
        except Exception as error:  # nobody foresaw it: readers get it as the end
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
            self.capture = Capture(self)  # the thread is left to itself, and not waited for again

    def _to_frame(self, grabbed: Grabbed) -> Frame:
        self.check_stalled()  # what stood still may be this process
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
        """Frames that the device took but nobody got, at least one after an outage: by its numbers, else its times.

        A pause in times of arrival says nothing: what a network held up comes later. After an outage, which nothing
        survives, the device's rate says how many there were.
        """
        outage = self.state == "lost"
        if grabbed.number is not None:
            last, self._last_number = self._last_number, grabbed.number
            return max(0 if last is None else grabbed.number - last - 1, int(outage))
        missing = self._judge.see(grabbed.capture_ns).missing if grabbed.timed else 0
        if outage and not missing and self._last_ns is not None and self.fps:
            missing = count_between(grabbed.capture_ns - self._last_ns, 1e9 / self.fps)
        return max(missing, int(outage))

    def _note_lost(self, reason: str) -> None:
        if self.state == "up":
            self.state = "lost"
            log.warning("stream=%s event=lost device=%s reason=%r", self.stream, self.device.name, reason)

    def _lose(self, reason: str) -> None:
        self._note_lost(reason)
        self.device.release()
        self._connected, self._retry_at = False, time.monotonic() + self._wait_s()

    def _wait_s(self) -> float:
        return self._backoff.next(time.monotonic() - self._heard_at)

    def _reconnect(self) -> bool:
        """Open the device again if it is time to; False, after a moment, if it is not there."""
        left = self._retry_at - time.monotonic()
        if self._stop.wait(min(max(left, 0.0), GRAB_S)) or left > GRAB_S:
            return False
        try:
            self._open()
        except OSError as error:
            self._retry_at = time.monotonic() + self._wait_s()
            if self._backoff.tries in (1, 10, 100):
                log.warning("stream=%s event=still_lost tries=%d error=%r", self.stream, self._backoff.tries, error)
            return False
        self.counts["reconnects"] += 1
        return True


def find_capture(source: Source) -> Capture:
    """The thread and the queue of an open source: a camera's own, which runs since it was opened, or new ones."""
    return source.capture if isinstance(source, CameraSource) else Capture(source)
