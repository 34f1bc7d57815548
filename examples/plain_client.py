"""Reads a token stream with pyzmq and msgpack alone: what a client in another language has to do.

    python examples/plain_client.py tcp://127.0.0.1:5555 front
    python examples/plain_client.py tcp://127.0.0.1:5555 front --join --messages 100

One JSON object per message on standard output. docs/wire-protocol.md explains every field and rule used here.
"""

import argparse
import json
import math
import struct
import sys
import time
import zlib

import msgpack
import zmq

VERSION = 1
FORMATS = {"uint16": "H", "uint32": "I", "float16": "e"}
MAX_GRID = 1 << 22
Header = dict  # docs/wire-protocol.md lists its fields


def connect(context: zmq.Context, endpoint: str, stream: str) -> zmq.Socket:
    """A SUB socket for one stream. Tokens are subscribed before info, so the first info proves that both arrive."""
    socket = context.socket(zmq.SUB)
    socket.set(zmq.RCVHWM, 64)
    socket.set(zmq.MAXMSGSIZE, 4 * MAX_GRID + 65536)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.subscribe(f"tokens/{stream}")
    socket.subscribe(f"info/{stream}")
    socket.connect(endpoint)
    return socket


def read_header(parts: list[bytes]) -> Header:
    """The header of a three-part message, or ValueError."""
    if len(parts) != 3:
        raise ValueError(f"{len(parts)} parts, expected 3")
    try:
        header = msgpack.unpackb(parts[1])
    except Exception as error:  # msgpack raises several unrelated types for damaged input
        raise ValueError(f"header is not msgpack: {error}") from error
    if not isinstance(header, dict) or header.get("version") != VERSION:
        raise ValueError(f"not a header of version {VERSION}")
    return header


def read_grid(header: Header, payload: bytes) -> tuple[float, ...]:
    """The numbers of the grid, flat and row-major; ValueError if the payload is not what the header says."""
    if header["compression"] != "none":
        raise ValueError(f"compression {header['compression']!r} is not read here")
    count = math.prod(header["grid"])
    if count > MAX_GRID or len(payload) != count * struct.calcsize("<" + FORMATS[header["dtype"]]):
        raise ValueError(f"payload of {len(payload)} bytes for grid {header['grid']} {header['dtype']}")
    if zlib.crc32(payload) != header["checksum"]:
        raise ValueError("payload is damaged (checksum)")
    return struct.unpack(f"<{count}{FORMATS[header['dtype']]}", payload)


def resolve_control(control: str, endpoint: str) -> str:
    """The address of the control socket: a node bound to all its addresses has the host that the stream comes from."""
    host, _, port = control.removeprefix("tcp://").rpartition(":")
    return f"{endpoint.rpartition(':')[0]}:{port}" if host in ("0.0.0.0", "[::]") else control


def request(context: zmq.Context, control: str, op: str, stream: str, timeout_ms: int = 3000) -> dict:
    """One request to the node's control socket; its result, or RuntimeError."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(control)
    try:
        socket.send(msgpack.packb({"version": VERSION, "id": 1, "op": op, "stream": stream}))
        if not socket.poll(timeout_ms):
            raise RuntimeError(f"no reply to {op} from {control}")
        reply = msgpack.unpackb(socket.recv())
    finally:
        socket.close()
    if not reply["ok"]:
        raise RuntimeError(f"{op}: {reply['error']}")
    return reply["result"]


class Continuity:
    """Finds what was lost: a jump of `seq`, or `last_seq` in info ahead of what has come. A new session is no loss."""

    def __init__(self) -> None:
        self.session: str | None = None
        self.seq: int | None = None
        self.decodable = False
        self.lost = 0

    def take_message(self, header: Header) -> bool:
        """False for a message that was seen already (it may come twice, live and from the epoch)."""
        if header["session"] != self.session:
            self.session, self.seq, self.decodable = header["session"], None, False
        if self.seq is not None and header["seq"] <= self.seq:
            return False
        missing = 0 if self.seq is None else header["seq"] - self.seq - 1
        self.lost += missing
        self.decodable = header["keyframe"] or (self.decodable and missing == 0)
        self.seq = header["seq"]
        return True

    def take_info(self, info: Header) -> None:
        """Count messages that were lost although nothing has followed them."""
        if info["session"] == self.session and self.seq is not None and info["last_seq"] > self.seq:
            self.lost += info["last_seq"] - self.seq
            self.seq, self.decodable = info["last_seq"], False


def messages(context: zmq.Context, endpoint: str, stream: str, join: bool):
    """Yield (header, numbers, continuity) of each good message; what is malformed is reported and skipped."""
    socket, continuity = connect(context, endpoint, stream), Continuity()
    token_topic, info_topic = f"tokens/{stream}".encode(), f"info/{stream}".encode()
    while True:
        parts = socket.recv_multipart()
        # topics match by prefix (front also delivers front_left), so the whole topic is compared
        if parts[0] not in (token_topic, info_topic):
            continue
        try:
            waiting = [parts]
            if parts[0] == info_topic:
                info = read_header(parts)
                continuity.take_info(info)
                waiting, join = (fetch_epoch(context, info, endpoint, stream) if join else []), False
            for message in waiting:
                header = read_header(message)
                numbers = read_grid(header, message[2])
                if continuity.take_message(header):
                    yield header, numbers, continuity
        except (ValueError, KeyError, RuntimeError) as error:
            print(f"skipped: {error}", file=sys.stderr)


def fetch_epoch(context: zmq.Context, info: Header, endpoint: str, stream: str) -> list[list[bytes]]:
    """The messages that the current epoch has sent already, if the node answers requests."""
    if not info["control"] or info["last_seq"] < 0:
        return []
    return request(context, resolve_control(info["control"], endpoint), "epoch", stream)["messages"]


def main() -> None:
    """Print one line per message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    parser.add_argument("stream")
    parser.add_argument("--join", action="store_true", help="first read what the current epoch has sent already")
    parser.add_argument("--messages", type=int, default=0, help="end after this many")
    arguments = parser.parse_args()
    context = zmq.Context()
    stream = messages(context, arguments.endpoint, arguments.stream, arguments.join)
    for count, (header, numbers, continuity) in enumerate(stream, 1):
        line = {key: header[key] for key in ("stream", "session", "epoch", "seq", "keyframe", "frame_ids", "grid")}
        line |= {"first_tokens": list(numbers[:4]), "sum": sum(numbers), "lost": continuity.lost}
        line |= {"decodable": continuity.decodable, "printed_at": time.time()}
        print(json.dumps(line), flush=True)
        if count == arguments.messages:
            break
    context.destroy(linger=0)


if __name__ == "__main__":
    main()
