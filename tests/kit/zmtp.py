"""ZMTP 3.0 by hand, without keys: what a peer may send that no ZeroMQ library does."""

import socket
import struct

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def frame(body: bytes, more: bool = False, command: bool = False) -> bytes:
    """One frame."""
    flags = more | command << 2
    return (bytes([flags, len(body)]) if len(body) < 256 else struct.pack(">BQ", flags | 2, len(body))) + body


def ready(kind: bytes) -> bytes:
    """The end of a handshake of a socket of that kind."""
    named = ((b"Socket-Type", kind), (b"Identity", b""))
    fields = [bytes([len(name)]) + name + struct.pack(">I", len(value)) + value for name, value in named]
    return frame(b"\x05READY" + b"".join(fields), command=True)


def ping(ttl: int = 0) -> bytes:
    """A heartbeat that asks for an answer; without another within `ttl` tenths of a second the sender is gone."""
    return frame(b"\x04PING" + struct.pack(">H", ttl), command=True)


def shake_hands(connection: socket.socket, kind: bytes) -> socket.socket:
    """Greet the other end as a socket of that kind, and wait until it has done the same."""
    connection.settimeout(60)
    connection.sendall(GREETING)
    heard = b""
    while len(heard) < len(GREETING):
        heard += connection.recv(len(GREETING) - len(heard))
    connection.sendall(ready(kind))
    connection.recv(4096)
    return connection


def reset(connection: socket.socket) -> None:
    """Break a connection off, with a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
