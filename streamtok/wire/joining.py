"""Late join: fetches the current epoch over the control socket, and delivers it before the live messages."""

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace

import msgspec
import zmq

from streamtok.event_log import EventLog
from streamtok.wire.control import Request, control_socket, decode_epoch, read_reply
from streamtok.wire.endpoint import reachable, receive
from streamtok.wire.errors import Rejects, WireError
from streamtok.wire.header import Info, Limits
from streamtok.wire.message import TokenMessage, encode, unpack
from streamtok.wire.security import CurveClient

log = logging.getLogger("streamtok.wire")
PATIENCE = 3.0
MAX_UNPACKED = 1 << 28  # bytes of the unpacked grids of an epoch
SENT_SINCE = 1000  # most messages that a node can have sent between its info and its reply


@dataclass
class _Join:
    held: deque[TokenMessage]
    deadline: float
    socket: zmq.Socket | None = None
    asked: Info | None = None


@dataclass
class Joiner:
    """Holds back a stream's live messages until its epoch has come, or PATIENCE seconds have passed.

    Call `begin` when a session starts, `hold` for every live message, `ask` at its info, and `take_ready` often.
    `connect_ahead` saves two round trips if the control endpoint is already known.
    """

    context: zmq.Context
    endpoint: str
    rejects: Rejects
    limits: Limits
    capacity: int
    curve: CurveClient | None = None
    _joins: dict[str, _Join] = field(default_factory=dict)
    _ahead: dict[tuple[str, str], zmq.Socket] = field(default_factory=dict)  # by stream and control endpoint
    _ahead_until: float = 0.0
    _log: EventLog = field(default_factory=lambda: EventLog("subscribe", log, "socket"))

    def connect_ahead(self, infos: Iterable[Info]) -> None:
        """Connect to these streams' control endpoints for PATIENCE seconds, in parallel to the stream's handshake."""
        wanted = {(info.stream, info.control) for info in infos if info.control is not None}
        self._leave_ahead(wanted)  # keep the others: a stream may reconnect many times in a second
        self._ahead_until = time.monotonic() + PATIENCE
        for stream, control in wanted - self._ahead.keys():
            with contextlib.suppress(ValueError, zmq.ZMQError):  # `ask` will report it
                self._ahead[stream, control] = self._connect(control)

    def begin(self, stream: str) -> None:
        """Start holding back a stream's live messages."""
        self._drop(stream)
        self._joins[stream] = _Join(deque(maxlen=self.capacity), time.monotonic() + PATIENCE)

    @property
    def waiting(self) -> set[str]:
        """The streams whose live messages are held back."""
        return set(self._joins)

    def hold(self, message: TokenMessage) -> bool:
        """Hold a live message back if its stream is being joined; returns False if it is to be delivered now."""
        join = self._joins.get(message.stream)
        if join is None:
            return False
        if message.header.keyframe and not join.held:
            self._drop(message.stream)
            return False
        join.held.append(message)
        return True

    def ask(self, info: Info) -> None:
        """Request the epoch from the node's control endpoint, once; stop waiting if there is none to get."""
        join = self._joins[info.stream]
        if join.socket is not None:
            return
        if info.control is None or info.last_seq < 0:
            join.deadline = 0.0
            return
        try:
            join.socket = self._ahead.pop((info.stream, info.control), None) or self._connect(info.control)
            join.asked = info
            join.socket.send(encode(Request(id=1, op="epoch", stream=info.stream)), zmq.NOBLOCK)
        except (ValueError, zmq.ZMQError) as error:
            self._note(info.stream, "join_failed", control=info.control, error=error)
            join.deadline = 0.0

    def take_ready(self) -> list[tuple[str, list[TokenMessage]]]:
        """Streams whose join is over, each with the epoch's messages, followed by the live ones held back."""
        if self._ahead and time.monotonic() > self._ahead_until:
            self._leave_ahead()
        done = []
        for stream, join in list(self._joins.items()):
            messages = self._receive_epoch(stream, join)
            if messages is not None or time.monotonic() > join.deadline:
                done.append((stream, [replace(late, catch_up=True) for late in (*(messages or ()), *join.held)]))
                self._drop(stream)
        return done

    def close(self) -> None:
        """Give up all joins and close their sockets."""
        self._leave_ahead()
        for stream in list(self._joins):
            self._drop(stream)
        self._log.finish()

    def _connect(self, control: str) -> zmq.Socket:
        return control_socket(self.context, reachable(control, self.endpoint), self.curve)

    def _leave_ahead(self, wanted: Set[tuple[str, str]] = frozenset()) -> None:
        for key in self._ahead.keys() - wanted:
            self._ahead.pop(key).close(0)

    def _note(self, stream: str, event: str, **facts: object) -> None:
        self._log.add(time.monotonic_ns(), event, {"joins": 1}, logging.WARNING, stream=stream, **facts)

    def _drop(self, stream: str) -> None:
        join = self._joins.pop(stream, None)
        if join is not None and join.socket is not None:
            join.socket.close(0)

    def _receive_epoch(self, stream: str, join: _Join) -> list[TokenMessage] | None:
        if join.socket is None or join.asked is None or not join.socket.poll(0):
            return None
        reply = read_reply(receive(join.socket, most=1), self.rejects)
        if reply is None:
            return []
        if not reply.ok:
            self._note(stream, "join_refused", error=repr(reply.error))
            return []
        try:
            return self._unpack_epoch(join.asked, reply.result)
        except WireError as error:
            self.rejects.add("reply", error)
            return []

    def _unpack_epoch(self, asked: Info, result: msgspec.Raw) -> list[TokenMessage]:
        """Unpack the messages of a reply; they must be consecutive, of the info's session, and lead to live ones."""
        messages, size = [], 0
        for parts in decode_epoch(result).messages:
            messages.append(replace(unpack(parts, self.limits, [asked.grid]), info=asked))
            size += messages[-1].header.nbytes
            if size > MAX_UNPACKED:
                raise WireError("size", f"result of op 'epoch' of {asked.stream!r} is {size} bytes and more, unpacked")
        if any(message.stream != asked.stream for message in messages):
            raise WireError("result", f"result of op 'epoch' of {asked.stream!r} holds messages of another stream")
        headers = [message.header for message in messages]
        if any(header.session != asked.session for header in headers):
            raise WireError("result", f"result of op 'epoch' of {asked.stream!r} is of another session than its info")
        steps = {later.seq - earlier.seq for earlier, later in itertools.pairwise(headers)}
        if steps - {1} or any(header.seq > asked.last_seq + SENT_SINCE for header in headers[:1]):
            raise WireError("result", f"result of op 'epoch' of {asked.stream!r} does not lead to its live messages")
        return messages
