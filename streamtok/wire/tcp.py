"""The TCP connections beneath libzmq's sockets: what the kernel knows of one, and what it keeps from libzmq.

libzmq stops reading a peer whose queue is full. If that connection breaks off (a reset, a time-out) while a PING waits
in libzmq's buffer, libzmq 4.3.5 ends the process (`!_io_error`, its issue 4364). So where it may stop, it must hear of
the end of a connection only by reading up to it. A filter drops resets, and whoever looks after the connection finds
out and ends what can be read. Linux only: elsewhere nothing is filtered.
"""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

SO_ATTACH_FILTER, SO_MEMINFO = 26, 55
MEMINFO = struct.Struct("=32xI")  # packets that were dropped
TCP_INFO = struct.Struct("=B2xB20xI28xI68xQ")  # within Linux's struct tcp_info
CLOSED = 7
UNREAD = 1 << 16  # bytes that are thrown away at a time
PROBES = 3  # keep-alive probes without an answer, of a peer that is gone
SILENT_MS = 60_000  # without an acknowledgement of what was sent, likewise
RESET_MS = 500  # likewise, after a packet that was dropped: a kernel answers sooner, however busy its machine is
Filter = tuple[tuple[int, int, int, int], ...]  # classic BPF: code, jump if true, jump if false, value
RESETS: Filter = ((0x30, 0, 0, 13), (0x45, 0, 1, 4), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))  # byte 13: the flags
EVERYTHING: Filter = ((0x06, 0, 0, 0),)


@dataclass(frozen=True)
class LinkState:
    """What the kernel knows: bytes `received` so far, packets `dropped`, whether it has given the connection up.

    `unacknowledged` segments wait for the peer, who has acknowledged nothing for `silent_ms` and answered no `probes`.
    """

    closed: bool
    probes: int
    unacknowledged: int
    silent_ms: int
    received: int
    dropped: int

    def is_gone(self, dropped_before: int) -> bool:
        """Whether the peer has reset the connection, or has vanished."""
        asked = bool(self.unacknowledged or self.probes)
        after_reset = self.dropped > dropped_before and self.silent_ms > RESET_MS
        return self.closed or self.probes >= PROBES or (asked and (after_reset or self.silent_ms > SILENT_MS))


@dataclass(frozen=True)
class Link:
    """A TCP connection of libzmq's, by its descriptor and its peer's address: libzmq may have closed it meanwhile."""

    descriptor: int
    address: object

    def look(self) -> LinkState | None:
        """What the kernel knows of it; None once libzmq has closed it, and on systems that do not tell."""
        with contextlib.suppress(OSError, AttributeError, struct.error), self._borrow() as connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
            state, *counts = TCP_INFO.unpack(info)
            dropped = MEMINFO.unpack(connection.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size))
            return LinkState(state == CLOSED, *counts, *dropped)
        return None

    def drop(self, packets: Filter) -> None:
        """Let the kernel drop RESETS or EVERYTHING that comes."""
        with contextlib.suppress(OSError), self._borrow() as connection:
            attach_filter(connection, packets)

    def end_input(self) -> bool:
        """Let libzmq read the end next, upon which it closes; no time-out comes before. Returns whether it was open.

        What it has not read is thrown away. Nothing stays in the kernel, which would turn away a peer that comes back
        with the same port.
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
    """The connection of a descriptor that libzmq has told of; None if it is not TCP, or gone."""
    with contextlib.suppress(OSError), borrow(descriptor) as connection:
        if connection.type == socket.SOCK_STREAM and connection.family != socket.AF_UNIX:
            return Link(descriptor, connection.getpeername())
    return None


def shield_listener(descriptor: int) -> None:
    """Drop the resets of all connections that a listening socket of libzmq's will accept."""
    with contextlib.suppress(OSError), borrow(descriptor) as listener:
        if listener.family != socket.AF_UNIX:
            attach_filter(listener, RESETS)


def attach_filter(connection: socket.socket, packets: Filter) -> None:
    """Let the kernel drop some packets; OSError on a system without such filters."""
    code = b"".join(struct.pack("=HBBI", *step) for step in packets)
    program = ctypes.create_string_buffer(code, len(code))
    given = struct.pack("HL", len(packets), ctypes.addressof(program))
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, given)


@contextlib.contextmanager
def borrow(descriptor: int) -> Iterator[socket.socket]:
    """A socket that is and stays libzmq's, by its descriptor; OSError if that is no socket.

    By a descriptor of our own: libzmq may close its own at any time, and the number may be another's then.
    """
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        yield connection
