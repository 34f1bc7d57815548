"""Input that does not follow the protocol: its error, and how it is counted."""

import logging
from collections import Counter
from dataclasses import dataclass, field

log = logging.getLogger("streamtok.wire")


class WireError(ValueError):
    """A message that does not follow the protocol; `kind` is the part at fault, one of a fixed few words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


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
