"""Reads a token stream with pyzmq and msgpack alone, to show what a client in another language has to do.

    python examples/plain_client.py tcp://127.0.0.1:5555 front
    python examples/plain_client.py tcp://127.0.0.1:5555 front --join --messages 100

It prints one JSON object per message. docs/wire-protocol.md explains every field and rule used here.
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
LISTS = ("frame_ids", "grid")  # of numbers
FIELDS: dict[bytes, dict] = {  # the fields of tokens and info that are used here, and their types
    b"tokens": {
        **dict.fromkeys(("session", "dtype", "compression"), str),
        **dict.fromkeys(("epoch", "seq", "checksum"), int),
        **dict.fromkeys(LISTS, list),
        "keyframe": bool,
    },
    b"info": {"session": str, "last_seq": int, "control": (str, type(None))},
}


def connect(context: zmq.Context, endpoint: str, stream: str) -> zmq.Socket:
    """Open a SUB socket for one stream. Tokens are subscribed before info, so the first info proves that both come."""
    socket = context.socket(zmq.SUB)
    socket.set(zmq.RCVHWM, 64)
    socket.set(zmq.MAXMSGSIZE, 4 * MAX_GRID + 65536)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.subscribe(f"tokens/{stream}")
    socket.subscribe(f"info/{stream}")
    socket.connect(endpoint)
    return socket


def read_map(packed: bytes) -> dict:
    """Read a msgpack map of this version; ValueError if it is none."""
    try:
        read = msgpack.unpackb(packed)
    except Exception as error:  # msgpack raises several unrelated types for damaged input
        raise ValueError(f"not msgpack: {error}") from error
    if not isinstance(read, dict) or read.get("version") != VERSION:
        raise ValueError(f"not a map of version {VERSION}")
    return read


def read_header(parts: list[bytes]) -> Header:
    """Read the header of a three-part message, and check the fields that are used here; raises ValueError."""
    if len(parts) != 3:
        raise ValueError(f"{len(parts)} parts, expected 3")
    header = read_map(parts[1])
    kind = parts[0].partition(b"/")[0]
    fields = FIELDS[kind]
    wrong = [name for name, needed in fields.items() if not isinstance(header.get(name), needed)]
    numbers = [number for name in LISTS if name in fields and not wrong for number in header[name]]
    if wrong or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"header with wrong or missing {', '.join(wrong or LISTS)}")
    if parts[0] != kind + f"/{header.get('stream')}".encode():
        raise ValueError(f"topic {parts[0]!r} is not that of stream {header.get('stream')!r}")
    return header


def read_grid(header: Header, payload: bytes) -> tuple[float, ...]:
    """Read the grid's numbers, flat and row-major; ValueError if the payload does not match the header."""
    if header["compression"] != "none" or header["dtype"] not in FORMATS:
        found = f"compression {header['compression']!r} of {header['dtype']!r}"
        raise ValueError(f"{found} is not read here: run the node with --compression none")
    count = math.prod(header["grid"])
    if count > MAX_GRID or len(payload) != count * struct.calcsize("<" + FORMATS[header["dtype"]]):
        raise ValueError(f"payload of {len(payload)} bytes for grid {header['grid']} {header['dtype']}")
    if zlib.crc32(payload) != header["checksum"]:
        raise ValueError("payload is damaged (checksum)")
    return struct.unpack(f"<{count}{FORMATS[header['dtype']]}", payload)


def resolve_control(control: str, endpoint: str) -> str:
    """The address of the control socket; for a node bound to all its addresses, with the host of `endpoint`."""
    host, _, port = control.removeprefix("tcp://").rpartition(":")
    return f"{endpoint.rpartition(':')[0]}:{port}" if host in ("0.0.0.0", "[::]") else control


