"""The thread that reads one publisher's socket: checks what comes, follows sessions, and fills a mailbox."""

import threading
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

import zmq

from streamtok.wire.connection import Connection
from streamtok.wire.endpoint import open_socket, receive
from streamtok.wire.errors import Rejects, WireError
from streamtok.wire.header import Info, Limits
from streamtok.wire.joining import Joiner
from streamtok.wire.mailbox import Mailbox
from streamtok.wire.message import FrameMessage, Part, TokenMessage, unpack, unpack_frame, unpack_info
from streamtok.wire.security import CurveClient
from streamtok.wire.tracking import StreamTracker

POLL_MS = 50
WAIT_S = 0.005
MESSAGES_PER_POLL = 256
Kind = Literal["frames", "tokens", "info"]
# The order of subscribing. Frames first: a node that waits for readers of tokens then sends every frame. Info last:
# the first info then proves that everything after it will come.
KINDS: tuple[Kind, ...] = ("frames", "tokens", "info")


@dataclass(eq=False)
class Drain:
    """Reads until `close`, or until the streams have ended (`until_end`); its fields mean what `Subscription` says.

    `mailbox` gets every message of use: checked, of a stream and a session that is read, none twice. `received` tells
    per stream what has come and what was lost on the way, `infos` has the newest info. An error ends the mailbox.
    """

    endpoint: str
    mailbox: Mailbox[TokenMessage | FrameMessage]
    _: KW_ONLY
    streams: tuple[str, ...] | None
    kinds: frozenset[Kind]
    join: Literal["keyframe", "epoch", "never"]
    lossless: bool
    until_end: bool
    curve: CurveClient | None
    limits: Limits
    high_water: int
    max_streams: int
    rejects: Rejects = field(default_factory=Rejects)
    infos: dict[str, Info] = field(default_factory=dict)
    received: dict[str, StreamTracker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        takers = {"frames": self._take_frame, "tokens": self._take_tokens, "info": self._take_info}
        self._takers = {kind.encode(): take for kind, take in takers.items() if kind in self.kinds}
        self._stop = threading.Event()
        self._info_changed = threading.Condition()
        self._context = zmq.Context()
        try:
            self._connection = self._connect()
        except BaseException:
            self._context.destroy(0)
            raise
        capacity = self.mailbox.capacity
        self._joiner = Joiner(self._context, self.endpoint, self.rejects, self.limits, capacity, self.curve)
        self._thread = threading.Thread(target=self._run, name=f"subscribe {self.endpoint}", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the node can be heard now."""
        return self._connection.up

    def wait_for_info(self, stream: str, timeout: float) -> Info | None:
        """The newest info of a stream, waiting up to `timeout` seconds; None if none came."""
        with self._info_changed:
            self._info_changed.wait_for(lambda: stream in self.infos, timeout)
            return self.infos.get(stream)

    def close(self) -> None:
        """Stop reading and end the mailbox. Closing twice is fine."""
        self._stop.set()
        self._thread.join()
        self.mailbox.end()

    def take(self, parts: Sequence[Part]) -> None:
        """Check one message and put it where it belongs; one that breaks the protocol is counted and dropped."""
        kind, _, name = bytes(parts[0][:80]).partition(b"/")
        take = self._takers.get(kind)
        if take is None or (self.streams is not None and name.decode("ascii", "replace") not in self.streams):
            return
        try:
            take(parts)
        except WireError as error:
            self.rejects.add("subscribe", error)

    def _connect(self) -> Connection:
        socket = open_socket(self._context, zmq.SUB, self.high_water, self.limits.max_part)
        for kind in KINDS:
            for name in ("",) if self.streams is None else self.streams:
                if kind in self.kinds:
                    socket.subscribe(f"{kind}/{name}")
        return Connection(socket, self.endpoint, self.curve)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._turn()
        except BaseException as error:
            self.mailbox.end(error)
            raise
        finally:
            self._joiner.close()
            self._connection.close()
            self._context.term()

    def _turn(self) -> None:
        if self.lossless and self.mailbox.full:
            self._stop.wait(WAIT_S)
        elif self._connection.socket.poll(POLL_MS):
            self._receive()
        self._connection.check()
        for stream, messages in self._joiner.take_ready():
            self._accept(stream, messages)
        if self.until_end and self._has_ended():
            self.mailbox.end()

    def _receive(self) -> None:
        for _ in range(MESSAGES_PER_POLL):
            if self.lossless and self.mailbox.full:
                return
            try:
                parts = receive(self._connection.socket)
            except zmq.Again:
                return
            self.take(parts)

    def _has_ended(self) -> bool:
        """Whether nothing more is to come; named streams that nobody has announced count as long as a node is there."""
        names = self.infos.keys() if self.streams is None or not self.connected else self.streams
        ended = all(name in self.infos and self.infos[name].ended for name in names)
        return bool(self.infos) and ended and not self._joiner.waiting

    def _take_frame(self, parts: Sequence[Part]) -> None:
        message = unpack_frame(parts, self.limits)
        self._tracker_of(message.stream)
        self.mailbox.put(f"frames/{message.stream}", [message])

    def _take_tokens(self, parts: Sequence[Part]) -> None:
        message = unpack(parts, self.limits)
        self._enter(message.stream, message.header.session)
        if not self._joiner.hold(message):
            self._accept(message.stream, [message])

    def _take_info(self, parts: Sequence[Part]) -> None:
        info = unpack_info(parts, self.limits)
        self._enter(info.stream, info.session)
        tracker = self.received[info.stream]
        if tracker.session != info.session:
            return
        with self._info_changed:
            self.infos[info.stream] = info
            self._info_changed.notify_all()
        waits = info.stream in self._joiner.waiting
        if waits:
            self._joiner.ask(info)
        if not waits or info.last_seq < 0:
            tracker.info(info)

    def _enter(self, stream: str, session: str) -> None:
        began = self._tracker_of(stream).enter(session)
        if began and (self.join == "epoch" or (self.join == "keyframe" and self._connection.waited)):
            self._joiner.begin(stream)

    def _tracker_of(self, stream: str) -> StreamTracker:
        if stream not in self.received and len(self.received) >= self.max_streams:
            raise WireError("streams", f"stream {stream!r} beyond the {self.max_streams} accepted (max_streams)")
        return self.received.setdefault(stream, StreamTracker())

    def _accept(self, stream: str, messages: list[TokenMessage]) -> None:
        tracker = self.received[stream]
        fresh: list[TokenMessage | FrameMessage] = [
            message for message in messages if tracker.message(message.header) is not None
        ]
        if fresh:
            self.mailbox.put(stream, fresh)
