"""Access to the TCP connections of libzmq's sockets: their state in the kernel, and filters that hide resets.

libzmq stops reading a peer whose queue is full. If that connection fails (a reset, a time-out) while a PING waits in
libzmq's buffer, libzmq 4.3.5 aborts the process (`!_io_error`, its issue 4364). So a connection that may be paused must
end only by a regular end of stream. A BPF filter drops resets; `guard` and `intake` detect them from the kernel's state
and end the input. Linux only: elsewhere nothing is filtered.
"""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

SO_ATTACH_FILTER, SO_MEMINFO = 26, 55
MEMINFO = struct.Struct("=32xI")  # the number of dropped packets
TCP_INFO = struct.Struct("=B2xB20xI28xI60xQQ8xI")  # the fields of LinkState within Linux's struct tcp_info
CLOSED = 7
UNREAD = 1 << 16  # bytes that are discarded at a time
PROBES = 3  # unanswered keep-alive probes after which a peer is gone
SILENT_MS = 60_000  # without an acknowledgement of sent data, after which a peer is gone
RESET_MS = 2000  # likewise after a dropped packet, which may be a probe: of two probes a kernel acknowledges one
Filter = tuple[tuple[int, int, int, int], ...]  # classic BPF: code, jump if true, jump if false, value
RESETS: Filter = ((0x30, 0, 0, 13), (0x45, 0, 1, 4), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))  # byte 13: the flags
EVERYTHING: Filter = ((0x06, 0, 0, 0),)


@dataclass(frozen=True)
class LinkState:
    """A connection's state in the kernel: whether it is closed, bytes `received` so far, packets `dropped`.

    The peer has not acknowledged `unacknowledged` segments and `probes`, and nothing at all for `silent_ms`. It has
    `taken` bytes so far; the kernel has not sent `unsent` ones.
    """

    closed: bool
    probes: int
    unacknowledged: int
    silent_ms: int
    taken: int
    received: int
    unsent: int
    dropped: int

    @property
    def is_shut(self) -> bool:
        """Whether the peer's machine answers, but has no room left for what waits, since its program takes nothing."""
        return self.unsent > 0 and self.unacknowledged == 0

    def is_gone(self, dropped_before: int) -> bool:
        """Whether the peer has reset the connection, or has vanished."""
        asked = bool(self.unacknowledged or self.probes)
        after_reset = self.dropped > dropped_before and self.silent_ms > RESET_MS
        return self.closed or self.probes >= PROBES or (asked and (after_reset or self.silent_ms > SILENT_MS))


@dataclass(frozen=True)
class Link:
    """A TCP connection of libzmq, by descriptor; the peer's address shows if libzmq has closed it meanwhile."""

    descriptor: int
    address: object

    def look(self) -> LinkState | None:
        """The state in the kernel; None once libzmq has closed it, and on systems without TCP_INFO."""
        with contextlib.suppress(OSError, AttributeError, struct.error), self._borrow() as connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
            state, *counts = TCP_INFO.unpack(info)
            dropped = MEMINFO.unpack(connection.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))
            return LinkState(state == CLOSED, *counts, *dropped)
        return None

    def drop(self, packets: Filter) -> None:
        """Let the kernel drop incoming RESETS or EVERYTHING."""
        with contextlib.suppress(OSError), self._borrow() as connection:
            attach_filter(connection, packets)

    def end_input(self) -> bool:
        """Make libzmq read the end of the stream next, so that it closes; returns whether the connection was open.

        Unread data is discarded, and keep-alive is off, so that no time-out comes first. Nothing stays in the kernel,
        which would refuse a peer that reconnects from the same port.
        """
        with contextlib.suppress(OSError), self._borrow() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.shutdown(socket.SHUT_RD)
            with contextlib.suppress(OSError):  # until nothing is left
                while connection.recv(UNREAD, socket.MSG_TRUNC | socket.MSG_DONTWAIT):
                    pass
            return True
        return False

    @contextlib.contextmanager
    def _borrow(self) -> Iterator[socket.socket]:
        with borrow(self.descriptor) as connection:
            if connection.getpeername() != self.address:
                raise OSError("closed by libzmq")
            yield connection


def find_link(descriptor: int) -> Link | None:
    """The connection of a descriptor that libzmq's monitor has reported; None if it is not TCP, or gone."""
    with contextlib.suppress(OSError), borrow(descriptor) as connection:
        if connection.type == socket.SOCK_STREAM and connection.family != socket.AF_UNIX:
            return Link(descriptor, connection.getpeername())
    return None


def shield_listener(listener: socket.socket) -> None:
    """Drop the resets of all connections that a socket will accept, which inherit its filter."""
    with contextlib.suppress(OSError):
        attach_filter(listener, RESETS)


def attach_filter(connection: socket.socket, packets: Filter) -> None:
    """Attach a BPF filter to a socket; OSError on a system without such filters."""
    code = b"".join(struct.pack("=HBBI", *step) for step in packets)
    program = ctypes.create_string_buffer(code, len(code))
    given = struct.pack("HL", len(packets), ctypes.addressof(program))
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, given)


@contextlib.contextmanager
def borrow(descriptor: int) -> Iterator[socket.socket]:
    """Yield a socket of libzmq, by its descriptor, without taking it over; OSError if it is no socket.

    The descriptor is duplicated, since libzmq may close its own at any time, and the number may be reused.
    """
    copy = os.dup(descriptor)
    try:
        connection = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with connection:
        yield connection
