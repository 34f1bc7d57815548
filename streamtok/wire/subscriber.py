"""Reading token streams: `subscribe(endpoint)` gives typed messages, newest kept, losses counted.

for message in streamtok.subscribe("tcp://127.0.0.1:5555"):
    print(message.stream, message.header.seq, message.tokens.shape)
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import zmq

from streamtok.wire.connection import Connection
from streamtok.wire.control import ControlClient
from streamtok.wire.endpoint import reachable, receive, socket_of
from streamtok.wire.joining import Joiner
from streamtok.wire.mailbox import Closed, Mailbox
from streamtok.wire.message import Info, Limits, TokenMessage, WireError, unpack, unpack_info
from streamtok.wire.rejects import Rejects
from streamtok.wire.security import CurveClient
from streamtok.wire.tracking import StreamTracker

log = logging.getLogger("streamtok.wire")
POLL_MS = 50
WAIT_S = 0.005
MESSAGES_PER_POLL = 256


@dataclass(eq=False)
class Subscription:
    """Token messages of one publisher, for `for`, `async for` or `get`; use as a context manager or close it.

    `streams` names those to read (None: all). A thread drains the socket at once into a queue of `queue_size` messages
    per stream, which discards its oldest when the reader is late (`latest_only`: keeps only the newest; `lossless`: the
    draining waits instead, and with it a lossless node). `join` says how to begin with a node that runs already:
    "epoch" first fetches what the current epoch has sent, so that decoding starts at once; "keyframe" waits for the
    next one. A node that comes, or comes back, while the reader waits is read from the start of its epoch in both cases
    (but for `latest_only`). `message.decodable` is False from a loss, or from joining, until a keyframe.

    Iterating raises TimeoutError after `timeout` seconds without a message; with `until_end` it stops when the node
    says that its streams have ended. Messages that break the protocol are counted in `rejects` and dropped; `infos`
    holds the newest info of each stream. ValueError for options that do not go together.
    """

    endpoint: str
    streams: Iterable[str] | None = None
    _: KW_ONLY
    latest_only: bool = False
    lossless: bool = False
    join: Literal["keyframe", "epoch"] = "keyframe"
    queue_size: int = 256
    timeout: float | None = None
    until_end: bool = False
    curve: CurveClient | None = None
    limits: Limits = field(default_factory=Limits)
    messages_per_second: float = 64.0
    max_streams: int = 64
    rejects: Rejects = field(default_factory=Rejects, init=False)
    infos: dict[str, Info] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.streams, str):
            raise ValueError(f"streams is {self.streams!r}, expected several names: [{self.streams!r}]")
        self.streams = None if self.streams is None else tuple(self.streams)
        if self.join not in ("keyframe", "epoch"):
            raise ValueError(f"join is {self.join!r}, expected 'keyframe' or 'epoch'")
        if self.latest_only and (self.join == "epoch" or self.lossless):
            raise ValueError(
                "latest_only keeps one message per stream, so neither join='epoch' nor lossless helps; choose one"
            )
        self._received: dict[str, StreamTracker] = {}
        self._delivered: dict[str, StreamTracker] = {}
        self._mailbox: Mailbox[TokenMessage] = Mailbox(1 if self.latest_only else self.queue_size)
        self._stop = threading.Event()
        self._info_changed = threading.Condition()
        self._context = zmq.Context()
        try:
            self._connection = self._connect()
        except BaseException:
            self._context.destroy(0)
            raise
        self._joiner = Joiner(self._context, self.endpoint, self.rejects, self.limits, self.queue_size, self.curve)
        self._thread = threading.Thread(target=self._run, name=f"subscribe {self.endpoint}", daemon=True)
        self._thread.start()

    def get(self, timeout: float | None = None) -> TokenMessage | None:
        """The next message, waiting up to `timeout` seconds (None: for ever); None if none came or all has ended."""
        try:
            message = self._mailbox.get(timeout)
        except Closed:
            return None
        return None if message is None else self._deliver(message)

    @property
    def connected(self) -> bool:
        """Whether the node can be heard now."""
        return self._connection.up

    @property
    def ended(self) -> bool:
        """Whether nothing more will come: closed, or the end under `until_end`, and all read."""
        return self._mailbox.over

    def decodable(self) -> Iterator[TokenMessage]:
        """Only the messages that a decoder can take: after a loss, everything from the next keyframe on."""
        return (message for message in self if message.decodable)

    def info(self, stream: str, timeout: float = 5.0) -> Info:
        """What the publisher says of a stream; waits for it, and raises TimeoutError after `timeout` seconds."""
        with self._info_changed:
            if not self._info_changed.wait_for(lambda: stream in self.infos, timeout):
                raise TimeoutError(
                    f"no info of stream {stream!r} from {self.endpoint} within {timeout} s; known: {list(self.infos)}"
                )
            return self.infos[stream]

    def control(self, stream: str) -> ControlClient:
        """A client of the control socket that serves a stream (the caller closes it); ValueError if it has none."""
        control = self.info(stream).control
        if control is None:
            raise ValueError(f"the node of stream {stream!r} has no control socket")
        return ControlClient(reachable(control, self.endpoint), self.curve)

    def request_keyframe(self, stream: str, timeout: float = 2.0) -> None:
        """Ask for a keyframe. It restarts every reader's context: to join, prefer join="epoch"."""
        with self.control(stream) as client:
            client.request("keyframe", stream, timeout)

    def counts(self) -> dict[str, dict[str, int]]:
        """Per stream: messages, keyframes, lost (on the way), stale, sessions; discarded (not read in time) and
        undecodable (read, but of no use to a decoder)."""
        return {stream: self._counts_of(stream) for stream in list(self._received)}

    def _counts_of(self, stream: str) -> dict[str, int]:
        received, delivered = self._received[stream], self._delivered.get(stream, StreamTracker())
        counts = {name: received.counts[name] for name in ("messages", "keyframes", "lost", "stale", "sessions")}
        read = {"discarded": self._mailbox.discarded[stream], "undecodable": delivered.counts["undecodable"]}
        return counts | read

    def close(self) -> None:
        """Stop reading; iterators end."""
        self._stop.set()
        self._thread.join()
        self._mailbox.end()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[TokenMessage]:
        return self

    def __next__(self) -> TokenMessage:
        try:
            message = self._mailbox.get(self.timeout)
        except Closed:
            raise StopIteration from None
        if message is None:
            raise self._silence()
        return self._deliver(message)

    async def __aenter__(self) -> "Subscription":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.close)

    def __aiter__(self) -> AsyncIterator[TokenMessage]:
        return self

    async def __anext__(self) -> TokenMessage:
        """The next message; cancelling it loses none."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        remove = self._mailbox.listen(partial(loop.call_soon_threadsafe, changed.set))
        try:
            while (message := self._mailbox.take()) is None:
                await asyncio.wait_for(changed.wait(), self.timeout)
                changed.clear()
        except Closed:
            raise StopAsyncIteration from None
        except TimeoutError:
            raise self._silence() from None
        finally:
            remove()
        return self._deliver(message)

    def _silence(self) -> TimeoutError:
        return TimeoutError(f"no message from {self.endpoint} for {self.timeout} s; is the node running?")

    def _deliver(self, message: TokenMessage) -> TokenMessage:
        """Mark continuity as this reader sees it, which includes what the queue discarded."""
        verdict = self._delivered.setdefault(message.stream, StreamTracker()).message(message.header)
        if verdict is None:
            return message
        return replace(message, lost=verdict.lost, decodable=verdict.decodable)

    def _connect(self) -> Connection:
        high_water = max(16, round(self.messages_per_second))
        socket = socket_of(self._context, zmq.SUB, high_water, self.limits.max_part)
        # tokens before info: the first info then proves that the tokens that follow will come
        for kind in ("tokens", "info"):
            for name in [""] if self.streams is None else self.streams:
                socket.subscribe(f"{kind}/{name}".encode())
        return Connection(socket, self.endpoint, self.curve)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self.lossless and self._mailbox.full:
                    self._stop.wait(WAIT_S)
                elif self._connection.socket.poll(POLL_MS):
                    self._drain()
                self._connection.check()
                for stream, messages in self._joiner.ready():
                    self._accept(stream, messages)
                if self.until_end and self._has_ended():
                    self._mailbox.end()
        except BaseException as error:
            self._mailbox.end(error)
            raise
        finally:
            self._joiner.close()
            self._connection.close()
            self._context.term()

    def _has_ended(self) -> bool:
        names = list(self.infos) if self.streams is None else self.streams
        ended = all(name in self.infos and self.infos[name].ended for name in names)
        return bool(names) and ended and not self._joiner.waits()

    def _drain(self) -> None:
        for _ in range(1 if self.lossless else MESSAGES_PER_POLL):
            try:
                parts = receive(self._connection.socket, copy=False)
            except zmq.Again:
                return
            try:
                self._sort(parts)
            except WireError as error:
                self.rejects.add("subscribe", error)

    def _sort(self, parts: list[Any]) -> None:
        kind, _, name = bytes(memoryview(parts[0])[:80]).partition(b"/")
        if self.streams is not None and name.decode("ascii", "replace") not in self.streams:
            return
        if kind == b"info":
            self._on_info(unpack_info(parts, self.limits))
        elif kind == b"tokens":
            message = unpack(parts, self.limits)
            self._enter(message.stream, message.header.session)
            if not self._joiner.hold(message):
                self._accept(message.stream, [message])

    def _on_info(self, info: Info) -> None:
        self._enter(info.stream, info.session)
        tracker = self._received[info.stream]
        if tracker.session != info.session:
            return
        with self._info_changed:
            self.infos[info.stream] = info
            self._info_changed.notify_all()
        waits = info.stream in self._joiner.waits()
        if waits:
            self._joiner.ask(info)
        if not waits or info.last_seq < 0:
            tracker.info(info)

    def _enter(self, stream: str, session: str) -> None:
        if stream not in self._received and len(self._received) >= self.max_streams:
            raise WireError("streams", f"stream {stream!r} beyond the {self.max_streams} accepted (max_streams)")
        began = self._received.setdefault(stream, StreamTracker()).enter(session)
        if began and (self.join == "epoch" or (self._connection.waited and not self.latest_only)):
            self._joiner.begin(stream)

    def _accept(self, stream: str, messages: list[TokenMessage]) -> None:
        tracker = self._received[stream]
        fresh = [message for message in messages if tracker.message(message.header) is not None]
        if fresh:
            self._mailbox.put(stream, fresh)


subscribe = Subscription  # reads as what it does: `for message in streamtok.subscribe(endpoint)`
