"""The sending end of the wire: one XPUB socket for all streams of a node, and its control socket.

One thread uses a publisher, and calls `poll` at least ten times a second. Another one answers control requests.
"""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import zmq

from streamtok.coding.coder import TokenCoder
from streamtok.types import Frame, StreamInfo, TokenGroup
from streamtok.wire.binding import Binding
from streamtok.wire.control import MAX_EPOCH, MAX_REQUEST, ControlServer, Handler
from streamtok.wire.endpoint import check_endpoints, open_socket
from streamtok.wire.errors import ReaderTooSlow, Rejects, WireError
from streamtok.wire.guard import PeerGuard
from streamtok.wire.header import Info, Status, TokenHeader, system_clock_pair
from streamtok.wire.message import Part, TokenMessage, pack
from streamtok.wire.security import Authenticator, CurveServer
from streamtok.wire.streams import Compression, StreamTable
from streamtok.wire.subscriptions import Event, Subscriptions

CONTROL_HIGH_WATER = 16
INFO_EVERY_S = 1.0
CLOCK_SET_NS = 10_000_000  # beyond which the system clock was set since the last info, not slewed
READ_S = 0.003  # in one `poll`; if subscriptions still wait then, it is a flood
PAUSE_S = 10 * READ_S  # without reading in a flood, since the same thread encodes
MAX_SUBSCRIPTION = 512  # bytes of a message from a reader on the XPUB socket


