"""What a reader knows of one stream's continuity: what to believe, what was lost, and whether a decoder can go on.

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

    `counts` has messages, keyframes, lost, sessions, undecodable (without the keyframe before them, or after a loss)
    and stale (repeated, or of a session that has been replaced).
    """

    session: str | None = None
    last: int | None = None
    base: int | None = None
    epoch: int = -1
    decodable: bool = False
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SESSIONS))
    counts: Counter = field(default_factory=Counter)

    def take_message(self, header: TokenHeader) -> Continuity | None:
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
        return Continuity(lost, self.decodable)

    def has(self, header: TokenHeader) -> bool:
        """Whether a message, or one behind it, has come already."""
        return header.session == self.session and self.last is not None and header.seq <= self.last

    def take_info(self, info: Info) -> int:
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
        self.begin(session)
        return True

    def begin(self, session: str) -> None:
        """Forget what was known, and follow `session` from its next message on, also one that was replaced."""
        if session != self.session:
            self.counts["sessions"] += 1
            if self.session is not None:
                self.retired.append(self.session)
        self.session, self.last, self.base, self.epoch, self.decodable = session, None, None, -1, False

    def _expected(self, header: TokenHeader) -> int:
        if self.last is not None:
            return self.last + 1
        return header.seq if self.base is None else self.base + 1


@dataclass
class Endings:
    """Which streams have ended. One info that says so is believed once its node has gone, or says it again."""

    _said: Counter[str] = field(default_factory=Counter)

    def note(self, stream: str, ended: bool) -> None:
        """Take what a message or info of a stream says."""
        self._said[stream] = self._said[stream] + 1 if ended else 0

    def has_ended(self, stream: str, connected: bool) -> bool:
        """Whether a stream has ended; `connected` while its node may still say that it goes on."""
        return self._said[stream] > int(connected)


@dataclass(frozen=True, slots=True)
class Claim(Generic[Item]):
    """What one message says of its stream: the newest `seq` sent before it and with it (the same for an info).

    `epoch` is that of the newest, None if it does not say; only a keyframe `begins` one. `doubted` is set while it is
    held: another one has contradicted it. `anew` is set when it is passed on. Then what was known of the stream no
    longer holds: another session has begun, or the numbers before it were wrong. `came` is a monotonic time.
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
    """Stands before a tracker, so that one message with a wrong `session`, `seq` or `epoch` costs no more than itself.

    What continues the stream passes at once. What would move it (a jump, another session, another epoch without a
    keyframe) is held until the next message or info bears it out. It is dropped when others continue the stream
    instead, for a connection keeps the order of sending. Against a jump two have to, for one of them may be the wrong
    one. The first message of a connection is believed, for it has nothing to contradict. With `any_session` what is
    held of another session is taken, too, when nothing follows.
    """

    any_session: bool = False
    session: str | None = None
    last: int = -1
    epoch: int | None = None
    connected_anew: bool = True
    held: deque[Claim[Item]] = field(default_factory=lambda: deque(maxlen=HELD_CLAIMS))
    dropped: int = 0

    def take(self, claim: Claim[Item]) -> list[Claim[Item]]:
        """What is to be believed now, oldest first: nothing, this one, or one that was held and perhaps this one."""
        if self.connected_anew or self._continues(claim):
            if self.held:
                self._contradict()
            return [self._believe(claim)]
        witness = max((each for each in self.held if self._bears_out(claim, each)), key=_nearness, default=None)
        if witness is None:
            self.held.append(claim)
            return []
        self.held.remove(witness)
        believed = [self._believe(witness)]
        if self._continues(claim):
            return believed + self.take(claim)
        self.held.append(claim)
        return believed

    def settle(self, held_s: float = 0.0) -> list[Claim[Item]]:
        """What is held, for `held_s` at least, when nothing follows that would contradict it."""
        if not self.held or time.monotonic() - self.held[0].came < held_s:
            return []
        follows = [claim.session == self.session and claim.before >= self.last for claim in self.held]
        claims = [claim for claim, fits in zip(self.held, follows, strict=True) if fits or self.any_session]
        self.held.clear()
        return [self._believe(claim) for claim in claims[-1:]]

    def _contradict(self) -> None:
        """Drop what is held of other sessions, and of this one what has been contradicted before."""
        kept = [claim for claim in self.held if claim.session == self.session and not claim.doubted]
        self.dropped += len(self.held) - len(kept)
        self.held.clear()
        self.held.extend(replace(claim, doubted=True) for claim in kept)

    def _continues(self, claim: Claim[Item]) -> bool:
        """Whether it is the next message, the last one again, or an info of as many as have come."""
        goes_on = claim.begins or self.epoch is None or claim.epoch in (None, self.epoch)
        return claim.session == self.session and goes_on and self.last in (claim.before, claim.last)

    def _bears_out(self, claim: Claim[Item], held: Claim[Item]) -> bool:
        """Whether `claim` may follow `held`; a jump ahead says nothing for one that went back."""
        went_back = held.session == self.session and held.before < self.last <= claim.before
        return claim.session == held.session and claim.before >= held.last and not went_back

    def _believe(self, claim: Claim[Item]) -> Claim[Item]:
        anew = claim.session != self.session or claim.last < self.last
        if claim.session != self.session or claim.epoch is not None:
            self.epoch = claim.epoch
        self.session, self.last, self.connected_anew = claim.session, claim.last, False
        return replace(claim, anew=True) if anew else claim


def _nearness(claim: Claim[Item]) -> tuple[int, int]:
    """The newest first, and of those the message rather than the info."""
    return claim.last, -claim.before
