"""What a reader knows of one stream's continuity: what was lost, and whether a decoder can go on. No sockets."""

from collections import Counter, deque
from dataclasses import dataclass, field

from streamtok.wire.message import Info, TokenHeader

REMEMBERED_SESSIONS = 8


@dataclass(frozen=True)
class Verdict:
    """`lost` messages are missing just before this one; `decodable` unless a keyframe has to come first."""

    lost: int
    decodable: bool


@dataclass
class StreamTracker:
    """Follows `seq` through one stream; a jump is loss, a new session is not.

    `counts` has messages, keyframes, undecodable (without the keyframe before them, or after a loss), lost, sessions
    and stale (repeated, or of a session that has been replaced).
    """

    session: str | None = None
    last: int | None = None
    base: int | None = None
    epoch: int = -1
    decodable: bool = False
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SESSIONS))
    counts: Counter = field(default_factory=Counter)

    def message(self, header: TokenHeader) -> Verdict | None:
        """Take the next message; None if it is stale and must be dropped."""
        self.enter(header.session)
        if header.session != self.session or (self.last is not None and header.seq <= self.last):
            self.counts["stale"] += 1
            return None
        lost = max(0, header.seq - self._expected(header))
        unbroken = self.decodable and lost == 0 and header.epoch == self.epoch
        self.decodable = header.keyframe or unbroken
        self.last, self.epoch = header.seq, header.epoch
        self.counts["messages"] += 1
        self.counts["keyframes"] += header.keyframe
        self.counts["undecodable"] += not self.decodable
        self.counts["lost"] += lost
        return Verdict(lost, self.decodable)

    def info(self, info: Info) -> int:
        """Take an info message; returns how many messages were lost although nothing has followed them."""
        self.enter(info.session)
        if info.session != self.session:
            return 0
        if self.last is None and self.base is None:
            self.base = info.last_seq
        seen = self.base if self.last is None else self.last
        lost = 0 if seen is None else max(0, info.last_seq - seen)
        if lost:
            self.decodable = False
            self.counts["lost"] += lost
            self.base = self.last = info.last_seq
        return lost

    def enter(self, session: str) -> bool:
        """Begin `session` unless it is the current one or one that was replaced; True if it has begun now."""
        if session == self.session or session in self.retired:
            return False
        if self.session is not None:
            self.retired.append(self.session)
        self.session, self.last, self.base, self.epoch, self.decodable = session, None, None, -1, False
        self.counts["sessions"] += 1
        return True

    def _expected(self, header: TokenHeader) -> int:
        if self.last is not None:
            return self.last + 1
        return header.seq if self.base is None else self.base + 1
