"""The control socket: msgpack requests of readers, the thread that answers them, and a client."""

import contextlib
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, overload

import msgspec
import zmq
from msgspec import Meta, Struct

from streamtok.wire.connection import connect
from streamtok.wire.endpoint import open_socket, receive
from streamtok.wire.errors import Rejects, WireError
from streamtok.wire.header import VERSION, Count, Limits, Name, Text
from streamtok.wire.message import Part, check_version, decode_map, encode
from streamtok.wire.security import CurveClient

log = logging.getLogger("streamtok.wire")
MAX_REQUEST = 4096
MAX_EPOCH = 1 << 25
MAX_EPOCH_MESSAGES = 1 << 14
MAX_REPLY = MAX_EPOCH + (1 << 20)
MAX_RESULT = 1 << 20
SERVE_S = 0.001  # CPU time of one turn, in which many readers may be served
REST = 19.0  # pause after a turn, as a multiple of its time, so that a flood costs the encoder 1/20 of a core (the GIL)
MAX_REST_S = 1.0  # a virtual machine that stood still counts that as CPU time of whoever ran
MAX_UNSENT = 1 << 26  # bytes of large replies to all readers that were not sent yet
Handler = Callable[[str | None], object]


class Request(Struct, kw_only=True, frozen=True):
    """A client's request; `stream` None means all streams, for `info` and `stats`."""

    version: int = VERSION
    id: Count | Text
    op: Text
    stream: Name | None = None


class Reply(Struct, kw_only=True, frozen=True):
    """The reply to the request of the same `id`; `error` says what was wrong if `ok` is False."""

    version: Literal[1] = VERSION
    id: Count | Text
    ok: bool
    error: str | None = None
    result: Any = None


class ReceivedReply(Reply, kw_only=True, frozen=True):
    """A reply whose result is still encoded, since its type depends on the op."""

    result: msgspec.Raw = msgspec.Raw(b"\xc0")


class EpochResult(Struct, frozen=True):
    """The result of op `epoch`: topic, header and payload of each message since the keyframe, oldest first."""

    messages: Annotated[
        list[Annotated[list[bytes], Meta(min_length=3, max_length=3)]], Meta(max_length=MAX_EPOCH_MESSAGES)
    ]


class ControlError(RuntimeError):
    """The node refused a request; the message has the node's reason."""


