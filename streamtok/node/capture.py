"""A thread per camera that reads, prepares and queues its frames, so that the encoder only ever finds ready ones."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from streamtok.ingest.lane import Prepared
from streamtok.io.base import EndOfSource, Source
from streamtok.types import Frame

log = logging.getLogger("streamtok.ingest")

READ_TIMEOUT_S = 0.1


@dataclass(frozen=True)
class Captured:
    """A frame with what the encoder takes of it; times are monotonic ns, `after_gap` says that the source had been
    lost."""

    frame: Frame
    prepared: Prepared
    arrived_ns: int
    ready_ns: int
    after_gap: bool = False


class Capture(threading.Thread):
    """Feeds a bounded queue from one source until the source ends or `stop` is called.

    A full queue makes a lossless stream wait and any other forget its oldest frame, which the encoder then sees as a
    gap in `frame_id`. `wake` is notified of every frame and of the end; `error` holds what the source failed with, if
    it did.
    """

    def __init__(
        self,
        source: Source,
        prepare: Callable[[Frame], Prepared],
        *,
        capacity: int,
        lossless: bool,
        wake: threading.Condition,
    ) -> None:
        super().__init__(name=f"capture-{source.stream}", daemon=True)
        self.source, self.stream = source, source.stream
        self.capacity, self.lossless = capacity, lossless
        self.error: Exception | None = None
        self.ended = False
        self._prepare = prepare
        self._wake = wake
        self._waiting: deque[Captured] = deque()
        self._halt = False
        self._reconnects = 0

    def run(self) -> None:
        try:
            while not self._halt:
                frame = self.source.read(timeout=READ_TIMEOUT_S)
                if frame is not None:
                    self._put(self._captured(frame))
        except EndOfSource as end:
            log.info("stream=%s event=end reason=%r", self.stream, end.reason)
        except Exception as error:
            # The other cameras go on; the node reports this one and its exit status tells.
            log.error("stream=%s event=failed error=%r", self.stream, error)
            self.error = error
        with self._wake:
            self.ended = True
            self._wake.notify_all()

    def take(self) -> list[Captured]:
        """Empty the queue: everything that waited, oldest first."""
        with self._wake:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._wake.notify_all()
        return waiting

    @property
    def depth(self) -> int:
        """Frames that wait."""
        return len(self._waiting)

    @property
    def finished(self) -> bool:
        """Nothing waits and nothing will come. To be asked with `wake` held or after the thread has ended."""
        return self.ended and not self._waiting

    def stop(self) -> None:
        """Ask the thread to end, without waiting."""
        self._halt = True
        with self._wake:
            self._wake.notify_all()

    def close(self, timeout: float) -> None:
        """Wait for the thread, at most `timeout` seconds, then close the source, which wakes a read that still
        waits."""
        self.stop()
        if self.is_alive():
            self.join(timeout)
        self.source.close()

    def _captured(self, frame: Frame) -> Captured:
        arrived_ns = time.monotonic_ns()
        reconnects = self.source.counts["reconnects"]
        after_gap, self._reconnects = reconnects > self._reconnects, reconnects
        return Captured(frame, self._prepare(frame), arrived_ns, time.monotonic_ns(), after_gap)

    def _put(self, item: Captured) -> None:
        with self._wake:
            while self.lossless and len(self._waiting) >= self.capacity and not self._halt:
                self._wake.wait()
            if len(self._waiting) >= self.capacity:
                self._waiting.popleft()
            self._waiting.append(item)
            self._wake.notify_all()
