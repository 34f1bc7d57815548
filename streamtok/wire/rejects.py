"""Counts input that does not follow the protocol, and logs the first of each kind only."""

import logging
from collections import Counter
from dataclasses import dataclass, field

from streamtok.wire.errors import WireError

log = logging.getLogger("streamtok.wire")


@dataclass
class Rejects:
    """Malformed messages by `socket.kind`; the kinds are few, so a flood fills neither memory nor the log."""

    counts: Counter = field(default_factory=Counter)

    def add(self, socket: str, error: WireError) -> None:
        """Count one; log it if it is the first of its kind on this socket."""
        key = f"{socket}.{error.kind}"
        self.counts[key] += 1
        if self.counts[key] == 1:
            log.warning("event=malformed socket=%s kind=%s error=%r later=counted", socket, error.kind, str(error))

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())
