"""The one thread and the one queue between a source and whoever takes its frames.

A camera has its capture from the moment it is opened, and `read` takes from its queue; a node takes the capture over
with `begin`. Other sources get one from the node. A frame that a camera took is left out here, in `_leave_out`, or
nowhere: the frame behind it says how many are missing (`behind`), and the source counts them as `dropped`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from streamtok.io.base import EndOfSource, Source
from streamtok.types import Frame, Prepared

log = logging.getLogger("streamtok.ingest")

QUEUE = 8  # frames that wait for a `read`


@dataclass(frozen=True)
class Captured:
    """A frame as it was taken: `prepared` for the network if a node asked for that; times are monotonic ns.

    `after_gap` says that the source had been lost, `behind` how many frames were left out just before this one.
    """

    frame: Frame
    prepared: Prepared | None
    arrived_ns: int
    ready_ns: int
    after_gap: bool = False
    behind: int = 0


class Capture(threading.Thread):
    """Feeds a bounded queue from one source until the source ends or `stop` is called.

    A full queue makes a lossless stream wait and any other leave out its oldest frame, which the encoder then sees as
    a gap in `frame_id`. `end_reason` says why nothing more will come; `error` holds what the source failed with, if it
    did.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(name=f"capture-{source.stream}", daemon=True)
        self.source, self.stream = source, source.stream
        self.error: Exception | None = None
        self.end_reason = ""
        self.ended = False
        self._new: deque[Captured] = deque()  # the newer part of the queue: what `arrivals` has not returned yet
        self._held: deque[Captured] = deque()  # the older part
        self._changed = threading.Condition()
        self._capacity, self._lossless = QUEUE, False
        self._prepare: Callable[[Frame], Prepared] | None = None
        self._wake = threading.Event()
        self._halted_at: float | None = None
        self._reconnects = 0

    def begin(
        self, prepare: Callable[[Frame], Prepared], *, capacity: int, lossless: bool, wake: threading.Event
    ) -> None:
        """Deliver to a node from now on, beginning with the newest frame that waits.

        Frames are prepared on this thread, and count against the source's `max_frames`. At most `capacity` of them
        wait to be seen. `wake` is set at every frame and at the end.
        """
        with self._changed:
            self._leave_out(self._new, len(self._new) - 1)
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
                frame = self.source.grab()
                if frame is not None:
                    self._put(frame)
        except EndOfSource as end:
            log.info("stream=%s event=end reason=%r", self.stream, end.reason)
            self.end_reason = end.reason
            if self._prepare is not None:
                self.source.mark_ended(end.reason)
        except Exception as error:
            # The other cameras go on; the node reports this one and its exit status tells.
            log.error("stream=%s event=failed error=%r", self.stream, error)
            self.error = error
        finally:
            self.source.release()
            with self._changed:
                self.ended = True
                self._changed.notify_all()
            self._wake.set()

    def arrivals(self) -> list[Captured]:
        """The frames that have come since the last call, oldest first; they wait on, for `pop`."""
        with self._changed:
            arrived = list(self._new)
            self._held += arrived
            self._new.clear()
            self._changed.notify_all()
        return arrived

    def limit(self, room_for: Callable[[int], int]) -> None:
        """Leave out the oldest of the frames that `pop` would give, where `room_for` says to keep fewer than wait."""
        with self._changed:
            self._leave_out(self._held, len(self._held) - room_for(len(self._held)))

    def pop(self) -> Captured | None:
        """Take the oldest frame that `arrivals` has returned; None if there is none."""
        return self._held.popleft() if self._held else None

    def wait(self, timeout: float | None) -> Frame | None:
        """Take the oldest frame, waiting for it at most `timeout` seconds; None if none came."""
        with self._changed:
            self._changed.wait_for(lambda: self._new or self.ended or self._halted_at is not None, timeout)
            return self._new.popleft().frame if self._new else None

    def keep_newest(self) -> None:
        """Leave out all frames that wait, but for the newest."""
        with self._changed:
            self._leave_out(self._new, len(self._new) - 1)

    @property
    def depth(self) -> int:
        """Frames that wait."""
        return len(self._held) + len(self._new)

    @property
    def held(self) -> int:
        """Frames that wait and that `arrivals` has returned."""
        return len(self._held)

    @property
    def finished(self) -> bool:
        """Nothing waits and nothing will come."""
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

    def _put(self, frame: Frame) -> None:
        item = self._to_captured(frame)
        with self._changed:
            while self._lossless and len(self._new) >= self._capacity and self._halted_at is None:
                self._changed.wait()
            self._new.append(item)
            self._leave_out(self._new, len(self._new) - self._capacity)
            self.source.counts["frames"] += self._prepare is not None
            self._changed.notify_all()
        self._wake.set()

    def _to_captured(self, frame: Frame) -> Captured:
        arrived_ns = time.monotonic_ns()
        reconnects = self.source.counts["reconnects"]
        after_gap, self._reconnects = reconnects > self._reconnects, reconnects
        prepared = None if self._prepare is None else self._prepare(frame)
        return Captured(frame, prepared, arrived_ns, time.monotonic_ns(), after_gap)

    def _leave_out(self, frames: deque[Captured], count: int) -> None:
        """Leave out the `count` oldest of some frames, but never all; the one behind them tells of it."""
        if count <= 0:
            return
        left_out = [frames.popleft() for _ in range(count)]
        behind = sum(item.behind for item in left_out) + count
        after_gap = any(item.after_gap for item in left_out)
        frames[0] = replace(frames[0], behind=frames[0].behind + behind, after_gap=after_gap or frames[0].after_gap)
        self.source.counts["dropped"] += count
