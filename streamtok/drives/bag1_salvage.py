"""Recover the messages of a damaged ROS 1 bag by walking over its records."""

import mmap
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from streamtok.drives.message_drive import Topic, TopicMessage
from streamtok.recording.packing import LZ4_MAGIC, UNPACKERS

MAGIC = b"#ROSBAG V2.0\n"
LENGTH, TIME = struct.Struct("<I"), struct.Struct("<II")
OP_MESSAGE, OP_CHUNK, OP_CONNECTION = b"\x02", b"\x05", b"\x07"
IMAGES = {  # type by the MD5 of its definition, in case damage changed the name
    "060021388200f6f0f447d0fcd9c64743": "sensor_msgs/msg/Image",
    "8f7a12909da2c9d3332d540a0977563f": "sensor_msgs/msg/CompressedImage",
}
DAMAGE = (ValueError, OSError, EOFError, RuntimeError)  # the errors of decompressors
Connections = dict[bytes, Topic]  # by id
CHUNK_FIELD = re.compile(rb"compression=(none|bz2|lz4)")
LONGEST_HEADER = 64  # bytes, of a chunk
MOST_HEADER = 1 << 16  # bytes, of any record: names and numbers


class BagRecord(NamedTuple):
    """A record of a bag: its offset, its header, and the offsets where its data begins and ends."""

    at: int
    header: dict[str, bytes]
    begin: int
    end: int


def salvage_bag1(path: Path, note: Callable[[str], None]) -> Iterator[TopicMessage]:
    """Every intact message of a ROS 1 bag, in file order; `note` is called with what is left out."""
    connections: Connections = {}
    if not path.stat().st_size:
        note("the bag is empty")
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as bag:
        for record in _walk(bag, lambda text: None):
            if record.header.get("op") == OP_CONNECTION:  # the index repeats those of chunks, which may be damaged
                _add_connection(record.header, bag[record.begin : record.end], connections)
        for record in _walk(bag, note):
            if record.header.get("op") == OP_CHUNK:
                chunk = _unpack_chunk(record.header, bag[record.begin : record.end], record.at, note)
                yield from _read_messages(chunk, connections)


def _walk(bag: mmap.mmap, note: Callable[[str], None]) -> Iterator[BagRecord]:
    """The records of a bag; after damage, from the next chunk on."""
    at: int | None = len(MAGIC)
    while at is not None and at < len(bag):
        record = _read_record(bag, at)
        if record is not None:
            yield record
        if record is not None and (record.end == len(bag) or _read_record(bag, record.end) is not None):
            at = record.end
            continue
        damaged, at = at, _find_chunk(bag, at + 1)
        found = f"damaged there, and read from byte {at} on" if at is not None else "cut off there, or damaged"
        note(f"the record at byte {damaged} runs over its end: the bag is {found}")


def _find_chunk(bag: mmap.mmap, start: int) -> int | None:
    """The offset of the next chunk from `start` on; None if there is none."""
    for found in CHUNK_FIELD.finditer(bag, start):
        for at in range(max(start, found.start() - LONGEST_HEADER), found.start()):
            record = _read_record(bag, at)
            if record is not None and record.header.get("op") == OP_CHUNK:
                return at
    return None


def _read_record(bag: mmap.mmap | bytes, at: int) -> BagRecord | None:
    """The record at an offset of a bag or a chunk, also if it is cut off; None if none is plausible there."""
    begin = at + LENGTH.size
    middle = begin + LENGTH.unpack_from(bag, at)[0] if begin <= len(bag) else len(bag)
    likely = middle - begin <= MOST_HEADER and middle + LENGTH.size <= len(bag)
    header = _read_fields(bag[begin:middle]) if likely else None
    if not header:
        return None
    begin = middle + LENGTH.size
    return BagRecord(at, header, begin, begin + LENGTH.unpack_from(bag, middle)[0])


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
    """Decompress a chunk to its records; empty if it is damaged, which is noted."""
    magic = {b"bz2": b"BZh", b"lz4": LZ4_MAGIC}.get(header.get("compression", b""))
    try:
        return UNPACKERS[magic]().decompress(data) if magic else data
    except DAMAGE as error:
        note(f"the chunk at byte {at} cannot be read ({error}); its messages are left out")
        return b""


def _read_messages(chunk: bytes, connections: Connections) -> Iterator[TopicMessage]:
    at = 0
    while (record := _read_record(chunk, at)) and record.end <= len(chunk):
        header, data, at = record.header, chunk[record.begin : record.end], record.end
        found = connections.get(header.get("conn", b""))
        if record.header.get("op") == OP_CONNECTION:
            _add_connection(header, data, connections)
        elif record.header.get("op") == OP_MESSAGE and found is not None and len(header.get("time", b"")) == TIME.size:
            seconds, nanos = TIME.unpack(header["time"])
            yield TopicMessage(found, seconds * 10**9 + nanos, data)


def _add_connection(header: dict[str, bytes], data: bytes, connections: Connections) -> None:
    fields = _read_fields(data)
    if fields is None or "type" not in fields or "conn" not in header:
        return
    package, _, name = fields["type"].decode("latin-1").partition("/")
    kind = IMAGES.get(fields.get("md5sum", b"").decode("latin-1"), f"{package}/msg/{name}")
    connections[header["conn"]] = Topic(header.get("topic", b"").decode("utf-8", "replace"), kind)