@dataclass(eq=False)
class ControlServer:
    """Answers requests on a bound ROUTER socket, in its own thread, until the socket's context is terminated.

    `handlers` maps an op to a function of the stream name, or of None for all streams, which is called in that thread.
    It returns the result, or raises ValueError with the client's error text. Requests may have the empty delimiter part
    of a REQ socket. `before_turn` is called in that thread too, at least once a second.
    """

    socket: zmq.Socket
    handlers: Mapping[str, Handler]
    rejects: Rejects
    before_turn: Callable[[], None] = lambda: None
    counts: Counter = field(default_factory=Counter)
    _unsent: list[tuple[bytes, int, zmq.MessageTracker]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="control", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with self.socket, contextlib.suppress(zmq.ContextTerminated):
            while True:
                self.socket.poll(1000)
                self.before_turn()
                # Meanwhile requests wait in a short queue per reader.
                time.sleep(min(MAX_REST_S, REST * self._take_turn()))

    def _take_turn(self) -> float:
        """Answer waiting requests for up to SERVE_S; returns the CPU seconds of this thread."""
        began = time.thread_time()
        with contextlib.suppress(zmq.Again):
            while time.thread_time() - began < SERVE_S:
                self._serve(receive(self.socket))
        return time.thread_time() - began

    def _serve(self, parts: list[memoryview]) -> None:
        """Answer one request; raises zmq.Again if there is no room for the reply."""
        try:
            *route, body = parts
            if len(parts) not in (2, 3) or (len(parts) == 3 and parts[1]):
                raise WireError("parts", f"control request of {len(parts)} parts, expected identity and one map")
            reply = self._answer(body, bytes(route[0]))
        except WireError as error:
            self.rejects.add("control", error)
        else:
            self._send(route, reply)

    def _send(self, route: list[memoryview], reply: bytes) -> None:
        if len(reply) <= zmq.COPY_THRESHOLD:
            self.socket.send_multipart([*route, reply], zmq.NOBLOCK)
            return
        tracker = self.socket.send_multipart([*route, reply], zmq.NOBLOCK, copy=False, track=True)
        if tracker is not None:
            self._unsent.append((bytes(route[0]), len(reply), tracker))

    def _has_room(self, reader: bytes) -> bool:
        """Whether a reader may get a large reply: its last one was sent, and not too many bytes wait in all."""
        self._unsent = [unsent for unsent in self._unsent if not unsent[2].done]
        waiting = sum(size for _, size, _ in self._unsent)
        return waiting < MAX_UNSENT // 2 and all(waits_for != reader for waits_for, _, _ in self._unsent)

    def _answer(self, body: Part, reader: bytes) -> bytes:
        """The encoded reply to one encoded request of `reader`; raises WireError if it is no request."""
        request = decode_map(body, Request, Limits(max_header=MAX_REQUEST))
        self.counts[request.op if request.op in self.handlers else "unknown"] += 1
        try:
            return encode(Reply(id=request.id, ok=True, result=self._handle(request, reader)))
        except ValueError as error:
            return encode(Reply(id=request.id, ok=False, error=str(error)))
        except Exception as error:  # a bug in a handler is reported to the client, and must not end the thread
            log.exception("event=control_failed op=%s stream=%s", request.op, request.stream)
            return encode(Reply(id=request.id, ok=False, error=f"{request.op} failed in the node: {error!r}"))

    def _handle(self, request: Request, reader: bytes) -> object:
        """The result of a request; ValueError says why there is none."""
        if request.version != VERSION:
            raise ValueError(f"request of wire version {request.version}, this node knows version {VERSION}")
        handler = self.handlers.get(request.op)
        if handler is None:
            raise ValueError(f"op {request.op!r}, expected one of {', '.join(self.handlers)}")
        if request.op == "epoch" and not self._has_room(reader):
            self.counts["busy"] += 1
            raise ValueError("replies wait unread; read them, or ask again later")
        return handler(request.stream)


class ControlClient:
    """Sends requests to a node, one at a time, from one thread. Use it as a context manager, or close it.

    `endpoint` is the node's control endpoint, `curve` the reader's keys for a secure node.
    """

    def __init__(self, endpoint: str, curve: CurveClient | None = None) -> None:
        self._context = zmq.Context()
        try:
            self._socket = control_socket(self._context, endpoint, curve)
        except ValueError:
            self._context.term()
            raise
        self._ids = itertools.count(1)
        self.rejects = Rejects()
        self.endpoint = endpoint

    @overload
    def request(self, op: Literal["epoch"], stream: str | None = None, timeout: float = 2.0) -> EpochResult: ...
    @overload
    def request(
        self, op: Literal["info", "stats", "keyframe"], stream: str | None = None, timeout: float = 2.0
    ) -> dict[str, Any]: ...

    def request(self, op: str, stream: str | None = None, timeout: float = 2.0) -> EpochResult | dict[str, Any]:
        """Send a request, and return its result: an `EpochResult` of op "epoch", else a map. `timeout` is in seconds.

        Raises ControlError if the node refuses, WireError if the reply is malformed, TimeoutError if none comes.
        """
        asked = next(self._ids)
        self._socket.send(encode(Request(id=asked, op=op, stream=stream)))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if not self._socket.poll(max(1, int(left * 1000))):
                continue
            reply = receive_reply(self._socket, self.rejects)
            if reply is not None and reply.id == asked:
                if not reply.ok:
                    raise ControlError(f"{op} refused by {self.endpoint}: {reply.error}")
                if op == "epoch":
                    return decode_epoch(reply.result)
                return decode_map(reply.result, dict[str, Any], Limits(max_header=MAX_RESULT))
        raise TimeoutError(f"no reply to {op} from {self.endpoint} within {timeout} s; is the node running?")

    def close(self) -> None:
        """Close the socket and its context."""
        self._socket.close(0)
        self._context.term()

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def control_socket(context: zmq.Context, endpoint: str, curve: CurveClient | None) -> zmq.Socket:
    """Open a DEALER socket connected to a node's control endpoint; ValueError if it cannot connect there."""
    socket = open_socket(context, zmq.DEALER, 16, MAX_REPLY)
    socket.set(zmq.RCVHWM, 0)  # unlimited, since a full queue can crash libzmq (`tcp`) and the socket is short-lived
    try:
        connect(socket, endpoint, curve)
    except ValueError:
        socket.close(0)
        raise
    return socket


def receive_reply(socket: zmq.Socket, rejects: Rejects) -> ReceivedReply | None:
    """Receive the reply that waits on a DEALER socket; None (counted in `rejects`) if it is malformed."""
    parts = receive(socket, most=1)
    try:
        if len(parts) != 1:
            raise WireError("parts", f"control reply of {len(parts)} parts, expected 1")
        check_version(parts[0], Limits(max_header=MAX_REPLY))
        return decode_map(parts[0], ReceivedReply, Limits(max_header=MAX_REPLY))
    except WireError as error:
        rejects.add("reply", error)
        return None


def decode_epoch(result: msgspec.Raw) -> EpochResult:
    """Decode and check the result of op `epoch`; raises WireError."""
    return decode_map(result, EpochResult, Limits(max_header=MAX_REPLY))
