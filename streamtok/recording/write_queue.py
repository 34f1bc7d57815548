"""The queue of a recording's writer: bounded in bytes and messages, it counts what it drops."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from streamtok.event_log import EventLog
from streamtok.recording.format import Missed
from streamtok.recording.writer import RecordingWriter

log = logging.getLogger("streamtok.record")

WAITING_BYTES = 16 << 20  # enough for a source that waits; a shorter backlog also ends sooner
TOKEN_ROOM = 4096  # messages; tokens are small and never dropped in favour of frames


class WriteJob(NamedTuple):
    """Something to write: the stream and kind that it is counted under, its size in bytes, and the writing."""

    stream: str
    kind: str
    size: int
    write: Callable[[RecordingWriter], None]


class WriteQueue:
    """The jobs between the threads that record and the one that writes; all methods are thread-safe.

    Frames have room for `room_bytes`. A job without room is dropped and counted, or with `wait` blocks its thread until
    there is some. `counts["missed"]` and `missed_by_stream` count what is not in the file.
    """

    def __init__(self, room_bytes: int, wait: bool, counts: Counter[str]) -> None:
        self.missed_by_stream: Counter[str] = Counter()
        self._room_bytes = min(room_bytes, WAITING_BYTES) if wait else room_bytes
        self._wait, self._counts = wait, counts
        self._jobs: deque[WriteJob] = deque()
        self._bytes = self._tokens = 0  # bytes of waiting frames, number of other waiting jobs
        self._missed: Counter[tuple[str, str, str]] = Counter()
        self._logs: dict[tuple[str, str, str], EventLog] = {}
        self._changed = threading.Condition()
        self._closing = self._failed = False

    @property
    def waiting(self) -> int:
        """The number of waiting jobs."""
        return len(self._jobs)

    @property
    def finished(self) -> bool:
        return self._closing and not self._jobs

    def put(self, job: WriteJob) -> None:
        """Add a job; if there is no room, or the queue is closed, it is only counted."""
        with self._changed:
            while self._wait and not self._fits(job) and not self._closing:
                self._changed.wait()
            if self._closing or not self._fits(job):
                self._miss(job.stream, job.kind, 1, "disk" if self._failed else "queue")
                return
            self._jobs.append(job)
            self._bytes += job.size
            self._tokens += job.size == 0
            self._changed.notify_all()

    def take(self, due: float) -> WriteJob | None:
        """The oldest job; None if there is none until the monotonic time `due`, or the queue is closed and empty."""
        with self._changed:
            if not self._jobs and not self._closing:
                self._changed.wait(max(0.0, due - time.monotonic()))
            if not self._jobs:
                return None
            job = self._jobs.popleft()
            self._bytes -= job.size
            self._tokens -= job.size == 0
            self._changed.notify_all()
            return job

    def miss(self, stream: str, kind: str, count: int, reason: str = "network") -> None:
        """Count "tokens" or "frames" that are not in the file; by default they were lost on the network."""
        with self._changed:
            self._miss(stream, kind, count, reason)

    def write_missed(self, writer: RecordingWriter) -> None:
        """Write what was missed since the last call to the file."""
        with self._changed:
            missed, self._missed = self._missed, Counter()
        for (stream, kind, reason), count in missed.items():
            writer.write_missed(Missed(stream, kind, count, reason))

    def close(self) -> None:
        """Accept no more jobs; those that wait can still be taken."""
        with self._changed:
            self._closing = True
            for events in self._logs.values():
                events.finish()
            self._changed.notify_all()

    def fail(self) -> None:
        """Accept no more jobs, and count those that wait as missed: the disk has failed."""
        with self._changed:
            self._failed = True
            for job in self._jobs:
                self._miss(job.stream, job.kind, 1, "disk")
            self._jobs.clear()
            self._bytes = self._tokens = 0
            self.close()

    def _fits(self, job: WriteJob) -> bool:
        if job.size == 0:
            return job.kind == "info" or self._tokens < TOKEN_ROOM
        return self._bytes == 0 or self._bytes + job.size <= self._room_bytes

    def _miss(self, stream: str, kind: str, count: int, reason: str) -> None:
        if kind == "info" or not count:
            return
        events = self._logs.setdefault((stream, kind, reason), EventLog(stream, log))
        events.add(time.monotonic_ns(), "missed", {"messages": count}, kind=kind, reason=reason)
        self._missed[stream, kind, reason] += count
        self._counts["missed"] += count
        self.missed_by_stream[stream] += count