def request(context: zmq.Context, control: str, op: str, stream: str, timeout_ms: int = 3000) -> dict:
    """Send one request to the node's control socket; returns its result, or raises RuntimeError."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    try:
        socket.connect(control)
        socket.send(msgpack.packb({"version": VERSION, "id": 1, "op": op, "stream": stream}))
        if not socket.poll(timeout_ms):
            raise RuntimeError(f"no reply to {op} from {control}")
        reply = read_map(socket.recv())
    except zmq.ZMQError as error:
        raise RuntimeError(f"{control} is no address to ask: {error}") from error
    finally:
        socket.close()
    if reply.get("ok") is not True or not isinstance(reply.get("result"), dict):
        raise RuntimeError(f"{op}: {reply.get('error')}")
    return reply["result"]


class Continuity:
    """Detects losses: a jump of `seq`, or an info whose `last_seq` is ahead of what came. A new session is no loss.

    No single message can move the state: one that jumps, or begins a session, is held until another confirms it.
    """

    def __init__(self) -> None:
        self.session: str | None = None
        self.seq = self.said = -1
        self.decodable = False
        self.lost = 0
        self.held: list[tuple[Header, tuple]] = []

    def believe(self, header: Header, numbers: tuple) -> list[tuple[Header, tuple]]:
        """The messages to take now, oldest first: this one, the held one that it confirms, both or none."""
        session, before = header["session"], header["seq"] - 1
        if (session, before + 1) == (self.session, self.seq):  # a repetition
            return []
        believed = self.held if self.bears_out(session, before) else []
        last = [(taken["session"], taken["seq"]) for taken, _ in believed] or [(self.session, self.seq)]
        goes_on = self.session is None or last == [(session, before)]
        self.held = [] if goes_on else [(header, numbers)]
        return [*believed, (header, numbers)] if goes_on else believed

    def bears_out(self, session: str, last: int) -> bool:
        """Whether what comes after message `last` confirms the held one; a jump ahead does not confirm a step back."""
        for header, _ in self.held:
            went_back = session == self.session and header["seq"] <= self.seq <= last
            return header["session"] == session and header["seq"] <= last and not went_back
        return False

    def take_message(self, header: Header) -> None:
        """Advance the state by a message that `believe` or `take_info` has returned."""
        if header["session"] != self.session or header["seq"] <= self.seq:
            self.session, self.seq, self.said, self.decodable = header["session"], header["seq"] - 1, -1, False
        missing = header["seq"] - self.seq - 1
        self.lost += missing
        self.decodable = header["keyframe"] or (self.decodable and missing == 0)
        self.seq = header["seq"]

    def take_info(self, info: Header) -> list[tuple[Header, tuple]]:
        """Take an info; returns the held message if it confirms it. A loss at the end counts once two infos show it."""
        said, self.said = self.said, info["last_seq"]
        if self.bears_out(info["session"], self.said):
            believed, self.held = self.held, []
            return believed
        missing = min(said, self.said) - self.seq
        if info["session"] == self.session and missing > 0:
            self.lost, self.seq, self.decodable = self.lost + missing, self.seq + missing, False
        return []


def messages(context: zmq.Context, endpoint: str, stream: str, join: bool):
    """Yield (header, numbers, continuity) of each good message; malformed ones are reported and skipped."""
    socket, continuity = connect(context, endpoint, stream), Continuity()
    fetched: tuple[str | None, int] = (None, -1)  # session and seq of the last message that came with the epoch
    token_topic, info_topic = f"tokens/{stream}".encode(), f"info/{stream}".encode()
    while True:
        parts = socket.recv_multipart()
        # Subscriptions match by prefix (front also delivers front_left), so compare the whole topic.
        if parts[0] not in (token_topic, info_topic):
            continue
        try:
            waiting = [] if join else [parts]  # a joining reader will get it with the epoch
            if parts[0] == info_topic:
                info = read_header(parts)
                for believed, numbers in continuity.take_info(info):
                    continuity.take_message(believed)
                    yield believed, numbers, continuity
                asked, join = join, False  # ask once; if that fails, go on with live messages
                waiting = fetch_epoch(context, info, endpoint, stream) if asked else []
            for message in waiting:
                header = read_header(message)
                if message is parts and header["session"] == fetched[0] and header["seq"] <= fetched[1]:
                    continue  # it has come with the epoch
                for believed, numbers in continuity.believe(header, read_grid(header, message[2])):
                    continuity.take_message(believed)
                    yield believed, numbers, continuity
                if message is not parts:
                    fetched = (continuity.session, continuity.seq)
        except (ValueError, RuntimeError) as error:
            print(f"skipped: {error}", file=sys.stderr)


def fetch_epoch(context: zmq.Context, info: Header, endpoint: str, stream: str) -> list[list[bytes]]:
    """Fetch the messages that the current epoch has sent already, if the node has a control socket."""
    if not info["control"] or info["last_seq"] < 0:
        return []
    found = request(context, resolve_control(info["control"], endpoint), "epoch", stream).get("messages")
    if not isinstance(found, list) or not all(is_message(each, f"tokens/{stream}".encode()) for each in found):
        raise RuntimeError("an epoch that is no list of messages of its stream")
    return found


def is_message(parts: object, topic: bytes) -> bool:
    """Whether an item of a reply is a message: a list of bytes that begins with the topic."""
    return isinstance(parts, list) and parts[:1] == [topic] and all(isinstance(part, bytes) for part in parts)


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
