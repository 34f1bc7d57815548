"""The thread and the bounded queue between a source and the reader of its frames.

A camera has its capture from the moment it is opened, and `read` takes from its queue; a node takes the capture over
with `begin`. The node makes one for other sources. Frames are dropped here and nowhere else: if the queue is full, if
`limit` says so, or if they are too old. A real-time recording that is read too late skips to the frame that is due.
The next frame tells how many were dropped before it (`behind`), and the source counts them as `dropped`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from streamtok.event_log import EventLog
from streamtok.io.base import EndOfSource, RecordedSource, Source
from streamtok.types import Frame, Prepared

log = logging.getLogger("streamtok.ingest")

QUEUE = 8  # frames that wait for a `read`
OLD_NS = 1_000_000_000  # younger frames are never too old
UNKNOWN_FPS = 30.0  # assumed if the source gives no rate


@dataclass(frozen=True)
class Captured:
    """A frame in the queue, `prepared` for the network if a node asked for that; times are monotonic ns.

    `after_gap`: the source had been lost before it. `behind`: how many frames were dropped just before it.
    """

    frame: Frame
    prepared: Prepared | None
    arrived_ns: int
    ready_ns: int
    after_gap: bool = False
    behind: int = 0


class Capture(threading.Thread):
    """Feeds a bounded queue from one source until the source ends or `stop` is called.

    A full queue blocks a lossless stream (back-pressure). Any other stream drops its oldest frame, which the encoder
    sees as a gap in `frame_id`. `age_ns` is the age of the last frame that `pop` looked at. `end_reason` says why no
    more frames come; `error` is the exception that the source failed with, or None.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(name=f"capture-{source.stream}", daemon=True)
        self.source, self.stream = source, source.stream
        self.error: Exception | None = None
        self.end_reason = ""
        self.ended = False
        self.age_ns = 0
        self._new: deque[Captured] = deque()  # the newer part of the queue: not yet returned by `arrivals`
        self._held: deque[Captured] = deque()  # the older part: returned by `arrivals`, waiting for `pop`
        self._changed = threading.Condition()
        self._capacity, self._lossless = QUEUE, False
        self._prepare: Callable[[Frame], Prepared] | None = None
        self._wake = threading.Event()
        self._halted_at: float | None = None
        self._reconnects = 0
        self._late_ns: int | None = 0  # arrival minus capture time of the last frame; None after a skip
        self._last_id = -1
        self._unreported = 0  # frames dropped as too old that no later frame has reported yet
        self._gap_unreported = False
        self._log = EventLog(self.stream, log)

    def begin(
        self, prepare: Callable[[Frame], Prepared], *, capacity: int, lossless: bool, wake: threading.Event
    ) -> None:
        """Deliver to a node from now on, beginning with the newest waiting frame.

        Frames are prepared on this thread, and count against the source's `max_frames`. At most `capacity` frames wait
        for `arrivals`. `wake` is set at every frame and at the end.
        """
        with self._changed:
            self._drop_oldest(self._new, len(self._new) - 1)
            self._new = deque(replace(item, behind=0) for item in self._new)  # the first one has no gap before it
            self.source.counts["frames"] += len(self._new)
            self._capacity, self._lossless, self._wake = capacity, lossless, wake
            self._prepare = prepare
        if not self.is_alive() and not self.ended:
            self.start()

    def run(self) -> None:
        try:
            while self._halted_at is None:
                if self._prepare is not None:
                    self.source.check_limit()
                frame = self._grab()
                if frame is not None:
                    self._put(frame)
        except EndOfSource as end:
            log.info("stream=%s event=end reason=%r", self.stream, str(end))
            self.end_reason = str(end)
            if self._prepare is not None:
                self.source.mark_ended(str(end))
        except Exception as error:
            # The other cameras go on; the node reports this failure, also in its exit status.
            log.error("stream=%s event=failed error=%r", self.stream, error)
            self.error = error
        finally:
            self.source.release()
            with self._changed:
                self.ended = True
                self._changed.notify_all()
            self._log.finish()
            self._wake.set()

    def arrivals(self) -> list[Captured]:
        """The frames that have come since the last call, oldest first; they stay queued for `pop`."""
        with self._changed:
            arrived = list(self._new)
            self._held += arrived
            self._new.clear()
            self._changed.notify_all()
        return arrived

    def limit(self, room_for: Callable[[int], int]) -> None:
        """Drop the oldest frames that wait for `pop`, so that at most `room_for(waiting)` of them remain."""
        with self._changed:
            self._drop_oldest(self._held, len(self._held) - room_for(len(self._held)))

    def pop(self, steps_ns: int = 0) -> Captured | None:
        """Take the oldest frame that `arrivals` has returned; None if there is none.

        Unless the stream is lossless, frames are dropped that are too old. `steps_ns` is how long a frame may
        legitimately wait for the encoder; one much older came late, or this process was suspended.
        """
        while self._held:
            item = self._held.popleft()
            behind, after_gap = item.behind + self._unreported, item.after_gap or self._gap_unreported
            if not self.is_too_old(item, steps_ns):
                self._unreported, self._gap_unreported = 0, False
                return replace(item, behind=behind, after_gap=after_gap)
            self._unreported, self._gap_unreported = behind + 1, after_gap
            self.source.counts["dropped"] += 1
        return None

    def is_too_old(self, item: Captured, steps_ns: int) -> bool:
        """Whether a frame is too old for a stream that is not lossless; see `pop`."""
        self.age_ns = time.monotonic_ns() - (item.frame.capture_ns if self.source.own_clock else item.arrived_ns)
        return not self._lossless and self.age_ns > max(OLD_NS, 2 * self._most_late_ns) + steps_ns

    def wait(self, timeout: float | None) -> Frame | None:
        """Take the oldest frame, after at most `timeout` seconds; None if none came."""
        with self._changed:
            self._changed.wait_for(lambda: self._new or self.ended or self._halted_at is not None, timeout)
            return self._new.popleft().frame if self._new else None

    @property
    def depth(self) -> int:
        """The number of waiting frames."""
        return len(self._held) + len(self._new)

    @property
    def held(self) -> int:
        """The number of waiting frames that `arrivals` has returned."""
        return len(self._held)

    @property
    def finished(self) -> bool:
        """Whether nothing waits and nothing will come."""
        return self.ended and not self.depth

    def stop(self) -> None:
        """Ask the thread to end, without waiting."""
        self._halted_at = self._halted_at or time.monotonic()
        with self._changed:
            self._changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Stop, and wait for the thread until `timeout` seconds after the first `stop`; False if it still runs."""
        self.stop()
        if self.is_alive():
            self.join(max(0.0, (self._halted_at or 0.0) + timeout - time.monotonic()))
        return not self.is_alive()

    @property
    def _most_late_ns(self) -> int:
        """The time in which an empty queue fills up."""
        return round(self._capacity * 1e9 / (self.source.fps or UNKNOWN_FPS))

    def _grab(self) -> Frame | None:
        """The next frame; for a real-time recording that is read too late, the one that is due now."""
        source, may_skip = self.source, self._prepare is not None and not self._lossless
        late = self._late_ns is not None and self._late_ns > self._most_late_ns
        if may_skip and late and isinstance(source, RecordedSource) and source.realtime:
            source.skip_to(time.monotonic_ns())
            self._late_ns = None
        return source.grab()

    def _put(self, frame: Frame) -> None:
        item = self._to_captured(frame)
        if item is None:
            return
        with self._changed:
            while self._lossless and len(self._new) >= self._capacity and self._halted_at is None:
                self._changed.wait()
            self._new.append(item)
            self._drop_oldest(self._new, len(self._new) - self._capacity)
            self.source.counts["frames"] += (1 + item.behind) * (self._prepare is not None)
            self.source.counts["dropped"] += item.behind
            self._changed.notify_all()
        self._wake.set()

    def _to_captured(self, frame: Frame) -> Captured | None:
        """Prepare the frame; None for a live frame of a size that cannot be encoded, which counts as damaged."""
        arrived_ns = time.monotonic_ns()
        try:
            prepared = None if self._prepare is None else self._prepare(frame)
        except ValueError as error:
            if not self.source.live:
                raise
            self.source.counts["damaged"] += 1
            self._log.add(arrived_ns, "damaged", {"frames": 1}, reason=repr(str(error)))
            return None
        reconnects = self.source.counts["reconnects"]
        after_gap, self._reconnects = reconnects > self._reconnects, reconnects
        behind = frame.frame_id - self._last_id - 1 if self._late_ns is None else 0  # frames that were skipped
        self._late_ns, self._last_id = arrived_ns - frame.capture_ns, frame.frame_id
        return Captured(frame, prepared, arrived_ns, time.monotonic_ns(), after_gap, behind)

    def _drop_oldest(self, frames: deque[Captured], count: int) -> None:
        """Drop the `count` oldest of `frames`, fewer than all; the next one's `behind` and `after_gap` tell of it."""
        if count <= 0:
            return
        left_out = [frames.popleft() for _ in range(count)]
        behind = sum(item.behind for item in left_out) + count
        after_gap = any(item.after_gap for item in left_out)
        frames[0] = replace(frames[0], behind=frames[0].behind + behind, after_gap=after_gap or frames[0].after_gap)
        self.source.counts["dropped"] += count
