"""Messages of a damaged ROS 1 bag, found by its records."""

import bz2
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from streamtok.drives.message_drive import Topic, TopicMessage

MAGIC = b"#ROSBAG V2.0\n"
LENGTH, TIME = struct.Struct("<I"), struct.Struct("<II")
OP_MESSAGE, OP_CHUNK, OP_CONNECTION = b"\x02", b"\x05", b"\x07"
DAMAGE = (ValueError, OSError, EOFError, RuntimeError)  # of a decompressor
Connections = dict[bytes, Topic]  # by id


def salvage_bag1(path: Path, note: Callable[[str], None]) -> Iterator[TopicMessage]:
    """Every message of a ROS 1 bag that is still whole, in the file's order; `note` is told what is left out."""
    connections: Connections = {}
    size = path.stat().st_size
    with path.open("rb") as stream:
        at = stream.seek(len(MAGIC))
        while at + LENGTH.size <= size:
            record = _read_record(stream, size - at)
            if record is None:
                note(f"from byte {at} on the bag's records make no sense or are cut off")
                return
            header, data, whole = record
            if header.get("op") == OP_CHUNK:
                yield from _read_messages(_unpack_chunk(header, data, at, note), connections)
            elif header.get("op") == OP_CONNECTION:
                _learn(header, data, connections)
            at = stream.tell()
            if not whole:
                note(f"the bag is cut off at byte {at}")
                return


def _read_record(stream: BinaryIO, left: int) -> tuple[dict[str, bytes], bytes, bool] | None:
    """(header, data, whether the data is whole) of the next record; None if it cannot be one."""
    head = stream.read(LENGTH.size)
    length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else left
    if length + 2 * LENGTH.size > left:
        return None
    header = _read_fields(stream.read(length))
    if header is None:
        return None
    size = LENGTH.unpack(stream.read(LENGTH.size))[0]
    data = stream.read(size)
    return header, data, len(data) == size


def _read_fields(data: bytes) -> dict[str, bytes] | None:
    """The name=value fields of a record header; None if they do not add up."""
    fields, at = {}, 0
    while at + LENGTH.size <= len(data):
        end = at + LENGTH.size + LENGTH.unpack_from(data, at)[0]
        name, equals, value = data[at + LENGTH.size : end].partition(b"=")
        if end > len(data) or not equals:
            return None
        fields[name.decode("latin-1")] = value
        at = end
    return fields


def _unpack_chunk(header: dict[str, bytes], data: bytes, at: int, note: Callable[[str], None]) -> bytes:
    """The records of a chunk; of one that is damaged, none."""
    kind = header.get("compression")
    try:
        if kind == b"bz2":
            return bz2.BZ2Decompressor().decompress(data)
        if kind == b"lz4":
            import lz4.frame

            return lz4.frame.LZ4FrameDecompressor().decompress(data)
        return data
    except DAMAGE as error:
        note(f"the chunk at byte {at} cannot be read ({error}); its messages are left out")
        return b""


def _read_messages(chunk: bytes, connections: Connections) -> Iterator[TopicMessage]:
    at = 0
    while at + LENGTH.size <= len(chunk):
        start = at + LENGTH.size
        middle = start + LENGTH.unpack_from(chunk, at)[0]
        if middle + LENGTH.size > len(chunk):
            return
        header = _read_fields(chunk[start:middle])
        begin = middle + LENGTH.size
        at = begin + LENGTH.unpack_from(chunk, middle)[0]
        if header is None or at > len(chunk):
            return
        if header.get("op") == OP_CONNECTION:
            _learn(header, chunk[begin:at], connections)
        elif header.get("op") == OP_MESSAGE:
            found = connections.get(header.get("conn", b""))
            if found is not None and len(header.get("time", b"")) == TIME.size:
                seconds, nanos = TIME.unpack(header["time"])
                yield TopicMessage(found, seconds * 10**9 + nanos, chunk[begin:at])


def _learn(header: dict[str, bytes], data: bytes, connections: Connections) -> None:
    fields = _read_fields(data)
    if fields is None or "type" not in fields or "conn" not in header:
        return
    package, _, name = fields["type"].decode("latin-1").partition("/")
    topic = header.get("topic", b"").decode("utf-8", "replace")
    connections[header["conn"]] = Topic(topic, f"{package}/msg/{name}")
