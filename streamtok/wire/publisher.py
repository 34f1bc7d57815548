"""The sending end of the wire: one XPUB socket for all streams of a node, and its control socket.

A publisher belongs to one thread. Call `poll` often (every frame, at least ten times a second): it serves control
requests, notes who joins and sends `info`.
"""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import zmq

from streamtok.wire import compression
from streamtok.wire.control import MAX_EPOCH, MAX_REQUEST, ControlServer, EpochCache, KeyframeGate
from streamtok.wire.endpoint import Binding, check_bind, control_beside, socket_of
from streamtok.wire.message import (
    DTYPES,
    FrameHeader,
    Info,
    Status,
    TokenHeader,
    TokenMessage,
    WireError,
    checksum_of,
    pack,
)
from streamtok.wire.rejects import Rejects
from streamtok.wire.security import CurveServer
from streamtok.wire.subscriptions import Subscriptions

if TYPE_CHECKING:
    from streamtok.engine.ingest import TokenGroup
    from streamtok.io.source import Frame

log = logging.getLogger("streamtok.wire")
INFO_EVERY_NS = 1_000_000_000
SUBSCRIPTIONS_PER_POLL = 10_000


class ReaderTooSlow(TimeoutError):
    """Lossless publishing waited its full time for room, or was stopped while waiting."""


@dataclass(frozen=True)
class Event:
    """What a reader did: `kind` is "keyframe" (make one now), "joined" or "left"; `stream` is None for all streams."""

    kind: str
    stream: str | None


@dataclass
class _Stream:
    info: Info
    foreign: bool = False
    cache: EpochCache = field(default_factory=EpochCache)
    gate: KeyframeGate = field(default_factory=KeyframeGate)
    counts: Counter = field(default_factory=Counter)


def system_clock_pair() -> tuple[int, int]:
    """(monotonic ns, UTC ns) of one instant, within the microsecond it takes to read both."""
    before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
    return (before + after) // 2, wall


