"""Input that does not follow the protocol: its error, and how it is counted."""

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from streamtok.event_log import EventLog

log = logging.getLogger("streamtok.wire")


class WireError(ValueError):
    """A message that does not follow the protocol; `kind` is the part at fault, one of a fixed few words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ReaderTooSlow(TimeoutError):
    """Lossless publishing waited its full time for room, or was stopped while waiting."""


@dataclass
class Rejects:
    """Malformed messages by `socket.kind`; the kinds are few, so a flood fills neither memory nor the log. Threads may
    share one."""

    counts: Counter = field(default_factory=Counter)
    _logs: dict[str, EventLog] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, socket: str, error: WireError) -> None:
        """Count one; of each kind on each socket one line is logged in 10 s, with how many there were."""
        key = f"{socket}.{error.kind}"
        with self._lock:
            self.counts[key] += 1
            events = self._logs.setdefault(key, EventLog(socket, log, "socket"))
            events.add(time.monotonic_ns(), "malformed", {"messages": 1}, kind=error.kind, error=repr(str(error)))

    def finish_logs(self) -> None:
        """Log those that were only summed up so far."""
        with self._lock:
            for events in self._logs.values():
                events.finish()
