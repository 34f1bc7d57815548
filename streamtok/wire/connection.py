"""A connecting socket that is made to come back after every kind of break, and says why it cannot."""

import logging
import math
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamtok.event_log import EventLog
from streamtok.wire.endpoint import LOCAL_QUEUE
from streamtok.wire.security import CurveClient
from streamtok.wire.tcp import RESETS, Link, LinkState, find_link

log = logging.getLogger("streamtok.wire")
RETRY_S = 1.0
CONNECT_MS = 800  # for one try: a link that comes back is not waited for until the kernel sends its next SYN
PROBES = 10  # of keep-alive, a second each, that a dead host may leave without an answer
HOLDING_PROBES = 120  # likewise, of one that its reader may hold up: it is not to hear of that meanwhile (`tcp`)
ANSWER_MS = 2000  # within which a host that is there has acknowledged one
LOOK_S = 0.05  # between looks at the connection
RESET_S = 1.2  # without a message, which info brings each second, after a packet was dropped: it was a reset
SILENCE_S = 3.0  # after which a node that has not answered yet is told of, once
_UP = zmq.EVENT_HANDSHAKE_SUCCEEDED
_TRYING = zmq.EVENT_CONNECTED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECT_RETRIED
_DENIED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_EVENTS = _UP | _TRYING | _DENIED | zmq.EVENT_DISCONNECTED


def connect(socket: zmq.Socket, endpoint: str, curve: CurveClient | None = None) -> None:
    """Connect with the keys of `curve`, by IPv6 where the host is written so. ValueError names a wrong endpoint."""
    if curve is not None:
        curve.apply(socket)
    socket.set(zmq.IPV6, int("[" in endpoint))
    socket.set(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise ValueError(f"cannot connect to {endpoint!r}: {error}; expected tcp://HOST:PORT or ipc://PATH") from error


def explain_silence(endpoint: str) -> str:
    """What keeps a reader waiting, as far as it can be seen from here."""
    path = Path(endpoint.removeprefix("ipc://"))
    if endpoint.startswith("ipc://") and path.exists() and not os.access(path, os.W_OK):
        return "this user may not connect to that socket; start the node with an ipc_group that this user is in"
    return "no node answers there yet; is it running?"


@dataclass
class Connection:
    """Connects `socket` to `endpoint` as `connect` does and watches it; call `check` often, from the socket's thread.

    libzmq reconnects by itself after a lost connection, but not after a message beyond ZMQ_MAXMSGSIZE or a refused
    key: then nothing would ever arrive again, in silence. `up` says whether the node can be heard now, `waited` whether
    it ever could not be since the socket connected; `counts` has connected, disconnected and refused.

    With `holds` whoever reads may stop for a while (`tcp` says what that takes). Else the socket's queue has no limit,
    and `drained` is to be set when all messages were taken: if more than `most` bytes come before that happens again,
    the connection is given up, and `counts` has overrun.
    """

    socket: zmq.Socket
    endpoint: str
    curve: CurveClient | None = None
    holds: bool = False
    most: float = math.inf
    drained: bool = True
    up: bool = False
    waited: bool = False
    counts: Counter = field(default_factory=Counter)
    _broken_since: float | None = None
    _silent_since: float | None = field(default_factory=time.monotonic)
    _link: Link | None = None
    _base: LinkState | None = None
    _base_at: float = 0.0
    _look_due: float = 0.0
    _log: EventLog = field(default_factory=lambda: EventLog("subscribe", log, "socket"))
    _monitor: zmq.Socket = field(init=False)

    def __post_init__(self) -> None:
        self._monitor = self.socket.get_monitor_socket(_EVENTS)
        self._set_options()
        try:
            connect(self.socket, self.endpoint, self.curve)
        except ValueError:
            self.close()
            raise

    def check(self) -> None:
        """Take what has happened; connect anew if libzmq has given up for RETRY_S."""
        while self._monitor.poll(0):
            told = recv_monitor_message(self._monitor)
            if told["event"] == zmq.EVENT_CONNECTED:
                self._on_connected(told["value"])
            self._on_event(told["event"])
        if self._link is not None and time.monotonic() >= self._look_due:
            self._look(self._link)
        if self._silent_since is not None and time.monotonic() - self._silent_since > SILENCE_S:
            self._silent_since, self.waited = None, True
            log.warning("event=waiting endpoint=%s: %s", self.endpoint, explain_silence(self.endpoint))
        if self._broken_since is not None and time.monotonic() - self._broken_since > RETRY_S:
            self.connect_anew()

    def connect_anew(self) -> None:
        """Give up the connection, which may hang, and open another."""
        self.up, self.waited, self._broken_since, self._link = False, True, time.monotonic(), None
        self.socket.disconnect(self.endpoint)
        self.socket.connect(self.endpoint)

    def answers(self) -> bool:
        """Whether the node's machine acknowledges what it is asked: the link is up, however busy the node may be."""
        state = None if self._link is None else self._link.look()
        return state is not None and not state.closed and state.silent_ms < ANSWER_MS

    def close(self) -> None:
        """Stop watching and close the socket. Closing twice is fine."""
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(0)

    def _set_options(self) -> None:
        self.socket.set(zmq.TCP_KEEPALIVE_IDLE, 1)
        self.socket.set(zmq.TCP_KEEPALIVE_INTVL, 1)
        self.socket.set(zmq.TCP_KEEPALIVE_CNT, HOLDING_PROBES if self.holds else PROBES)
        if not self.holds:
            self.socket.set(zmq.RCVHWM, LOCAL_QUEUE if self.endpoint.startswith("ipc://") else 0)

    def _on_connected(self, descriptor: int) -> None:
        self._link, self._base, self.drained = find_link(descriptor), None, True
        if self._link is None or not self.holds:
            return
        self._link.drop(RESETS)
        state = self._link.look()
        if state is not None and state.closed:  # before it was shielded
            self.connect_anew()

    def _look(self, link: Link) -> None:
        """Give up a connection that was reset, or that brings more than is taken."""
        now, state = time.monotonic(), link.look()
        self._look_due = now + LOOK_S
        if state is None:
            self._link = None
        elif self._base is None or self.drained:
            self._base, self._base_at, self.drained = state, now, False
        elif self.holds and state.dropped > self._base.dropped and now - self._base_at > RESET_S:
            self.connect_anew()
        elif not self.holds and state.received - self._base.received > self.most:
            self.counts["overrun"] += 1
            self._log.add(time.monotonic_ns(), "overrun", {"connections": 1}, bytes=self.most, endpoint=self.endpoint)
            self.connect_anew()

    def _on_event(self, event: int) -> None:
        if event & _UP:
            self.up, self._broken_since, self._silent_since = True, None, None
            self.counts["connected"] += 1
        elif event & _TRYING:
            self._broken_since = None
            self.waited = self.waited or event == zmq.EVENT_CONNECT_RETRIED
        elif event & _DENIED:
            self._on_denied()
        else:
            self.up, self.waited, self._broken_since = False, True, time.monotonic()
            self.counts["disconnected"] += 1

    def _on_denied(self) -> None:
        self._silent_since = None
        self.counts["refused"] += 1
        if self.counts["refused"] == 1:
            log.warning(
                "event=refused endpoint=%s later=counted advice='the node wants other keys: pass --curve (curve=) with "
                "a key on its allow list, and its server.key'",
                self.endpoint,
            )