@dataclass(eq=False)
class Publisher:
    """Publishes token groups, and the frames if asked, to any number of readers without ever waiting for one.

    `bind` and `control` are endpoints; control None takes one beside `bind` (named in `info`), "" has none. `node`
    names the process. Without `curve` only private addresses can be bound, unless `insecure`. With `lossless` a full
    reader holds the publisher up, for at most `lossless_timeout` seconds: then ReaderTooSlow. `messages_per_second`
    over all streams sets how much one slow reader may be behind (a second). `clock_ns` is the clock of capture times,
    `clock_pair` ties it to UTC: a replay gives the recorded ones. `stats` adds the node's own numbers to op `stats`;
    `stop` is asked while waiting. Raises InsecureBindError or BindError.
    """

    bind: str
    control: str | None = None
    node: str = field(default="node", kw_only=True)
    curve: CurveServer | None = field(default=None, kw_only=True)
    insecure: bool = field(default=False, kw_only=True)
    lossless: bool = field(default=False, kw_only=True)
    lossless_timeout: float = field(default=30.0, kw_only=True)
    messages_per_second: float = field(default=64.0, kw_only=True)
    max_epoch_bytes: int = field(default=MAX_EPOCH, kw_only=True)
    clock_ns: Callable[[], int] = field(default=time.monotonic_ns, kw_only=True)
    clock_pair: Callable[[], tuple[int, int]] = field(default=system_clock_pair, kw_only=True)
    stats: Callable[[], dict[str, Any]] | None = field(default=None, kw_only=True)
    stop: Callable[[], bool] = field(default=lambda: False, kw_only=True)

    def __post_init__(self) -> None:
        control = control_beside(self.bind) if self.control is None else self.control
        for endpoint in filter(None, (self.bind, control)):
            check_bind(endpoint, self.curve is not None, self.insecure)
        self.session = secrets.token_hex(16)
        self.rejects = Rejects()
        self._streams: dict[str, _Stream] = {}
        self._subscriptions = Subscriptions()
        self._events: list[Event] = []
        self._info_due = 0
        self._closed = False
        self._context = zmq.Context()
        self._bindings: list[Binding] = []
        try:
            self._open(control)
        except BaseException:
            self._release()
            raise

    def _open(self, control: str) -> None:
        self._auth = self.curve.authenticator(self._context) if self.curve else None
        high_water = max(16, round(self.messages_per_second))
        self._socket = socket_of(self._context, zmq.XPUB, high_water, MAX_REQUEST)
        self._socket.set(zmq.XPUB_VERBOSER, 1)
        self._socket.set(zmq.XPUB_NODROP, int(self.lossless))
        self.endpoint = self._bind(self._socket, self.bind)
        self._control = None
        if control:
            router = socket_of(self._context, zmq.ROUTER, 16, MAX_REQUEST)
            self.control_endpoint: str | None = self._bind(router, control)
            handlers = {"info": self._on_info, "stats": self._on_stats}
            handlers |= {"keyframe": self._on_keyframe, "epoch": self._on_epoch}
            self._control = ControlServer(router, handlers, self.rejects)
        else:
            self.control_endpoint = None

    def _bind(self, socket: zmq.Socket, endpoint: str) -> str:
        if self.curve:
            self.curve.apply(socket)
        self._bindings.append(Binding(socket, endpoint))
        return self._bindings[-1].endpoint

    def add_stream(self, info: Info) -> Info:
        """Announce a stream, or what has changed in one (a new size); `seq` runs on. Returns the info as published."""
        stream = self._streams.setdefault(info.stream, _Stream(info, cache=EpochCache(self.max_epoch_bytes)))
        fixed = {"node": self.node, "session": self.session, "control": self.control_endpoint}
        kept = {"epoch": stream.info.epoch, "last_seq": stream.info.last_seq, "ended": False}
        stream.info = msgspec.structs.replace(info, **fixed, **kept)
        self._send_info([info.stream])
        return stream.info

    def publish(self, group: "TokenGroup") -> TokenHeader:
        """Send one token group of an announced stream; returns its header. Raises ValueError if it does not fit info."""
        stream = self._stream(group.stream)
        info = stream.info
        payload = self._payload(group.tokens, info)
        header = TokenHeader(
            **{
                name: getattr(info, name)
                for name in ("stream", "session", "tokenizer", "dtype", "levels", "compression")
            },
            **{name: getattr(group, name) for name in ("epoch", "keyframe", "dropped", "repeated", "encode_ns")},
            seq=info.last_seq + 1,
            frame_ids=[int(number) for number in group.frame_ids],
            capture_ns=[int(time_ns) for time_ns in group.capture_ns],
            grid=list(group.tokens.shape),
            image_size=[int(size) for size in group.image_size],
            publish_ns=self.clock_ns(),
            checksum=checksum_of(payload),
        )
        self._send_tokens(stream, header, pack(header, payload))
        return header

    def forward(self, message: TokenMessage) -> None:
        """Send on another node's message unchanged; its stream must have been announced with `forward_info`."""
        self._send_tokens(self._stream(message.stream), message.header, [bytes(part) for part in message.parts])

    def forward_info(self, info: Info) -> None:
        """Announce another node's stream: session, clock and tokenizer stay its own, control is this publisher's."""
        known = self._streams.get(info.stream)
        same = known is not None and known.info.session == info.session
        last = {"epoch": known.info.epoch, "last_seq": known.info.last_seq} if same else {"epoch": -1, "last_seq": -1}
        info = msgspec.structs.replace(info, control=self.control_endpoint, **last)
        if known is None or not same:
            self._streams[info.stream] = _Stream(info, foreign=True, cache=EpochCache(self.max_epoch_bytes))
        else:
            known.info = info

    def publish_frame(self, frame: "Frame") -> bool:
        """Send a camera image on `frames/<stream>` if anyone listens: its compressed packet if it has one, else RGB."""
        topic = f"frames/{frame.stream}".encode()
        if not self._subscriptions.count([topic]):
            return False
        counts = self._stream(frame.stream).counts
        packet = frame.packet if frame.packet is not None and frame.codec else None
        payload = packet if packet is not None else np.ascontiguousarray(frame.image).tobytes()
        header = FrameHeader(
            stream=frame.stream,
            session=self.session,
            seq=counts["frames"],
            frame_id=frame.frame_id,
            capture_ns=frame.capture_ns,
            publish_ns=self.clock_ns(),
            encoding=frame.codec if packet is not None else "rgb8",
            image_size=list(frame.image.shape[:2]),
            checksum=checksum_of(payload),
        )
        self._send(pack(header, payload))
        counts["frames"] += 1
        return True

    def publish_status(self, values: dict[str, Any]) -> None:
        """Send the node's numbers on `status/<node>`: a map of plain values."""
        self._send(pack(Status(node=self.node, session=self.session, time_ns=self.clock_ns(), values=values)))

    def poll(self) -> list[Event]:
        """Serve control and subscriptions without waiting; returns what the node has to act on."""
        self._read_subscriptions()
        if self._control:
            self._control.serve()
        now = time.monotonic_ns()
        if now >= self._info_due:
            self._info_due = now + INFO_EVERY_NS
            self._send_info(self._streams)
        self._events += [Event("keyframe", name) for name, stream in self._streams.items() if stream.gate.due(now)]
        events, self._events = self._events, []
        return events

    def subscribers(self, stream: str | None = None) -> int:
        """Subscriptions that match `tokens/<stream>`; None: those that match any announced stream."""
        names = list(self._streams) if stream is None else [stream]
        return self._subscriptions.count([f"tokens/{name}".encode() for name in names])

    def wait_subscribers(self, count: int, timeout: float | None = None) -> bool:
        """Serve until `count` readers have joined; False if `timeout` seconds pass or `stop` says so first."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._events = self.poll()
            if self.subscribers() >= count:
                return True
            if self.stop() or (deadline is not None and time.monotonic() >= deadline):
                return False
            self._socket.poll(20)

    def summary(self) -> dict[str, Any]:
        """Counts per stream, readers and malformed input: what op `stats` gives."""
        streams = {
            name: {
                **stream.counts,
                "epoch": stream.info.epoch,
                "last_seq": stream.info.last_seq,
                "subscribers": self.subscribers(name),
                "epoch_bytes": stream.cache.nbytes,
            }
            for name, stream in self._streams.items()
        }
        result = {
            "node": self.node,
            "session": self.session,
            "streams": streams,
            "malformed": dict(self.rejects.counts),
        }
        result["control"] = dict(self._control.counts) if self._control else {}
        return result

    def close(self) -> None:
        """Say that the streams have ended, give readers a second to take what was sent, and leave nothing behind."""
        if self._closed:
            return
        self._closed = True
        for stream in self._streams.values():
            stream.info = msgspec.structs.replace(stream.info, ended=True)
        self._send_info(self._streams)
        self._release()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _release(self) -> None:
        self._closed = True
        for socket in (
            getattr(self, "_socket", None),
            self._control.socket if getattr(self, "_control", None) else None,
        ):
            if socket is not None:
                socket.close()
        if getattr(self, "_auth", None):
            self._auth.stop()
        self._context.destroy()
        for binding in self._bindings:
            binding.release()

    def _stream(self, name: str) -> _Stream:
        if name not in self._streams:
            raise ValueError(
                f"stream {name!r} is not announced; call add_stream first (announced: {list(self._streams)})"
            )
        return self._streams[name]

    def _payload(self, tokens: np.ndarray, info: Info) -> bytes:
        if list(tokens.shape) != info.grid:
            raise ValueError(f"{info.stream}: tokens {list(tokens.shape)}, announced {info.grid}; call add_stream anew")
        if tokens.dtype != DTYPES[info.dtype]:
            raise ValueError(f"{info.stream}: tokens of {tokens.dtype}, announced {info.dtype}")
        payload = np.ascontiguousarray(tokens, DTYPES[info.dtype]).tobytes()
        return compression.compress(payload) if info.compression == "zstd" else payload

    def _send_tokens(self, stream: _Stream, header: TokenHeader, parts: list[Any]) -> None:
        self._send(parts)
        stream.info = msgspec.structs.replace(stream.info, epoch=header.epoch, last_seq=header.seq)
        stream.cache.add(parts, header.keyframe)
        stream.counts["published"] += 1
        stream.counts["bytes"] += sum(len(part) for part in parts)
        if header.keyframe:
            stream.counts["keyframes"] += 1
            stream.gate.made()

    def _send(self, parts: list[Any]) -> None:
        """Send now; under `lossless` wait for room, still serving control meanwhile."""
        deadline = time.monotonic() + self.lossless_timeout
        while True:
            try:
                self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
                return
            except zmq.Again:
                pass
            if self.stop() or time.monotonic() > deadline:
                raise ReaderTooSlow(
                    f"no room for {bytes(parts[0]).decode()} on {self.endpoint}: a reader has not kept up for "
                    f"{self.lossless_timeout} s (lossless_timeout), or the node was stopped; is a reader hanging?"
                )
            self._events = self.poll()
            time.sleep(0.001)

    def _send_info(self, names: Iterable[str]) -> None:
        pair = self.clock_pair()
        for name in names:
            stream = self._streams[name]
            clock = stream.info.clock if stream.foreign else pair
            info = msgspec.structs.replace(stream.info, clock=clock)
            try:
                self._socket.send_multipart(pack(info), zmq.NOBLOCK)
            except zmq.Again:
                stream.counts["info_skipped"] += 1

    def _read_subscriptions(self) -> None:
        joined = set()
        for _ in range(SUBSCRIPTIONS_PER_POLL):
            try:
                arrived, prefix = self._subscriptions.feed(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            except WireError as error:
                self.rejects.add("publish", error)
                continue
            if arrived:
                joined |= {name for name in self._streams if f"info/{name}".encode().startswith(prefix)}
            for name in self._streams:
                if f"tokens/{name}".encode().startswith(prefix):
                    self._events.append(Event("joined" if arrived else "left", name))
        self._send_info(joined)

    def _on_info(self, name: str | None) -> Any:
        pair = self.clock_pair()
        infos = {
            key: msgspec.structs.replace(stream.info, clock=stream.info.clock if stream.foreign else pair)
            for key, stream in self._streams.items()
        }
        return infos if name is None else infos[self._stream(name).info.stream]

    def _on_stats(self, name: str | None) -> Any:
        result = self.summary()
        if name is not None:
            result["streams"] = {name: result["streams"][self._stream(name).info.stream]}
        if self.stats is not None:
            result["node_stats"] = self.stats()
        return result

    def _on_keyframe(self, name: str | None) -> Any:
        if name is None:
            raise ValueError("op 'keyframe' needs a stream")
        return {"coalesced": self._stream(name).gate.ask()}

    def _on_epoch(self, name: str | None) -> Any:
        if name is None:
            raise ValueError("op 'epoch' needs a stream")
        return self._stream(name).cache.result()
