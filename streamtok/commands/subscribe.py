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
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from streamtok.commands.command import make_main, until_stopped
from streamtok.commands.reading import MISSING, Reading, format_reading
from streamtok.settings.fields import Count, Endpoint, Flag, Folder, Group, Names, Seconds, Switch, option
from streamtok.settings.shared import NodeSettings

if TYPE_CHECKING:
    from streamtok.wire.message import TokenMessage
    from streamtok.wire.publisher import Publisher
    from streamtok.wire.subscriber import Subscription


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
        reading = Reading(subscription, relay, stop, settings.max_messages, settings.timeout)
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


main = make_main("subscribe", SubscribeSettings, run, __doc__)
