"""Counts subscriptions by topic, from the messages that an XPUB socket receives."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from streamtok.wire.errors import WireError

MAX_TOPIC = 128
MAX_TOPICS = 10_000


@dataclass(frozen=True)
class Event:
    """An event for the node: `kind` is "keyframe" (make one now), or "joined" or "left" (a reader of `stream`)."""

    kind: str
    stream: str


@dataclass
class Subscriptions:
    """Counts subscriptions by topic prefix; topics that no message could have are refused.

    SUB sockets are counted exactly. libzmq does not say which connection a subscription is from, so a reader that sends
    raw ones (XSUB) can count twice. The counts are for display and for waiting, not for decisions. `count` is
    thread-safe.
    """

    topics: Counter = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def feed(self, part: bytes) -> tuple[bool, bytes]:
        """Take one part from the XPUB socket; returns (joined, topic prefix). Raises WireError for anything else.

        XPUB obeys (un)subscriptions in every part of a message, so every part is fed.
        """
        if part[:1] not in (b"\x00", b"\x01"):
            raise WireError("subscription", f"{len(part)} bytes from a reader, expected a subscription or its end")
        joined, topic = part[0] == 1, part[1:]
        if len(topic) > MAX_TOPIC:
            raise WireError("topic", f"subscription to a topic of {len(topic)} bytes, topics have at most {MAX_TOPIC}")
        with self._lock:
            if joined and (topic in self.topics or len(self.topics) < MAX_TOPICS):
                self.topics[topic] += 1
            elif not joined and self.topics[topic] <= 1:
                del self.topics[topic]
            elif not joined:
                self.topics[topic] -= 1
        return joined, topic

    def count(self, topics: list[bytes], within: bool = False) -> int:
        """Count subscriptions that match one of `topics`; with `within`, also those to topics that begin with one."""
        with self._lock:
            return sum(
                number
                for prefix, number in self.topics.items()
                if any(topic.startswith(prefix) or (within and prefix.startswith(topic)) for topic in topics)
            )
