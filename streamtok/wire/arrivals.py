"""What a reader makes of a publisher's messages: which to believe, in what order they come out, what was lost.

No thread and no socket; `drain` has both.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

from streamtok.wire.coded import GridReader
from streamtok.wire.errors import Rejects, WireError
from streamtok.wire.header import Info, Limits
from streamtok.wire.joining import Joiner
from streamtok.wire.mailbox import Mailbox
from streamtok.wire.message import FrameMessage, Part, TokenMessage, check_tokens, unpack_frame, unpack_info
from streamtok.wire.tracking import Believer, Claim, StreamTracker

QUIET_S = 0.5  # after which a held camera image is taken, since no info confirms images
BACK_S = 5.0  # how long after an outage a jump of `seq` is attributed to it
Kind = Literal["frames", "tokens", "info"]
# Subscribed in this order: frames before tokens, for which nodes wait to send; info last, to prove that all is there.
KINDS: tuple[Kind, ...] = ("frames", "tokens", "info")
Message = TokenMessage | Info | FrameMessage


@dataclass(eq=False)
class Arrivals:
    """Fills `mailbox` with every valid message of the streams and sessions that are read, in order and none twice.

    `Subscription` describes the options. `received` has the continuity and loss counts of each stream, `infos` its
    newest info. `waited` says whether the connection was down at some time: then a new session is read from the start
    of its epoch.
    """

    mailbox: Mailbox[TokenMessage | FrameMessage]
    joiner: Joiner
    _: KW_ONLY
    streams: frozenset[str] | None
    kinds: frozenset[Kind]
    join: Literal["keyframe", "epoch", "never"]
    limits: Limits
    max_streams: int
    grids: GridReader
    rejects: Rejects
    infos: dict[str, Info]
    received: dict[str, StreamTracker] = field(default_factory=dict)
    waited: bool = False

    def __post_init__(self) -> None:
        takers = {"frames": self._take_frame, "tokens": self._take_tokens, "info": self._take_info}
        self._takers = {kind.encode(): take for kind, take in takers.items() if kind in self.kinds}
        self._believers: dict[str, Believer[Message]] = {}
        self._shapes: dict[str, list[int]] = {}  # of each stream's newest grid
        self._back_until = 0.0
        self._ended: Counter[str] = Counter()  # infos in a row that say that a stream has ended
        self._info_changed = threading.Condition()

    def wait_for_info(self, stream: str, timeout: float) -> Info | None:
        """The newest info of a stream, after waiting for one for up to `timeout` seconds; None if none came."""
        with self._info_changed:
            self._info_changed.wait_for(lambda: stream in self.infos, timeout)
            return self.infos.get(stream)

    def take(self, parts: Sequence[Part]) -> None:
        """Check and dispatch one message; one that breaks the protocol is counted and dropped."""
        kind, _, name = bytes(parts[0][:80]).partition(b"/")
        take = self._takers.get(kind)
        if take is None or (self.streams is not None and name.decode("ascii", "replace") not in self.streams):
            return
        try:
            take(parts)
        except WireError as error:
            self.rejects.add("subscribe", error)

    def settle(self, kind: str = "", held_s: float = 0.0) -> None:
        """Believe what was held for `held_s` and is still possible; `kind` "frames/" is camera images only."""
        found = [believer for name, believer in self._believers.items() if name.startswith(kind)]
        for believed in [claim for believer in found for claim in believer.settle(held_s)]:
            self._believe(believed)

    def note_back(self) -> None:
        """Note the end of an outage: believe the next message of each stream, and ask for missed ones."""
        self._back_until = time.monotonic() + BACK_S
        for believer in self._believers.values():
            believer.connected_anew = True

    def deliver_joined(self) -> None:
        """Deliver fetched epochs and the live messages held back, which may be older, in order and once each."""
        for stream, messages in self.joiner.take_ready():
            for message in sorted(messages, key=lambda message: message.header.seq):
                self.received[stream].fetched = message.header.seq
                self._deliver(message, extra=True)

    def has_ended(self, connected: bool) -> bool:
        """Whether nothing more will come; while a node is `connected`, all named streams are waited for.

        It may then still contradict an info, so one that says that a stream has ended is believed if it is repeated.
        """
        names = self.infos.keys() if self.streams is None or not connected else self.streams
        ended = all(self._ended[name] > int(connected) for name in names)
        return bool(self.infos) and ended and not self.joiner.waiting

    def _take_frame(self, parts: Sequence[Part]) -> None:
        message = unpack_frame(parts, self.limits)
        self._weigh(Claim(message.header.session, message.header.seq - 1, message.header.seq, message))

    def _take_tokens(self, parts: Sequence[Part]) -> None:
        message = check_tokens(parts, self.limits, self._possible_shapes(parts))
        header = message.header
        self._weigh(Claim(header.session, header.seq - 1, header.seq, message, header.epoch, header.keyframe))
        self._ended[message.stream] = 0

    def _take_info(self, parts: Sequence[Part]) -> None:
        info = unpack_info(parts, self.limits)
        self._weigh(Claim(info.session, info.last_seq, info.last_seq, info, None if info.epoch < 0 else info.epoch))
        self._ended[info.stream] = self._ended[info.stream] + 1 if info.ended else 0
        if info.session == self._believers[info.stream].session:
            self._note_info(info)

    def _possible_shapes(self, parts: Sequence[Part]) -> Sequence[list[int]] | None:
        """The shapes that a stream's grid may have: those of its infos (also held ones), or the one before.

        None before an info.
        """
        stream = bytes(parts[0][7:80]).decode("ascii", "replace")
        if (info := self.infos.get(stream)) is None:
            return None
        held = [claim.item.grid for claim in self._believers[stream].held if isinstance(claim.item, Info)]
        return info.grid, self._shapes.get(stream, info.grid), *held

    def _weigh(self, claim: Claim[Message]) -> None:
        """Believe a message or info, or hold it until another one confirms it."""
        stream, is_image = claim.item.stream, isinstance(claim.item, FrameMessage)
        self._limit_streams(stream)
        name = f"frames/{stream}" if is_image else stream  # images have their own `seq`
        believer = self._believers.setdefault(name, Believer(any_session=is_image))
        dropped, session, last = believer.dropped, believer.session, believer.last
        believed = believer.take(claim)
        if not is_image and any(each.session == session and each.before > last for each in believed[:1]):
            self._fetch_missed(stream)
        for each in believed:
            self._believe(each)
        for _ in range(believer.dropped - dropped):
            self.rejects.add("subscribe", WireError("order", f"{stream}: a session, seq or epoch that none bore out"))

    def _limit_streams(self, stream: str) -> None:
        if stream not in self.received and len(self.received) >= self.max_streams:
            raise WireError("streams", f"stream {stream!r} beyond the {self.max_streams} accepted (max_streams)")
        self.received.setdefault(stream, StreamTracker())

    def _fetch_missed(self, stream: str) -> None:
        """After an outage, fetch the epoch: it contains the messages that a jump skipped, or begins after them."""
        missed = self.join != "never" and time.monotonic() < self._back_until
        if missed and stream not in self.joiner.waiting:  # else the messages held back so far would be dropped
            self.joiner.begin(stream)

    def _believe(self, claim: Claim[Message]) -> None:
        message = claim.item
        if isinstance(message, FrameMessage):
            self.mailbox.put(f"frames/{message.stream}", message)
            return
        if claim.anew:
            self.received[message.stream].begin(claim.session)
            if self.join == "epoch" or (self.join == "keyframe" and self.waited):
                self.joiner.begin(message.stream)
        if isinstance(message, Info):
            self._note_info(message)
            if message.stream not in self.joiner.waiting or message.last_seq < 0:
                self.received[message.stream].take_info(message)
            return
        message = replace(message, info=self.infos.get(message.stream))  # the newest info may change until it is read
        if not self.joiner.hold(message):
            self._deliver(message)

    def _note_info(self, info: Info) -> None:
        with self._info_changed:
            self.infos[info.stream] = info
            self._info_changed.notify_all()
        self.joiner.ask(info)

    def _deliver(self, message: TokenMessage, extra: bool = False) -> None:
        stream, verdict = message.stream, self.received[message.stream].take_message(message.header)
        if verdict is None:
            return
        try:
            self.mailbox.put(stream, self.grids.read(message, verdict.decodable), extra)
            self._shapes[stream] = message.header.grid
        except WireError as error:
            self.grids.unreadable[stream] += 1
            self.rejects.add("subscribe", error)
