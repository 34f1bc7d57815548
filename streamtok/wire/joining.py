"""Late join: fetches the current epoch over the control socket, and delivers it before the live messages."""

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec
import zmq

from streamtok.event_log import EventLog
from streamtok.wire.control import Request, control_socket, decode_epoch, receive_reply
from streamtok.wire.endpoint import reachable
from streamtok.wire.errors import Rejects, WireError
from streamtok.wire.header import Info, Limits
from streamtok.wire.message import TokenMessage, check_tokens, encode
from streamtok.wire.security import CurveClient

log = logging.getLogger("streamtok.wire")
PATIENCE = 3.0
MAX_UNPACKED = 1 << 28  # bytes of the unpacked grids of an epoch, and of the live ones of all streams that wait for it
SENT_SINCE = 1000  # most messages that a node can have sent between its info and its reply


@dataclass
class _Join:
    held: deque[TokenMessage]
    deadline: float
    nbytes: int = 0
    socket: zmq.Socket | None = None
    asked: Info | None = None


@dataclass
class Joiner:
    """Holds back a stream's live messages until its epoch has come, PATIENCE seconds have passed, or too many wait.

    Call `begin` when a session starts, `hold` for every live message, `ask` at its info, and `take_ready` often.
    """

    context: zmq.Context
    endpoint: str
    rejects: Rejects
    limits: Limits
    capacity: int
    curve: CurveClient | None = None
    _joins: dict[str, _Join] = field(default_factory=dict)
    _log: EventLog = field(default_factory=lambda: EventLog("subscribe", log, "socket"))

    def begin(self, stream: str) -> None:
        """Start holding back a stream's live messages."""
        self._drop(stream)
        self._joins[stream] = _Join(deque(maxlen=self.capacity), time.monotonic() + PATIENCE)

    @property
    def waiting(self) -> set[str]:
        """The streams whose live messages are held back."""
        return set(self._joins)

    @property
    def full(self) -> bool:
        """Whether too much waits, of all streams together: call `take_ready` before more is held."""
        return sum(join.nbytes for join in self._joins.values()) > MAX_UNPACKED

    def hold(self, message: TokenMessage) -> bool:
        """Hold a live message back if its stream is being joined; returns False if it is to be delivered now."""
        join = self._joins.get(message.stream)
        if join is None:
            return False
        if message.header.keyframe and not join.held:
            self._drop(message.stream)
            return False
        join.held.append(message)
        join.nbytes += message.header.nbytes
        return True

    def ask(self, info: Info) -> None:
        """Request the epoch that is waited for, once, from the node's control; stop waiting if there is none to get."""
        join = self._joins.get(info.stream)
        if join is None or join.socket is not None:
            return
        if info.control is None or info.last_seq < 0:
            join.deadline = 0.0
            return
        try:
            join.socket = control_socket(self.context, reachable(info.control, self.endpoint), self.curve)
            join.asked = info
            join.socket.send(encode(Request(id=1, op="epoch", stream=info.stream)), zmq.NOBLOCK)
        except (ValueError, zmq.ZMQError) as error:
            self._note(info.stream, "join_failed", control=info.control, error=error)
            join.deadline = 0.0

    def take_ready(self) -> Iterator[tuple[str, list[TokenMessage]]]:
        """Streams whose join is over, each with the epoch's messages, followed by the live ones held back.

        While too much waits, streams that hold most are given up. A stream is in `waiting` until the next one is taken,
        so that it never seems to have none left.
        """
        for stream, join in sorted(self._joins.items(), key=lambda each: -each[1].nbytes):
            messages = self._receive_epoch(stream, join)
            if messages is not None or self.full or time.monotonic() > join.deadline:
                yield stream, [replace(late, catch_up=True) for late in (*(messages or ()), *join.held)]
                self._drop(stream)

    def close(self) -> None:
        """Give up all joins and close their sockets."""
        for stream in list(self._joins):
            self._drop(stream)
        self._log.finish()

    def _note(self, stream: str, event: str, **facts: object) -> None:
        self._log.add(time.monotonic_ns(), event, {"joins": 1}, logging.WARNING, stream=stream, **facts)

    def _drop(self, stream: str) -> None:
        join = self._joins.pop(stream, None)
        if join is not None and join.socket is not None:
            join.socket.close(0)

    def _receive_epoch(self, stream: str, join: _Join) -> list[TokenMessage] | None:
        if join.socket is None or join.asked is None or not join.socket.poll(0):
            return None
        reply = receive_reply(join.socket, self.rejects)
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
        messages: list[TokenMessage] = []
        size, name = 0, f"result of op 'epoch' of {asked.stream!r}"
        for parts in decode_epoch(result).messages:
            message = replace(check_tokens(parts, self.limits, [asked.grid]), info=asked)
            header, size = message.header, size + message.header.nbytes
            if size > MAX_UNPACKED:
                raise WireError("size", f"{name} is {size} bytes and more, unpacked")
            newest = asked.last_seq + SENT_SINCE
            follows = header.seq == messages[-1].header.seq + 1 if messages else header.seq <= newest
            if (header.stream, header.session) != (asked.stream, asked.session) or not follows:
                raise WireError("result", f"{name} does not lead to its live messages")
            messages.append(message)
        return messages
