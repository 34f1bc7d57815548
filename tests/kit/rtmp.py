"""A real RTMP server on this machine, which plays one clip to every client."""

import contextlib
import re
import socketserver
import struct
import threading
import time

CHUNK, CONTROL, COMMAND = 1 << 16, 1, 20  # bytes of a message's parts; types of messages
STARTED = {"level": "status", "code": "NetStream.Play.Start"}
ASKED = re.compile(rb"\x02\0.(connect|createStream|play)\0(.{8})", re.DOTALL)  # a command and its number, in AMF


def to_amf(value):
    """A value in AMF0: a number, a text, None or a dict of texts."""
    if isinstance(value, dict):
        pairs = b"".join(struct.pack(">H", len(name)) + name.encode() + to_amf(one) for name, one in value.items())
        return b"\x03" + pairs + b"\0\0\x09"
    if isinstance(value, str):
        return b"\x02" + struct.pack(">H", len(value)) + value.encode()
    return b"\x05" if value is None else b"\0" + struct.pack(">d", value)


def to_message(kind, payload, time_ms=0):
    """A message in one chunk."""
    head = struct.pack(">I", time_ms)[1:] + struct.pack(">I", len(payload))[1:] + bytes([kind, 1, 0, 0, 0])
    return b"\x03" + head + payload


def split_tags(data):
    """(type, time in ms, payload) of each tag of an FLV file."""
    at = 13
    while at < len(data):
        size, time_ms = int.from_bytes(data[at + 1 : at + 4], "big"), int.from_bytes(data[at + 4 : at + 7], "big")
        yield data[at], time_ms, data[at + 11 : at + 11 + size]
        at += 15 + size


class RtmpServer:
    """Plays an FLV file of bytes at its own pace; `url` is where."""

    def __init__(self, data):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):
                    answer(self.request, data)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"rtmp://127.0.0.1:{self._server.server_address[1]}/live/camera"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._server.server_close()


def answer(connection, data):
    """Shake hands, answer the commands, and send the file."""
    lines = connection.makefile("rb")
    hello = lines.read(1537)
    connection.sendall(hello[:1] + bytes(1536) + hello[1:])
    connection.sendall(to_message(CONTROL, struct.pack(">I", CHUNK)))
    seen, name = b"", b""
    while name != b"play":
        seen += connection.recv(CHUNK)
        for name, number in ASKED.findall(seen):
            result = "_result", *struct.unpack(">d", number), None, 1.0
            told = ("onStatus", 0.0, None, STARTED) if name == b"play" else result
            connection.sendall(to_message(COMMAND, b"".join(map(to_amf, told))))
        seen = seen[-64:] if not ASKED.search(seen) else b""
    started = time.monotonic()
    for kind, time_ms, payload in split_tags(data):
        time.sleep(max(0.0, started + time_ms / 1000 - time.monotonic()))
        connection.sendall(to_message(kind, payload, time_ms))
