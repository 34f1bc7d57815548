"""A connecting socket that reconnects after every kind of failure, and logs why it cannot."""

import contextlib
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamtok.event_log import EventLog
from streamtok.names import parse_endpoint
from streamtok.wire.endpoint import LOCAL_QUEUE, receive
from streamtok.wire.intake import Intake
from streamtok.wire.security import CurveClient

log = logging.getLogger("streamtok.wire")
RETRY_S = 1.0
CONNECT_MS = 800  # of one attempt: a new one sends a SYN sooner than the kernel's back-off would
PROBES = 10  # unanswered keep-alive probes, one a second, after which a host is dead
HOLDING_PROBES = 120  # likewise if the reader may pause: libzmq must not see a time-out meanwhile (`tcp`)
SILENCE_S = 3.0  # after which a node that does not answer, or a program there that is no node of ours, is logged
_UP = zmq.EVENT_HANDSHAKE_SUCCEEDED
_TRYING = zmq.EVENT_CONNECTED | zmq.EVENT_CONNECT_DELAYED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CLOSED
_DENIED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_EVENTS = _UP | _TRYING | _DENIED | zmq.EVENT_DISCONNECTED


def connect(socket: zmq.Socket, endpoint: str, curve: CurveClient | None = None) -> None:
    """Connect with the keys of `curve`, by IPv6 if the host is an IPv6 address. ValueError names a wrong endpoint."""
    if curve is not None:
        curve.apply(socket)
    socket.set(zmq.IPV6, int("[" in endpoint))
    socket.set(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    try:
        socket.connect(parse_endpoint(endpoint))
    except ValueError as error:
        raise ValueError(f"cannot connect to {endpoint!r}: {error}") from error
    except zmq.ZMQError as error:
        raise ValueError(f"cannot connect to {endpoint!r}: {error}; expected tcp://HOST:PORT or ipc://PATH") from error


def explain_silence(endpoint: str, connected: bool) -> str:
    """Say why a reader gets no answer, as far as this machine can tell; `connected` without a handshake, or not."""
    if connected:
        return "a program listens there and completes no handshake: it is stopped, no node, or of another server.key"
    path = Path(endpoint.removeprefix("ipc://"))
    if endpoint.startswith("ipc://") and path.exists() and not os.access(path, os.W_OK):
        return "this user may not connect to that socket; start the node with an ipc_group that this user is in"
    return "no node answers there yet; is it running?"


@dataclass
class Connection:
    """Connects `socket` to `endpoint` as `connect` does and watches it; call `check` often, from the socket's thread.

    libzmq reconnects by itself after a lost connection, but not after a message beyond ZMQ_MAXMSGSIZE or a refused key:
    then it would stay silent for ever. `up` says whether the connection is established, `waited` whether it was down at
    some time since `connect`. `connects` counts how often it was established.

    `intake` judges the data that comes: a connection at fault is replaced.
    """

    socket: zmq.Socket
    endpoint: str
    curve: CurveClient | None = None
    intake: Intake = field(default_factory=Intake)
    up: bool = False
    waited: bool = False
    connects: int = 0
    _broken_since: float | None = None
    _silent_since: float | None = field(default_factory=time.monotonic)
    _refused: bool = False
    _met: bool = False  # whether a program has accepted the last attempt to connect
    _log: EventLog = field(default_factory=lambda: EventLog("subscribe", log, "socket"))
    _monitor: zmq.Socket = field(init=False)

    def __post_init__(self) -> None:
        self._monitor = self.socket.get_monitor_socket(_EVENTS)
        self.socket.set(zmq.TCP_KEEPALIVE_IDLE, 1)
        self.socket.set(zmq.TCP_KEEPALIVE_INTVL, 1)
        self.socket.set(zmq.TCP_KEEPALIVE_CNT, HOLDING_PROBES if self.intake.holds else PROBES)
        if not self.intake.holds:
            self.socket.set(zmq.RCVHWM, LOCAL_QUEUE if self.endpoint.startswith("ipc://") else 0)
        try:
            connect(self.socket, self.endpoint, self.curve)
        except ValueError:
            self.close()
            raise

    def check(self) -> bool:
        """Handle the socket's events; reconnect if libzmq has given up for RETRY_S. Returns whether it connected."""
        before = self.connects
        while self._monitor.poll(0):
            told = recv_monitor_message(self._monitor)
            if told["event"] == zmq.EVENT_CONNECTED:
                self.intake.watch(told["value"])
            self._on_event(told["event"])
        fault = self.intake.judge()
        if fault == "overrun":
            most = self.intake.most
            self._log.add(time.monotonic_ns(), "overrun", {"connections": 1}, bytes=most, endpoint=self.endpoint)
        if fault is not None:
            self.connect_anew()
        if self._silent_since is not None and time.monotonic() - self._silent_since > SILENCE_S:
            self._silent_since, self.waited = None, True
            log.warning("event=waiting endpoint=%s: %s", self.endpoint, explain_silence(self.endpoint, self._met))
        if self._broken_since is not None and time.monotonic() - self._broken_since > RETRY_S:
            self.connect_anew()
        return self.connects > before

    def connect_anew(self) -> None:
        """Replace the connection, which may hang, by a new one."""
        self._lose()
        self.intake.leave()
        with contextlib.suppress(zmq.Again):  # `poll` may have begun a message: without its rest libzmq aborts
            receive(self.socket)
        self.socket.disconnect(self.endpoint)
        self.socket.connect(self.endpoint)

    def close(self) -> None:
        """Stop watching and close the socket; idempotent."""
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(0)
        self._log.finish()

    def _on_event(self, event: int) -> None:
        if event & _UP:
            self.up, self._broken_since, self._silent_since = True, None, None
            self.connects += 1
        elif event & _TRYING:
            self._broken_since = None
            if event == zmq.EVENT_CONNECTED and not self._met:
                self._silent_since = time.monotonic()
            self._met = event == zmq.EVENT_CONNECTED or (self._met and event != zmq.EVENT_CLOSED)
            self.waited = self.waited or event == zmq.EVENT_CONNECT_RETRIED
        elif event & _DENIED:
            self._on_denied()
        else:
            self._lose()

    def _lose(self) -> None:
        if self.up:
            self._met, self._silent_since = False, time.monotonic()
        self.up, self.waited, self._broken_since = False, True, time.monotonic()

    def _on_denied(self) -> None:
        self._silent_since = None
        if not self._refused:
            self._refused = True
            log.warning(
                "event=refused endpoint=%s advice='the node wants other keys: pass --curve (curve=) with "
                "a key on its allow list, and its server.key'",
                self.endpoint,
            )
