"""Relays streams: forwards the messages of one publisher, unchanged, to the readers of another."""

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

from streamtok.wire.header import Info
from streamtok.wire.keyframes import KeyframeRequests
from streamtok.wire.message import TokenMessage
from streamtok.wire.publisher import Publisher
from streamtok.wire.subscriber import Subscription

MOST_EARLY = 16  # messages of a stream that wait for its info
BACKLOG = 1024  # messages that may wait for a reader: after an outage, or on joining, an epoch comes at once


@dataclass
class Relay:
    """Forwards the messages of a subscription; session, seq, clock and tokenizer stay the origin's.

    Late joiners get the current epoch from the relay; keyframe requests are passed on to the origin. A node may send a
    keyframe just before its stream's info, so messages wait for that, until there are too many or another session
    begins. `counts` has forwarded, and no_info for those that wait or have waited in vain.
    """

    subscription: Subscription
    publisher: Publisher
    counts: Counter = field(default_factory=Counter)
    _sent: dict[str, Info] = field(default_factory=dict)
    _early: defaultdict[str, deque[TokenMessage]] = field(default_factory=lambda: defaultdict(deque))

    def __post_init__(self) -> None:
        self.keyframes = KeyframeRequests(self.subscription)

    def get(self, timeout: float) -> TokenMessage | None:
        """Forward the next message and return it, None if none came in `timeout` seconds; call it often.

        It also serves the relay's own readers.
        """
        message = self.subscription.get(timeout)
        if message is not None:
            self.counts["no_info"] += 1
            self._early[message.stream].append(message)
        for early in self._early.values():
            self._forward(early)
        for info in list(self.subscription.infos.values()):
            if not self.subscription.waits(info.stream):  # else the next message announces it
                self._announce(info, info.last_seq)
        self.keyframes.ask(event.stream for event in self.publisher.poll() if event.kind == "keyframe")
        return message

    def _forward(self, early: deque[TokenMessage]) -> None:
        while early:
            info, header = self.subscription.info_of(early[0]), early[0].header
            if info is not None:
                self._announce(info, header.seq - 1)
                self.publisher.forward(early[0])
                self.counts.update(forwarded=1, no_info=-1)
            elif len(early) <= MOST_EARLY and header.session == early[-1].header.session:
                return
            early.popleft()

    def _announce(self, info: Info, last_seq: int) -> None:
        if self._sent.get(info.stream) is not info:
            self._sent[info.stream] = info
            self.publisher.forward_info(info, last_seq)
