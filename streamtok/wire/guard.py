"""Who may keep a connection to a node: strangers that say nothing and peers that send too much are cut off.

libzmq reads all that a peer sends, keeps each of its subscriptions, and has no limit per connection. What it accepts it
tells, though, and TCP knows how much has come.
"""

import contextlib
import logging
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamtok.event_log import EventLog
from streamtok.wire.endpoint import HANDSHAKE_MS

log = logging.getLogger("streamtok.wire")

MAX_STRANGERS = 64  # connections at a time that are younger and have sent next to nothing
GREETING = 90  # bytes: a reader has sent more when it is known
BURST = 1 << 18  # bytes of subscriptions that a reader may send at once
PER_SECOND = 1 << 12  # and then
BURST_OF_ALL = 1 << 22  # of all readers together; libzmq keeps some 40 bytes for each byte of a topic
RESERVED = 128  # descriptors for files of our own
TICK_MS = 200
EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_MONITOR_STOPPED
BYTES_RECEIVED = struct.Struct("=128xQ")  # within Linux's struct tcp_info


@dataclass(frozen=True)
class Peer:
    """A TCP connection: where it comes from, since when (monotonic s), and whether what it sends is limited."""

    address: object
    since: float
    metered: bool


class PeerGuard:
    """Watches bound sockets from a thread of its own, from the start until `close`; what `metered` gets is limited.

    When a key leaves the folder `allowed`, everyone has to connect anew: libzmq does not say whose a connection is, and
    those who are still allowed miss nothing. Call both from the thread of the sockets, `close` before they are closed.
    """

    def __init__(self, sockets: Sequence[zmq.Socket], metered: zmq.Socket, allowed: Path | None = None) -> None:
        self._sockets, self._metered, self._allowed = sockets, metered, allowed
        self._keys = self._list_keys()
        self._peers: dict[int, Peer] = {}  # by descriptor
        self._log = EventLog("publish", log, "socket")
        self._monitors = [self._watch(each) for each in sockets]
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        for each in self._sockets:
            each.disable_monitor()
        self._thread.join()
        self._log.finish()

    def _watch(self, watched: zmq.Socket) -> tuple[zmq.Socket, bool]:
        address = f"inproc://peers-{id(watched)}"
        watched.monitor(address, EVENTS)
        monitor = watched.context.socket(zmq.PAIR)
        monitor.connect(address)
        return monitor, watched is self._metered

    def _run(self) -> None:
        poller, metered = zmq.Poller(), dict(self._monitors)
        for monitor in metered:
            poller.register(monitor, zmq.POLLIN)
        due = time.monotonic()
        while metered:  # each tells of its end, and must be read until then: it may hold libzmq's thread up
            for monitor, _ in poller.poll(TICK_MS if self._peers else None):
                event = recv_monitor_message(monitor)
                if event["event"] == zmq.EVENT_MONITOR_STOPPED:
                    poller.unregister(monitor)
                    del metered[monitor]
                    monitor.close(0)
                else:
                    self._take(event["event"], event["value"], metered[monitor])
            if time.monotonic() >= due:
                due = time.monotonic() + TICK_MS / 1e3
                self._limit_input()
                self._shut_out()

    def _take(self, event: int, descriptor: int, metered: bool) -> None:
        if event != zmq.EVENT_ACCEPTED:
            self._peers.pop(descriptor, None)
            return
        with contextlib.suppress(OSError), _borrow(descriptor) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family != socket.AF_UNIX:
                self._peers[descriptor] = Peer(connection.getpeername(), time.monotonic(), metered)
        if descriptor >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED:
            self._cut(descriptor, "files")
        elif len(self._peers) > MAX_STRANGERS:
            self._limit_strangers()

    def _limit_strangers(self) -> None:
        young = time.monotonic() - HANDSHAKE_MS / 1e3
        sent = {each: self._received(each) for each, peer in list(self._peers.items()) if peer.since > young}
        strangers = [each for each, count in sent.items() if count is not None and count < GREETING]
        for descriptor in strangers[: max(0, len(strangers) - MAX_STRANGERS)]:
            self._cut(descriptor, "silent")

    def _limit_input(self) -> None:
        now, sent = time.monotonic(), {}
        for descriptor, peer in [each for each in self._peers.items() if each[1].metered]:
            sent[descriptor] = max(0.0, (self._received(descriptor) or 0) - PER_SECOND * (now - peer.since))
        for descriptor in sorted(sent, key=lambda each: sent[each], reverse=True):
            if sent[descriptor] <= BURST and sum(sent.values()) <= BURST_OF_ALL:
                return
            self._cut(descriptor, "flood")
            del sent[descriptor]

    def _shut_out(self) -> None:
        before, self._keys = self._keys, self._list_keys()
        if before - self._keys:
            for descriptor in list(self._peers):
                self._cut(descriptor, "key_removed")

    def _list_keys(self) -> set[tuple[str, int]]:
        """Names and times of the key files; as before where the folder cannot be read now."""
        files = [] if self._allowed is None else self._allowed.glob("*.key")
        try:
            return {(path.name, path.stat().st_mtime_ns) for path in files}
        except OSError:
            return self._keys

    def _received(self, descriptor: int) -> int | None:
        """Bytes that have come from a peer; None where the descriptor is something else by now, and it is forgotten."""
        with contextlib.suppress(OSError), _borrow(descriptor) as connection:
            if connection.getpeername() == self._peers[descriptor].address:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED.size)
                return BYTES_RECEIVED.unpack(info)[0]
        self._peers.pop(descriptor, None)
        return None

    def _cut(self, descriptor: int, reason: str) -> None:
        peer = self._peers.pop(descriptor, None)
        if peer is None:
            return
        with contextlib.suppress(OSError), _borrow(descriptor) as connection:
            if connection.getpeername() == peer.address:
                connection.shutdown(socket.SHUT_RDWR)  # libzmq then closes it
                self._log.add(time.monotonic_ns(), "cut_off", {"peers": 1}, reason=reason, newest=peer.address)


@contextlib.contextmanager
def _borrow(descriptor: int) -> Iterator[socket.socket]:
    """A connection of libzmq's as a socket, which stays libzmq's; OSError if it is none."""
    connection = socket.socket(fileno=descriptor)
    try:
        yield connection
    finally:
        connection.detach()
