"""Relays streams: forwards the messages of one publisher, unchanged, to the readers of another."""

import logging
from collections import Counter
from dataclasses import dataclass, field

from streamtok.wire.control import ControlError
from streamtok.wire.errors import WireError
from streamtok.wire.header import Info
from streamtok.wire.message import TokenMessage
from streamtok.wire.publisher import Publisher
from streamtok.wire.subscriber import Subscription

log = logging.getLogger("streamtok.wire")
KEYFRAME_TIMEOUT_S = 0.5


@dataclass
class Relay:
    """Forwards the messages of a subscription; session, seq, clock and tokenizer stay the origin's.

    Late joiners get the current epoch from the relay; keyframe requests are passed on to the origin. `counts` has
    forwarded, keyframe_failed, and no_info for messages that came before their stream's info.
    """

    subscription: Subscription
    publisher: Publisher
    counts: Counter = field(default_factory=Counter)
    _sent: dict[str, Info] = field(default_factory=dict)

    def forward(self, message: TokenMessage) -> None:
        """Forward one message."""
        info = self.subscription.info_of(message)
        if info is None:
            self.counts["no_info"] += 1
            return
        self._announce(info)
        self.publisher.forward(message)
        self.counts["forwarded"] += 1

    def poll(self) -> None:
        """Serve the relay's own readers; call it often."""
        for info in list(self.subscription.infos.values()):
            if not self.subscription.waiting(info.stream):  # else waiting messages announce the infos they came with
                self._announce(info)
        for event in self.publisher.poll():
            if event.kind == "keyframe":
                self._ask_origin(event.stream)

    def _announce(self, info: Info) -> None:
        if self._sent.get(info.stream) is not info:
            self._sent[info.stream] = info
            self.publisher.forward_info(info)

    def _ask_origin(self, stream: str) -> None:
        try:
            self.subscription.request_keyframe(stream, KEYFRAME_TIMEOUT_S)
        except (TimeoutError, ControlError, WireError, ValueError) as error:
            self.counts["keyframe_failed"] += 1
            log.warning("event=keyframe_failed stream=%s error=%s", stream, error)
