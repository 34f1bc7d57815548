"""Relays streams: forwards the messages of one publisher, unchanged, to the readers of another."""

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from streamtok.event_log import EventLog
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

    Late joiners get the current epoch from the relay; keyframe requests are passed on to the origin, in a thread of
    their own, since it may not answer. `counts` has forwarded, keyframe_failed, and no_info for messages that came
    before their stream's info.
    """

    subscription: Subscription
    publisher: Publisher
    counts: Counter = field(default_factory=Counter)
    _sent: dict[str, Info] = field(default_factory=dict)
    _asked: set[str] = field(default_factory=set)  # streams whose keyframe the origin was not asked for yet
    _asking: threading.Thread = field(default_factory=threading.Thread)
    _log: EventLog = field(default_factory=lambda: EventLog("relay", log, "socket"))

    def get(self, timeout: float) -> TokenMessage | None:
        """Forward the next message and return it, None if none came in `timeout` seconds; call it often.

        It also serves the relay's own readers.
        """
        message = self.subscription.get(timeout)
        if message is not None:
            self._forward(message)
        for info in list(self.subscription.infos.values()):
            if not self.subscription.waits(info.stream):  # else the next message announces it
                self._announce(info, info.last_seq)
        self._asked |= {event.stream for event in self.publisher.poll() if event.kind == "keyframe"}
        if self._asked and not self._asking.is_alive():
            self._asking = threading.Thread(target=self._ask_origin, args=[self._asked], name="relay", daemon=True)
            self._asked = set()
            self._asking.start()
        return message

    def close(self) -> None:
        """Log the failures that were not logged yet."""
        self._log.finish()

    def _forward(self, message: TokenMessage) -> None:
        info = self.subscription.info_of(message)
        if info is None:
            self.counts["no_info"] += 1
            return
        self._announce(info, message.header.seq - 1)
        self.publisher.forward(message)
        self.counts["forwarded"] += 1

    def _announce(self, info: Info, last_seq: int) -> None:
        if self._sent.get(info.stream) is not info:
            self._sent[info.stream] = info
            self.publisher.forward_info(info, last_seq)

    def _ask_origin(self, streams: set[str]) -> None:
        for stream in streams:
            try:
                self.subscription.request_keyframe(stream, KEYFRAME_TIMEOUT_S)
            except (TimeoutError, ControlError, WireError, ValueError) as error:
                self.counts["keyframe_failed"] += 1
                now_ns = time.monotonic_ns()
                self._log.add(now_ns, "keyframe_failed", {"requests": 1}, stream=stream, error=error)
