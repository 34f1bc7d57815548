"""Print or forward a token stream.

    streamtok subscribe tcp://127.0.0.1:5555
    streamtok subscribe ipc:///tmp/rig.ipc --stream front --stream left --max-messages 100 --json
    streamtok subscribe tcp://10.0.0.2:5555 --curve keys --forward ipc:///tmp/rig.ipc

It prints one line per message: stream, position, grid, and the time from the capture of its last frame to its
publication. Ctrl-C ends it with a summary of received and lost messages. --forward relays the messages unchanged to
any number of readers. --config reads the same options from a YAML file (endpoint: ..., streams: [...]).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from streamtok.commands.command import make_main, until_stopped
from streamtok.measures import LatestSamples
from streamtok.settings.fields import Count, Endpoint, Flag, Folder, Group, Names, Seconds, Switch, option
from streamtok.settings.shared import NodeSettings

if TYPE_CHECKING:
    from streamtok.wire.message import TokenMessage
    from streamtok.wire.publisher import Publisher
    from streamtok.wire.relay import Relay
    from streamtok.wire.subscriber import Subscription

WAIT_S = 0.05
MISSING = "messages before it are missing until the next keyframe; --join epoch fetches those sent before joining"


class SubscribeSettings(NodeSettings):
    """A reader of token streams: what it reads, and where it relays it to."""

    endpoint: Annotated[Endpoint, Flag(positional=True)] = Field(
        description="where the node publishes, such as tcp://127.0.0.1:5555"
    )
    streams: Annotated[Names, Field(min_length=1)] | None = option(None, "only this stream (repeat it; default: all)")
    latest_only: Switch = option(False, "keep only the newest message of each stream")
    lossless: Switch = option(False, "make a lossless node wait for this reader, instead of discarding")
    join: Literal["keyframe", "epoch"] | None = option(
        None, "epoch: first fetch what the current epoch has sent already"
    )
    max_messages: Count | None = option(None, "end after N messages")
    until_end: Switch = option(False, "end when the node says that its streams have ended")
    timeout: Seconds | None = option(None, "fail after this long without a message (default: wait)")
    forward: Endpoint | None = option(None, "publish the messages again here")
    control: Endpoint | None = option(None, "control socket of --forward (default: beside it)")
    curve: Folder | None = option(None, "keys of this reader (client.key_secret, server.key)")
    forward_curve: Folder | None = option(None, "keys for --forward (server.key_secret, allowed/)")
    insecure: Switch = option(False, "allow --forward on a network address without keys")
    ipc_group: Group | None = option(
        None, "who may connect to --forward's ipc sockets besides this user (default: nobody)"
    )
    coder: Annotated[list[str], Flag("FILE|DIR")] = option(
        [], "coder.safetensors, or its folder, for coded streams of tokenizers that do not ship (repeat for more)"
    )
    quiet: Switch = option(False, "no line per message, as with --forward and --json")

    @model_validator(mode="after")
    def check_together(self) -> SubscribeSettings:
        """Raise ValueError for `ipc_group` without sockets to bind."""
        if self.ipc_group is not None and self.forward is None:
            raise ValueError(f"ipc_group {self.ipc_group!r} is for the sockets of forward: give --forward ipc://PATH")
        return self


def run(settings: SubscribeSettings) -> int:
    """Read until the end, Ctrl-C or --max-messages; raises TimeoutError after --timeout seconds without a message."""
    began = time.monotonic()
    with ExitStack() as stack:
        stop = stack.enter_context(until_stopped(settings))
        subscription = stack.enter_context(open_subscription(settings))
        relay = None
        if settings.forward is not None:
            from streamtok.wire.relay import Relay

            relay = Relay(subscription, stack.enter_context(open_publisher(settings, settings.forward, stop)))
            stack.callback(relay.keyframes.finish_log)
        reading = Reading(settings, subscription, relay, stop)
        try:
            # Lines that nobody takes would hold up a relay's readers.
            print_messages(reading, quiet=settings.quiet or settings.as_json or relay is not None)
        finally:
            summary = reading.summary() | {"seconds": round(time.monotonic() - began, 3)}
            print(settings.format_result(summary, format_reading(summary)), flush=True)
    return 0


def print_messages(reading: Reading, quiet: bool) -> None:
    """Read to the end, and print a line per message unless `quiet`; the first that cannot be decoded says why."""
    why = f": {MISSING}"
    for message in reading:
        line = format_message(message)
        if not message.decodable:
            line, why = line + why, ""
        if not quiet:
            print(line, flush=True)


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
    """Iterates over the messages that the settings ask for, counts them, and forwards them if there is a relay."""

    settings: SubscribeSettings
    subscription: Subscription
    relay: Relay | None
    stop: threading.Event
    messages: int = 0
    nbytes: int = 0
    ages: Ages = field(default_factory=Ages)

    def __iter__(self) -> Iterator[TokenMessage]:
        """Yield messages until `stop`, `max_messages` or the end; TimeoutError after `timeout` seconds without one."""
        heard = time.monotonic()
        while not self.stop.is_set() and self.messages != self.settings.max_messages:
            message = (self.relay or self.subscription).get(WAIT_S)
            if message is not None:
                heard = time.monotonic()
                self._count(message)
                yield message
            elif self.subscription.ended:
                return
            elif self.settings.timeout is not None and time.monotonic() - heard > self.settings.timeout:
                raise TimeoutError(
                    f"no message from {self.settings.endpoint} for {self.settings.timeout} s; is the node running?"
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


def open_subscription(settings: SubscribeSettings) -> Subscription:
    """Open the subscription; a relay joins by epoch unless the settings say otherwise."""
    from streamtok.wire.security import CurveClient, load_keys
    from streamtok.wire.subscriber import subscribe

    join = settings.join or ("epoch" if settings.forward and not settings.latest_only else "keyframe")
    return subscribe(
        settings.endpoint,
        settings.streams,
        latest_only=settings.latest_only,
        lossless=settings.lossless,
        join=join,
        until_end=settings.until_end,
        curve=load_keys(CurveClient, settings.curve),
        coders=settings.coder,
    )


def open_publisher(settings: SubscribeSettings, endpoint: str, stop: threading.Event) -> Publisher:
    """Open the publisher of the relayed messages, bound to `endpoint`."""
    from streamtok.wire.publisher import Publisher
    from streamtok.wire.relay import BACKLOG
    from streamtok.wire.security import CurveServer, load_keys

    return Publisher(
        endpoint,
        settings.control,
        node="relay",
        curve=load_keys(CurveServer, settings.forward_curve),
        insecure=settings.insecure,
        ipc_group=settings.ipc_group,
        lossless=settings.lossless,
        messages_per_second=BACKLOG,
        stop=stop.is_set,
    )


def format_message(message: TokenMessage) -> str:
    """One line of text on a message."""
    header = message.header
    marks = "keyframe" if header.keyframe else "" if message.decodable else "not decodable"
    marks += f" lost {message.lost}" if message.lost else ""
    marks += " unreadable" if message.unreadable else ""
    grid = "x".join(map(str, header.grid))
    wait_ms = (header.publish_ns - message.capture_ns) / 1e6
    line = f"{header.stream} seq {header.seq} epoch {header.epoch} grid {grid} {header.dtype} "
    line += f"frames {header.frame_ids[0]}-{header.frame_ids[-1]} capture-to-publish {wait_ms:.1f} ms {marks}"
    return line.rstrip()


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


main = make_main("subscribe", SubscribeSettings, run, __doc__)
