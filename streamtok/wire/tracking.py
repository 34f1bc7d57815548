"""A reader's view of a stream's continuity: what to believe, what was lost, and whether a decoder can go on.

No sockets.
"""

import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from streamtok.wire.message import Info, TokenHeader

REMEMBERED_SESSIONS = 8
HELD_CLAIMS = 4
Item = TypeVar("Item")


@dataclass(frozen=True)
class Continuity:
    """`lost` messages are missing just before this one; `decodable` unless a keyframe has to come first."""

    lost: int
    decodable: bool


@dataclass
class StreamTracker:
    """Follows `seq` through one stream; a jump is loss, a new session is not.

    `counts` has messages, keyframes, lost, sessions, undecodable (without the keyframe before them, or after a loss).
    Its stale ones were repeated, or are of a session that has been replaced. Messages up to `fetched` have come with
    their epoch, so that they are dropped, but are not stale, if they come again.
    """

    session: str | None = None
    last: int | None = None
    base: int | None = None
    fetched: int = -1
    epoch: int = -1
    decodable: bool = False
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SESSIONS))
    counts: Counter = field(default_factory=Counter)

    def take_message(self, header: TokenHeader) -> Continuity | None:
        """Take the next message; None if it must be dropped."""
        self.enter(header.session)
        if header.session != self.session or (self.last is not None and header.seq <= self.last):
            self.counts["stale"] += header.session != self.session or header.seq > self.fetched
            return None
        lost = max(0, header.seq - self._expected(header))
        unbroken = self.decodable and lost == 0 and header.epoch == self.epoch
        self.decodable = header.keyframe or unbroken
        self.last, self.epoch = header.seq, header.epoch
        self.counts["messages"] += 1
        self.counts["keyframes"] += header.keyframe
        self.counts["undecodable"] += not self.decodable
        self.counts["lost"] += lost
        return Continuity(lost, self.decodable)

    def take_info(self, info: Info) -> int:
        """Take an info message; returns how many messages it shows to be lost that no later message has shown."""
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

    def enter(self, session: str) -> None:
        """Begin `session` unless it is the current one or a replaced one."""
        if session != self.session and session not in self.retired:
            self.begin(session)

    def begin(self, session: str) -> None:
        """Reset, and follow `session` from its next message on, even if it was replaced before."""
        if session != self.session:
            self.counts["sessions"] += 1
            if self.session is not None:
                self.retired.append(self.session)
        self.session, self.last, self.base, self.fetched = session, None, None, -1
        self.epoch, self.decodable = -1, False

    def _expected(self, header: TokenHeader) -> int:
        if self.last is not None:
            return self.last + 1
        return header.seq if self.base is None else self.base + 1


@dataclass(frozen=True, slots=True)
class Claim(Generic[Item]):
    """What one message claims about its stream: the newest `seq` before it, and the newest with it (equal for an info).

    `epoch` is that of the newest message, None if unknown; only a keyframe `begins` one. `doubted` is set on a held
    claim that another one has contradicted. `anew` is set on a believed claim if the stream restarts with it: another
    session has begun, or earlier numbers were wrong. `came` is a monotonic time (s).
    """

    session: str
    before: int
    last: int
    item: Item
    epoch: int | None = None
    begins: bool = False
    anew: bool = False
    doubted: bool = False
    came: float = field(default_factory=time.monotonic)


@dataclass
class Believer(Generic[Item]):
    """Filters claims before a tracker, so that a message with a wrong `session`, `seq` or `epoch` costs only itself.

    A claim that continues the stream passes at once. One that would move it (a jump, another session, another epoch
    without a keyframe) is held until the next message or info confirms it. It is dropped if others continue the stream
    instead, since a connection preserves the order of sending; a jump only if two do, since one of them may be wrong.
    The first claim of a connection is believed, as it contradicts nothing. With `any_session`, `settle` also takes held
    claims of another session.
    """

    any_session: bool = False
    session: str | None = None
    last: int = -1
    epoch: int | None = None
    connected_anew: bool = True
    held: deque[Claim[Item]] = field(default_factory=lambda: deque(maxlen=HELD_CLAIMS))
    dropped: int = 0

    def take(self, claim: Claim[Item]) -> list[Claim[Item]]:
        """Take a claim; returns those to believe now, oldest first: none, this one, a held one, or both."""
        if self.connected_anew or self._continues(claim):
            if self.held:
                self._contradict()
            return [self._believe(claim)]
        confirmed = max((held for held in self.held if self._bears_out(claim, held)), key=_nearness, default=None)
        if confirmed is None:
            self.held.append(claim)
            return []
        self.held.remove(confirmed)
        believed = [self._believe(confirmed)]
        if self._continues(claim):
            return believed + self.take(claim)
        self.held.append(claim)
        return believed

    def settle(self, held_s: float = 0.0) -> list[Claim[Item]]:
        """Believe the newest held claim that fits, once the oldest was held for `held_s`; drop the others."""
        if not self.held or time.monotonic() - self.held[0].came < held_s:
            return []
        follows = [claim.session == self.session and claim.before >= self.last for claim in self.held]
        claims = [claim for claim, fits in zip(self.held, follows, strict=True) if fits or self.any_session]
        self.held.clear()
        return [self._believe(claim) for claim in claims[-1:]]

    def _contradict(self) -> None:
        """Mark held claims as doubted; drop those of other sessions, and those that were doubted before."""
        kept = [claim for claim in self.held if claim.session == self.session and not claim.doubted]
        self.dropped += len(self.held) - len(kept)
        self.held.clear()
        self.held.extend(replace(claim, doubted=True) for claim in kept)

    def _continues(self, claim: Claim[Item]) -> bool:
        """Whether a claim is the next message, a repetition of the last one, or an info that agrees with it."""
        goes_on = claim.begins or self.epoch is None or claim.epoch in (None, self.epoch)
        return claim.session == self.session and goes_on and self.last in (claim.before, claim.last)

    def _bears_out(self, claim: Claim[Item], held: Claim[Item]) -> bool:
        """Whether `claim` confirms `held` by following it; a jump ahead does not confirm a step back."""
        went_back = held.session == self.session and held.before < self.last <= claim.before
        return claim.session == held.session and claim.before >= held.last and not went_back

    def _believe(self, claim: Claim[Item]) -> Claim[Item]:
        anew = claim.session != self.session or claim.last < self.last
        if claim.session != self.session or claim.epoch is not None:
            self.epoch = claim.epoch
        self.session, self.last, self.connected_anew = claim.session, claim.last, False
        return replace(claim, anew=True) if anew else claim


def _nearness(claim: Claim[Item]) -> tuple[int, int]:
    """Sort key: the newest claim is largest, and of equals a message rather than an info."""
    return claim.last, -claim.before
