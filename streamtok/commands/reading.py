"""What a reader of token streams received: its messages one by one, their latencies, and the summary of both."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamtok.measures import LatestSamples

if TYPE_CHECKING:
    from streamtok.wire.message import TokenMessage
    from streamtok.wire.relay import Relay
    from streamtok.wire.subscriber import Subscription

WAIT_S = 0.05
MISSING = "messages before it are missing until the next keyframe; --join epoch fetches those sent before joining"


class Ages:
    """Latencies of live messages. Between two machines they are only as exact as the clocks agree.

    `before_capture` counts messages that came before their capture time, as from a file that is read faster than real
    time. `before_publish` counts those that came before they were sent: the clocks differ by `disagree_s` at least.
    """

    def __init__(self) -> None:
        self.before_capture = self.before_publish = 0
        self.disagree_s = 0.0
        self._samples = {"publish_to_reader": LatestSamples(), "capture_to_reader": LatestSamples()}

    def add(self, since_publish: float, since_capture: float) -> None:
        """Add one message: seconds since it was sent, and since the capture of its last frame."""
        if since_publish < 0:
            self.before_publish += 1
            self.disagree_s = max(self.disagree_s, -since_publish)
            return
        self._samples["publish_to_reader"].add(since_publish)
        if since_capture < 0:
            self.before_capture += 1
        else:
            self._samples["capture_to_reader"].add(since_capture)

    def summary(self) -> dict[str, Any]:
        """`latency_ms`, quantiles of valid latencies, and `without_age`, counts of messages without one.

        If most messages came before their capture time, latencies since capture mean nothing, and are left out.
        """
        parts = {part: kept for part, kept in self._samples.items() if kept.count}
        if self.before_capture > self._samples["capture_to_reader"].count:
            parts.pop("capture_to_reader", None)
        return {
            "latency_ms": {
                part: {name: round(1e3 * value, 3) for name, value in kept.quantiles().items()}
                for part, kept in parts.items()
            },
            "without_age": {
                "before_capture": self.before_capture,
                "before_publish": self.before_publish,
                "clocks_disagree_ms": round(1e3 * self.disagree_s, 3),
            },
        }


@dataclass
class Reading:
    """Iterates over the messages of a subscription, counts them, and forwards them if there is a relay."""

    subscription: Subscription
    relay: Relay | None
    stop: threading.Event
    max_messages: int | None = None
    timeout: float | None = None
    messages: int = 0
    nbytes: int = 0
    ages: Ages = field(default_factory=Ages)

    def __iter__(self) -> Iterator[TokenMessage]:
        """Yield messages until `stop`, `max_messages` or the end; TimeoutError after `timeout` seconds without one."""
        heard = time.monotonic()
        while not self.stop.is_set() and self.messages != self.max_messages:
            message = (self.relay or self.subscription).get(WAIT_S)
            if message is not None:
                heard = time.monotonic()
                self._count(message)
                yield message
            elif self.subscription.ended:
                return
            elif self.timeout is not None and time.monotonic() - heard > self.timeout:
                raise TimeoutError(
                    f"no message from {self.subscription.endpoint} for {self.timeout} s; is the node running?"
                )

    def summary(self) -> dict[str, Any]:
        """Counts of received, lost and malformed messages, and their latencies (see `Ages`), except of replays."""
        result = {"messages": self.messages, "bytes": self.nbytes, "streams": self.subscription.counts()}
        result["malformed"] = dict(self.subscription.rejects.counts)
        result |= self.ages.summary()
        if self.relay is not None:
            result |= {"forwarded": 0, "keyframe_failed": self.relay.keyframes.failed} | self.relay.counts
        return result

    def _count(self, message: TokenMessage) -> None:
        """Count a message, with its latencies unless it is replayed or was fetched on joining and so had waited."""
        self.messages += 1
        self.nbytes += len(message.payload)
        header, info = message.header, self.subscription.infos.get(message.stream)
        if info is None or info.session != header.session or info.replay or message.catch_up:
            return
        now = time.time_ns()
        self.ages.add((now - info.to_utc(header.publish_ns)) / 1e9, (now - info.to_utc(message.capture_ns)) / 1e9)


def format_reading(summary: dict[str, Any]) -> str:
    """The summary as lines of text."""
    lines = [f"{summary['messages']} messages, {summary['bytes'] / 1e6:.2f} MB in {summary['seconds']:.1f} s"]
    for stream, counts in summary["streams"].items():
        lines.append(f"  {stream}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    if any(counts["undecodable"] for counts in summary["streams"].values()):
        lines.append(f"  undecodable: {MISSING}")
    for part, values in summary["latency_ms"].items():
        lines.append(f"  {part.replace('_', ' ')} ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in values.items()))
    lines += format_without_age(**summary["without_age"])
    if summary["malformed"]:
        lines.append("  malformed: " + ", ".join(f"{kind} {count}" for kind, count in summary["malformed"].items()))
    return "\n".join(lines)


def format_without_age(before_capture: int, before_publish: int, clocks_disagree_ms: float) -> list[str]:
    """Lines on messages without a valid latency, if there are any."""
    lines = []
    if before_capture:
        lines.append(f"  {before_capture} came before their capture time (a file read faster than taken), not counted")
    if before_publish:
        lines.append(
            f"  the clocks of node and reader disagree: {before_publish} came before they were sent, by up to "
            f"{clocks_disagree_ms:.2f} ms, and are not counted; set both by NTP or PTP"
        )
    return lines
