"""Protects a node's sockets: connections that stay silent and peers that send too much are cut off.

libzmq has no limits per connection: it reads all that a peer sends, and keeps all its subscriptions and all parts of a
message. But it reports accepted connections, and TCP knows how many bytes each has received.
"""

import contextlib
import logging
import resource
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamtok.event_log import EventLog
from streamtok.wire.tcp import EVERYTHING, Link, LinkState, find_link

log = logging.getLogger("streamtok.wire")

MAX_STRANGERS = 64  # concurrent connections that have not completed a handshake
GREETING = 90  # bytes; a reader has sent more once its handshake is complete
BURST = 1 << 17  # bytes that a peer may send at once
SUBSCRIPTIONS_PER_S, REQUESTS_PER_S = 1 << 12, 1 << 16  # bytes/s beyond BURST; more requests are not answered anyway
MAX_SUBSCRIPTIONS = 1 << 22  # bytes of all readers together; libzmq keeps some 40 bytes for each byte of a topic
MAX_WALK = 1 << 28  # those bytes times the readers: for each that leaves, libzmq takes 60 ns a byte, and sends nothing
STALLED_S, MAX_UNTAKEN = 10.0, 1 << 26  # s and bytes sent, after both of which a peer that takes nothing is cut off
RESERVED = 128  # descriptors kept free for our own files
TICK_MS = 200
REST_S = 0.002  # pause after peers that have sent something were checked, so that a flood takes little of a core
LOOK_S = 0.01  # CPU time per tick, enough for some hundred peers: the encoder waits meanwhile (the GIL)
Key = tuple[zmq.Socket, int]  # a monitor and a descriptor, which another monitor's connection may get meanwhile
EVENTS_PER_TURN = 256
EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED


@dataclass(eq=False)
class Peer:
    """An accepted connection. `since` and `seen` are monotonic s; `subscribes` is False for control clients.

    `received` are its bytes so far, `debt` those beyond its rate (a leaky bucket), `dropped` its filtered packets. It
    has `taken` bytes, and something last at `took` (monotonic s), unless nothing was to be taken; by then the publisher
    had `sent` so many.
    """

    link: Link
    since: float
    subscribes: bool
    received: int = 0
    debt: float = 0.0
    dropped: int = 0
    seen: float = 0.0
    taken: int = 0
    took: float = 0.0
    sent: int = 0

    def note(self, state: LinkState, now: float, sent: int = 0) -> None:
        """Update from the kernel's state, and the bytes that the publisher has sent so far."""
        per_second = SUBSCRIPTIONS_PER_S if self.subscribes else REQUESTS_PER_S
        more = state.received - self.received - per_second * (now - max(self.seen, self.since))
        self.debt = max(0.0, self.debt + more)
        if not state.is_shut or state.taken != self.taken:
            self.taken, self.took, self.sent = state.taken, now, sent
        self.received, self.dropped, self.seen = state.received, state.dropped, now


