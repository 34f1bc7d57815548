"""Keyframe requests that hold nobody up, in a thread of their own, since a node may not answer."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from streamtok.event_log import EventLog
from streamtok.wire.control import ControlError
from streamtok.wire.subscriber import Subscription

log = logging.getLogger("streamtok.wire")
TIMEOUT_S = 0.5  # of one request


@dataclass
class KeyframeRequests:
    """Requests keyframes of a subscription's streams, one after another; `failed` counts what was not granted."""

    subscription: Subscription[Any]
    failed: int = 0
    _asked: set[str] = field(default_factory=set)  # streams whose keyframe was not requested yet
    _asking: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _log: EventLog = field(default_factory=lambda: EventLog("keyframe", log, "socket"))

    def ask(self, streams: Iterable[str]) -> None:
        """Request a keyframe of each stream, without waiting; those that are asked for already are asked for once."""
        with self._lock:
            self._asked.update(streams)
            if self._asked and not self._asking:
                self._asking = True
                threading.Thread(target=self._run, name="keyframes", daemon=True).start()

    def finish_log(self) -> None:
        """Log the failures that were not logged yet."""
        self._log.finish()

    def _run(self) -> None:
        while (stream := self._take()) is not None:
            try:
                self.subscription.request_keyframe(stream, TIMEOUT_S)
            except (ControlError, OSError, ValueError) as error:  # `control` may be anything
                self._log.add(time.monotonic_ns(), "keyframe_failed", {"requests": 1}, stream=stream, error=error)
                self.failed += 1

    def _take(self) -> str | None:
        with self._lock:
            self._asking = bool(self._asked)
            return self._asked.pop() if self._asked else None
