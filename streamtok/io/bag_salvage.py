"""Messages of damaged bags: a ROS 1 bag by its records, a ROS 2 SQLite file row by row."""

from __future__ import annotations

import bz2
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MAGIC = b"#ROSBAG V2.0\n"
LENGTH = struct.Struct("<I")
MOST_MISSES = 100_000  # unreadable rows in a row after which there is nothing more
OP_MESSAGE, OP_CHUNK, OP_CONNECTION = 2, 5, 7
Found = tuple[str, str, int, Any]


def salvage_bag1(path: Path, note: Callable[[str], None]) -> Iterator[Found]:
    """(topic, type, time in ns, bytes) of every message of a ROS 1 bag that is still whole, in the file's order."""
    connections: dict[int, tuple[str, str]] = {}
    size = path.stat().st_size
    with path.open("rb") as stream:
        at = stream.seek(len(MAGIC))
        while at + LENGTH.size <= size:
            record = _read_record(stream, size - at)
            if record is None:
                note(f"from byte {at} on the bag's records make no sense or are cut off")
                return
            header, data, whole = record
            if header.get("op") == bytes([OP_CHUNK]):
                try:
                    contents = _decompress(header.get("compression", b"none"), data)
                except (ValueError, OSError, EOFError, RuntimeError) as error:
                    note(f"the chunk at byte {at} cannot be read ({error}); its messages are left out")
                    contents = b""
                yield from _messages(contents, connections)
            elif header.get("op") == bytes([OP_CONNECTION]):
                _learn(header, data, connections)
            at = stream.tell()
            if not whole:
                note(f"the bag is cut off at byte {at}")
                return


def _read_record(stream: Any, left: int) -> tuple[dict[str, bytes], bytes, bool] | None:
    """(header, data, whether the data is whole) of the next record; None if it cannot be one."""
    head = stream.read(LENGTH.size)
    length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else left
    if length + 2 * LENGTH.size > left:
        return None
    header = _fields(stream.read(length))
    if header is None:
        return None
    size = LENGTH.unpack(stream.read(LENGTH.size))[0]
    data = stream.read(size)
    return header, data, len(data) == size


def _fields(data: bytes) -> dict[str, bytes] | None:
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


def _decompress(kind: bytes, data: bytes) -> bytes:
    if kind == b"bz2":
        return bz2.BZ2Decompressor().decompress(data)
    if kind == b"lz4":
        import lz4.frame

        return lz4.frame.LZ4FrameDecompressor().decompress(data)
    return data


def _messages(chunk: bytes, connections: dict[int, tuple[str, str]]) -> Iterator[Found]:
    at = 0
    while at + LENGTH.size <= len(chunk):
        start = at + LENGTH.size
        middle = start + LENGTH.unpack_from(chunk, at)[0]
        if middle + LENGTH.size > len(chunk):
            return
        header = _fields(chunk[start:middle])
        begin = middle + LENGTH.size
        at = begin + LENGTH.unpack_from(chunk, middle)[0]
        if header is None or at > len(chunk):
            return
        if header.get("op") == bytes([OP_CONNECTION]):
            _learn(header, chunk[begin:at], connections)
        elif header.get("op") == bytes([OP_MESSAGE]):
            found = connections.get(LENGTH.unpack(header["conn"])[0])
            if found is not None:
                seconds, nanos = struct.unpack("<II", header["time"])
                yield *found, seconds * 10**9 + nanos, chunk[begin:at]


def _learn(header: dict[str, bytes], data: bytes, connections: dict[int, tuple[str, str]]) -> None:
    fields = _fields(data)
    if fields is None or "type" not in fields or "conn" not in header:
        return
    package, _, name = fields["type"].decode("latin-1").partition("/")
    topic = header.get("topic", b"").decode("utf-8", "replace")
    connections[LENGTH.unpack(header["conn"])[0]] = topic, f"{package}/msg/{name}"


def salvage_db3(path: Path, note: Callable[[str], None]) -> Iterator[Found]:
    """(topic, type, time in ns, bytes) of every message row of a ROS 2 SQLite file that can be read, as inserted."""
    database = sqlite3.connect(f"file:{path.resolve()}?mode=ro&immutable=1", uri=True)
    try:
        topics = {row[0]: (row[1], row[2]) for row in database.execute("SELECT id, name, type FROM topics")}
        last = _last_row(database)
        misses = in_a_row = 0
        for number in range(1, last + 1):
            try:
                row = database.execute(
                    "SELECT topic_id, timestamp, data FROM messages WHERE id = ?", (number,)
                ).fetchone()
            except sqlite3.DatabaseError:
                misses, in_a_row = misses + 1, in_a_row + 1
                if in_a_row > MOST_MISSES:
                    break
                continue
            in_a_row = 0
            if row is not None and row[0] in topics:
                yield *topics[row[0]], row[1], row[2]
        if misses:
            note(f"{misses} of {last} rows of the bag cannot be read and are left out")
    except sqlite3.DatabaseError as error:
        note(f"the database cannot be read: {error}")
    finally:
        database.close()


def _last_row(database: sqlite3.Connection) -> int:
    """The highest message id; where the end of the table is gone, found by doubling and halving."""
    try:
        return database.execute("SELECT max(id) FROM messages").fetchone()[0] or 0
    except sqlite3.DatabaseError:
        pass
    try:
        return int(database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()[0])
    except (sqlite3.DatabaseError, TypeError):
        return _search_last(database)


def _search_last(database: sqlite3.Connection) -> int:
    """Past the last row a look-up answers "no row"; a damaged page answers with an error."""
    step = 1
    while step < 1 << 40:
        try:
            if database.execute("SELECT id FROM messages WHERE id >= ? LIMIT 1", (step,)).fetchone() is None:
                return step
        except sqlite3.DatabaseError:
            pass
        step *= 2
        if step > 1 << 24:
            return step
    return step