@dataclass(eq=False)
class Publisher:
    """Publishes token groups, and frames on request, to any number of readers; only `lossless` waits for slow ones.

    `bind` and `control` are endpoints; control None is one beside `bind`, "" is none. Only private addresses can be
    bound without `curve`, unless `insecure`. ipc sockets are for their owner, and for `ipc_group`, a name or number.

    A slow reader may lag by one second of `messages_per_second`, all streams together. With `lossless` it then blocks
    the publisher; ReaderTooSlow is raised after `lossless_timeout` seconds, or when `stop` returns True.

    `coded` and `independent` compression need the tokenizer's `coder`. `clock_ns` is the clock of capture times, and
    `clock_pair` relates it to UTC. `on_announce` gets the info of every own stream when it is published. `stats` adds
    the node's counters to op `stats`; it and `clock_pair` are also called in the control thread.

    Raises InsecureBindError, BindError, or ValueError for a wrong endpoint or group.
    """

    bind: str
    control: str | None = None
    _: KW_ONLY
    node: str = "node"
    curve: CurveServer | None = None
    insecure: bool = False
    ipc_group: str | None = None
    lossless: bool = False
    lossless_timeout: float = 30.0
    messages_per_second: float = 64.0
    max_epoch_bytes: int = MAX_EPOCH
    compression: Compression = "none"
    coder: TokenCoder | None = None
    clock_ns: Callable[[], int] = time.monotonic_ns
    clock_pair: Callable[[], tuple[int, int]] = system_clock_pair
    on_announce: Callable[[Info], None] = lambda info: None
    stats: Callable[[], dict[str, Any]] | None = None
    stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        secure, insecure = self.curve is not None, self.insecure
        control = check_endpoints(self.bind, self.control, secure=secure, insecure=insecure, ipc_group=self.ipc_group)
        self.session = secrets.token_hex(16)
        self.rejects = Rejects()
        self._subscriptions = Subscriptions()
        self._events: list[Event] = []
        self._info_due = self._read_due = 0.0
        self._utc_offset = 0
        self._sent = 0  # bytes, unless they wait for the slowest reader (`lossless`)
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket] = []
        self._bindings: list[Binding] = []
        self._auth: Authenticator | None = None
        self._control: ControlServer | None = None
        self._guard: PeerGuard | None = None
        try:
            self._open(control)
        except BaseException:
            self._release()
            raise

    def _open(self, control: str) -> None:
        allowed = self.curve.allowed if self.curve else None
        self._auth = Authenticator(self._context, allowed) if allowed else None
        self._socket = self._make_socket(zmq.XPUB, max(16, round(self.messages_per_second)), MAX_SUBSCRIPTION)
        self._socket.set(zmq.XPUB_VERBOSER, 1)
        self._socket.set(zmq.XPUB_NODROP, int(self.lossless))
        asked = self._make_socket(zmq.ROUTER, CONTROL_HIGH_WATER, MAX_REQUEST) if control else None
        if any(bound.startswith("tcp://") for bound in (self.bind, control)):
            self._guard = PeerGuard([*self._sockets], self._socket, allowed, sent=lambda: self._sent)
        self.endpoint = self._bind(self._socket, self.bind)
        self.control_endpoint = None if asked is None else self._bind(asked, control)
        fixed = {"node": self.node, "session": self.session, "control": self.control_endpoint}
        self._table = StreamTable(fixed, self.max_epoch_bytes, self.compression, self.coder)
        if asked is not None:
            handlers: dict[str, Handler] = {
                "info": self._answer_info,
                "stats": self._answer_stats,
                "keyframe": lambda name: {"coalesced": self._table.ask_keyframe(name)},
                "epoch": lambda name: {"messages": self._table.epoch(name)},
            }
            self._control = ControlServer(asked, handlers, self.rejects, self._bindings[-1].restore)
            self._sockets.remove(asked)  # its thread closes it

    def _make_socket(self, kind: int, high_water: int, max_part: int) -> zmq.Socket:
        self._sockets.append(open_socket(self._context, kind, high_water, max_part))
        if self.curve:
            self.curve.apply(self._sockets[-1])
        return self._sockets[-1]

    def _bind(self, socket: zmq.Socket, endpoint: str) -> str:
        self._bindings.append(Binding(socket, endpoint, self.ipc_group))
        return self._bindings[-1].endpoint

    def add_stream(self, info: Info | StreamInfo) -> Info:
        """Announce a stream, or a change of one (a new size); `seq` continues. Returns the info as published.

        Raises ImportError if its compression needs a package that is missing.
        """
        added = self._table.add(info)
        self._send_info([added.stream])
        self.on_announce(added)
        return added

    def publish(self, group: TokenGroup) -> TokenHeader:
        """Send a token group, after its stream's info if that is new; returns its header. ValueError if they differ."""
        if group.info is not None and self._table.is_news(group.info):
            self.add_stream(group.info)
        if abs(self._read_utc_offset() - self._utc_offset) > CLOCK_SET_NS:
            self._announce_all()
        header, parts = self._table.get(group.stream).pack_group(group, self.clock_ns())
        self._send(parts)
        self._table.note_sent(header, parts)
        return header

    def forward(self, message: TokenMessage) -> None:
        """Forward another node's message unchanged; its stream must have been announced by `forward_info`."""
        self._table.get(message.stream)
        parts: list[Part] = [*map(bytes, message.parts)]
        self._send(parts)
        self._table.note_sent(message.header, parts)

    def forward_info(self, info: Info, last_seq: int) -> None:
        """Announce another node's stream with this publisher's control; `last_seq` is that before what is forwarded."""
        self._table.add_foreign(info, last_seq)
        self._send_info([info.stream])

    def publish_frame(self, frame: Frame) -> bool:
        """Send a camera image on `frames/<stream>` if that has readers: its compressed packet, if any, else RGB."""
        if not self._subscriptions.count([f"frames/{frame.stream}".encode()]):
            return False
        state = self._table.get(frame.stream)
        self._send(state.pack_frame(frame, self.session, self.clock_ns()))
        state.counts["frames"] += 1
        return True

    def publish_status(self, values: dict[str, Any]) -> None:
        """Send the node's counters, a map of plain values, on `status/<node>`."""
        self._send(pack(Status(node=self.node, session=self.session, time_ns=self.clock_ns(), values=values)))

    def poll(self) -> list[Event]:
        """Read subscriptions and send infos that are due, without waiting; returns the events to act on."""
        if time.monotonic() >= self._read_due:
            self._read_subscriptions()
        if time.monotonic() >= self._info_due:
            self._announce_all()
        events, self._events = self._events, []
        return events + [Event("keyframe", name) for name in self._table.due_keyframes(time.monotonic_ns())]

    def bytes_of(self, stream: str) -> int:
        """Bytes of a stream's token messages so far, with topics and headers; 0 before it is announced."""
        return self._table.streams[stream].counts["bytes"] if stream in self._table.streams else 0

    def subscribers(self, stream: str | None = None) -> int:
        """Count subscriptions to `tokens/<stream>`; None: to any announced stream, or to any before there is one."""
        names = list(self._table.streams) or [""] if stream is None else [stream]
        return self._subscriptions.count([f"tokens/{name}".encode() for name in names], within=names == [""])

    def wait_subscribers(self, count: int, timeout: float | None = None) -> bool:
        """Poll until `count` readers have joined; returns False after `timeout` seconds or if `stop` returns True."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._events = self.poll()
            if self.subscribers() >= count:
                return True
            if self.stop() or (deadline is not None and time.monotonic() >= deadline):
                return False
            self._socket.poll(20)

    def summary(self) -> dict[str, Any]:
        """The counts of op `stats`: per stream, of control requests, and of malformed input. Thread-safe."""
        told = self._table.summaries().items()
        streams = {name: counts | {"subscribers": self.subscribers(name)} for name, counts in told}
        counts = {"control": dict(self._control.counts) if self._control else {}, "malformed": {**self.rejects.counts}}
        return {"node": self.node, "session": self.session, "streams": streams, **counts}

    def close(self) -> None:
        """Announce the end of the streams, give readers a second to take sent messages, and release everything."""
        if self._socket.closed:
            return
        self._table.end()
        self._send_info(self._table.streams)
        self._release()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _release(self) -> None:
        for socket in self._sockets:
            socket.close()
        if self._auth is not None:
            self._auth.stop()
        self._context.term()
        if self._guard is not None:
            self._guard.finish()
        if self._control is not None:
            self._control.thread.join()
        self.rejects.finish_logs()
        for binding in self._bindings:
            binding.release()

    def _send(self, parts: list[Part]) -> None:
        """Send now; with `lossless`, wait while a reader's queue is full, and poll meanwhile."""
        deadline = time.monotonic() + self.lossless_timeout
        while not self._try_send(parts):
            if self.stop() or time.monotonic() > deadline:
                raise ReaderTooSlow(
                    f"no room for {bytes(parts[0]).decode()} on {self.endpoint}: a reader has not kept up for "
                    f"{self.lossless_timeout} s (lossless_timeout), or the node was stopped; is a reader hanging?"
                )
            self._events = self.poll()
            time.sleep(0.001)

    def _try_send(self, parts: list[Part]) -> bool:
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        self._sent += 0 if self.lossless else sum(memoryview(part).nbytes for part in parts)
        return True

    def _announce_all(self) -> None:
        self._info_due, self._utc_offset = time.monotonic() + INFO_EVERY_S, self._read_utc_offset()
        self._send_info(self._table.streams)
        self._bindings[0].restore()

    def _read_utc_offset(self) -> int:
        capture_clock, utc = self.clock_pair()
        return utc - capture_clock

    def _send_info(self, names: Iterable[str]) -> None:
        for name, info in self._table.infos(names, self.clock_pair()).items():
            if not self._try_send(pack(info)):
                self._table.get(name).counts["info_skipped"] += 1

    def _read_subscriptions(self) -> None:
        joined: set[str] = set()
        until = time.monotonic() + READ_S
        while time.monotonic() < until:
            try:
                arrived, prefix = self._subscriptions.feed(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                break
            except WireError as error:
                self.rejects.add("publish", error)
                continue
            kind = "joined" if arrived else "left"
            self._events += [Event(kind, name) for name in self._table.matching("tokens", prefix)]
            joined.update(self._table.matching("info", prefix) if arrived else ())
        else:
            self._read_due = time.monotonic() + PAUSE_S
        self._send_info(joined)

    def _answer_info(self, name: str | None) -> dict[str, Info] | Info:
        infos = self._table.infos(None if name is None else [name], self.clock_pair())
        return infos if name is None else infos[name]

    def _answer_stats(self, name: str | None) -> dict[str, Any]:
        result = self.summary()
        if name is not None:
            self._table.get(name)
            result["streams"] = {name: result["streams"][name]}
        if self.stats is not None:
            result["node_stats"] = self.stats()
        return result
