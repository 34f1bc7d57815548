"""Rate-limited logging of events that may happen many times a second."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EVERY_NS = 10_000_000_000


@dataclass(eq=False)
class EventLog:
    """Logs the events of one source (a stream or a socket), at most one line in 10 s for each kind of event.

    The first event of a kind is logged at once. Later ones are summed up in the next line, with the newest's facts.
    `finish` logs what is left. `stream` is the source's name, and `label` the key under which lines give it.
    """

    stream: str
    logger: logging.Logger
    label: str = "stream"
    _waiting: dict[str, tuple[Counter, int, Mapping[str, Any]]] = field(default_factory=dict)
    _logged_ns: dict[str, int] = field(default_factory=dict)

    def add(
        self, now_ns: int, event: str, counts: Mapping[str, int], level: int = logging.WARNING, **facts: Any
    ) -> None:
        """Log an event now, or add its `counts` to the next line of its kind."""
        sums = self._waiting[event][0] if event in self._waiting else Counter()
        sums.update(counts)
        self._waiting[event] = sums, level, facts
        if event not in self._logged_ns or now_ns - self._logged_ns[event] >= EVERY_NS:
            self._logged_ns[event] = now_ns
            self._write(event)

    def finish(self) -> None:
        """Log the events that still wait, when the source ends."""
        for event in list(self._waiting):
            self._write(event)

    def _write(self, event: str) -> None:
        sums, level, facts = self._waiting.pop(event)
        values = {self.label: self.stream, "event": event, **sums, **facts}
        self.logger.log(level, " ".join(f"{name}=%s" for name in values), *values.values())
