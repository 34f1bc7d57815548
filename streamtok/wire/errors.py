"""Errors of the wire protocol, and the counting of malformed input."""

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from streamtok.event_log import EventLog

log = logging.getLogger("streamtok.wire")


class WireError(ValueError):
    """A message does not follow the protocol; `kind` is the part at fault, one of a few fixed words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ReaderTooSlow(TimeoutError):
    """Lossless publishing timed out waiting for a slow reader, or was stopped while waiting."""


@dataclass
class Rejects:
    """Counts malformed messages by `socket.kind`: few keys, so a flood fills neither memory nor log. Thread-safe."""

    counts: Counter = field(default_factory=Counter)
    _logs: dict[str, EventLog] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, socket: str, error: WireError) -> None:
        """Count one; each kind on each socket is logged at most once in 10 s, with the number since."""
        key = f"{socket}.{error.kind}"
        with self._lock:
            self.counts[key] += 1
            events = self._logs.setdefault(key, EventLog(socket, log, "socket"))
            events.add(time.monotonic_ns(), "malformed", {"messages": 1}, kind=error.kind, error=repr(str(error)))

    def finish_logs(self) -> None:
        """Log the counts that still wait for their next line."""
        with self._lock:
            for events in self._logs.values():
                events.finish()