class PeerGuard:
    """Watches sockets in its own thread, from before they are bound until their context ends; `stream` is the XPUB.

    libzmq's thread blocks while its monitor events are not read. `disable_monitor` waits for that thread with the GIL
    held, which after a thousand connections is a deadlock, so it must not be called.

    When a key is removed from the folder `allowed`, all connections are cut, since libzmq does not say whose each is.
    Readers that are still allowed reconnect and miss nothing.

    `sent` is the number of bytes that the publisher has sent so far. While that stays the same no peer is cut off
    because it takes nothing.
    """

    def __init__(
        self, sockets: Sequence[zmq.Socket], stream: zmq.Socket, allowed: Path | None, sent: Callable[[], int]
    ) -> None:
        self._allowed, self._sent = allowed, sent
        self._keys = self._list_keys()
        self._peers: dict[Key, Peer] = {}  # the least recently checked first
        self._strangers: dict[Key, Peer] = {}  # those that may not have completed the handshake, the oldest first
        self._log = EventLog("publish", log, "socket")
        # Reports peers that have sent something, since a tick is too long for a flood (Linux only).
        self._arrivals = select.epoll() if hasattr(select, "epoll") else None
        self._monitors = {self._watch(socket): socket is stream for socket in sockets}  # and whether it is the XPUB
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads; the context waits for open sockets
            self._close()
            raise

    def finish(self) -> None:
        """Wait for the thread to end, after the context was terminated."""
        self._thread.join()
        self._log.finish()

    def _watch(self, watched: zmq.Socket) -> zmq.Socket:
        address = f"inproc://peers-{id(watched)}"
        watched.monitor(address, EVENTS)
        monitor = watched.context.socket(zmq.PAIR)
        monitor.connect(address)
        return monitor

    def _run(self) -> None:
        with contextlib.suppress(zmq.ContextTerminated):
            self._watch_all()
        self._close()

    def _close(self) -> None:
        if self._arrivals is not None:
            self._arrivals.close()
        for monitor in self._monitors:
            monitor.close(0)

    def _watch_all(self) -> None:
        poller = zmq.Poller()
        for monitor in self._monitors:
            poller.register(monitor, zmq.POLLIN)
        if self._arrivals is not None:
            poller.register(self._arrivals, zmq.POLLIN)
        due = time.monotonic()
        while True:
            for source, _ in poller.poll(TICK_MS if self._peers else None):
                if isinstance(source, zmq.Socket):
                    self._read_events(source)
                else:
                    self._check_arrived()
            if self._peers and time.monotonic() >= due:
                due = time.monotonic() + TICK_MS / 1e3
                self._check(list(self._peers))
                self._shut_out()

    def _read_events(self, monitor: zmq.Socket) -> None:
        for _ in range(EVENTS_PER_TURN):
            if not monitor.poll(0):
                return
            told = recv_monitor_message(monitor)
            self._take(told["event"], (monitor, told["value"]))

    def _take(self, event: int, key: Key) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._accept(key)
        else:
            self._forget(key)

    def _accept(self, key: Key) -> None:
        link = find_link(key[1])
        if link is None:
            return
        self._forget(key)
        if self._arrivals is not None:
            with contextlib.suppress(OSError):  # libzmq has closed it
                self._arrivals.register(key[1], select.EPOLLIN | select.EPOLLET)
        self._peers[key] = self._strangers[key] = Peer(link, time.monotonic(), subscribes=self._monitors[key[0]])
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if most != resource.RLIM_INFINITY and key[1] >= most - RESERVED:
            self._cut(key, "files")
        elif len(self._strangers) > MAX_STRANGERS:
            self._meet_oldest()

    def _forget(self, key: Key) -> None:
        self._peers.pop(key, None)
        self._strangers.pop(key, None)

    def _meet_oldest(self) -> None:
        """Cut off the oldest stranger, unless it has completed the handshake meanwhile."""
        key = next(iter(self._strangers))
        state = self._strangers.pop(key).link.look()
        if state is not None and state.received < GREETING:
            self._cut(key, "silent")

    def _check_arrived(self) -> None:
        arrived = self._arrivals.poll(0) if self._arrivals is not None else ()
        self._check((monitor, descriptor) for monitor in self._monitors for descriptor, _ in arrived)
        time.sleep(REST_S)

    def _check(self, keys: Iterable[Key]) -> None:
        """Cut off peers that sent too much or are gone, which libzmq cannot see; after LOOK_S the rest wait a tick."""
        now, began, sent = time.monotonic(), time.thread_time(), self._sent()
        for key in keys:
            if time.thread_time() - began > LOOK_S:
                break
            peer = self._peers.pop(key, None)
            state = None if peer is None else peer.link.look()
            if peer is None or state is None:
                self._forget(key)
                continue
            self._peers[key] = peer
            gone = state.is_gone(peer.dropped)
            peer.note(state, now, sent)
            if gone or peer.debt > BURST:
                self._cut(key, "gone" if gone else "flood")
            elif now - peer.took > STALLED_S and sent - peer.sent > MAX_UNTAKEN:
                self._cut(key, "stalled")
        self._limit_subscriptions()

    def _limit_subscriptions(self) -> None:
        """Cut off the readers that sent most, until the subscriptions of all, which libzmq keeps, are few enough.

        Of readers that sent about as much, the newest goes: the others read on.
        """
        sent = {key: max(0, peer.received - GREETING) for key, peer in self._peers.items() if peer.subscribes}
        total, most = sum(sent.values()), min(MAX_SUBSCRIPTIONS, MAX_WALK // max(1, len(sent)))
        if total <= most:
            return
        for key in sorted(sent, key=lambda key: (sent[key].bit_length(), self._peers[key].since), reverse=True):
            if total <= most:
                return
            self._cut(key, "flood")
            total -= sent[key]

    def _shut_out(self) -> None:
        before, self._keys = self._keys, self._list_keys()
        if before - self._keys:
            for key in list(self._peers):
                self._cut(key, "key_removed")

    def _list_keys(self) -> set[tuple[str, int]]:
        """Names and times of the key files; the previous ones if the folder cannot be read now."""
        files = [] if self._allowed is None else self._allowed.glob("*.key")
        try:
            return {(path.name, path.stat().st_mtime_ns) for path in files}
        except OSError:
            return self._keys

    def _cut(self, key: Key, reason: str) -> None:
        peer = self._peers[key]
        self._forget(key)
        if reason == "flood":
            peer.link.drop(EVERYTHING)
        if peer.link.end_input():
            self._log.add(time.monotonic_ns(), "cut_off", {"peers": 1}, reason=reason, newest=peer.link.address)
