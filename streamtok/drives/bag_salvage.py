"""Messages of damaged bags: a ROS 1 bag by its records, a ROS 2 SQLite file row by row."""

from __future__ import annotations

import bz2
import functools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MAGIC = b"#ROSBAG V2.0\n"
LENGTH, TIME = struct.Struct("<I"), struct.Struct("<II")
MOST_ROWS = 1 << 30
MOST_MISSES = 20_000  # unreadable rows in a row after which there is nothing more
OP_MESSAGE, OP_CHUNK, OP_CONNECTION = 2, 5, 7
Found = tuple[str, str, int, Any]


def salvage_bag1(path: Path, note: Callable[[str], None]) -> Iterator[Found]:
    """(topic, type, time in ns, bytes) of every message of a ROS 1 bag that is still whole, in the file's order."""
    connections: dict[bytes, tuple[str, str]] = {}
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


def _messages(chunk: bytes, connections: dict[bytes, tuple[str, str]]) -> Iterator[Found]:
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
            found = connections.get(header.get("conn", b""))
            time = header.get("time", b"")
            if found is not None and len(time) == TIME.size:
                seconds, nanos = TIME.unpack(time)
                yield *found, seconds * 10**9 + nanos, chunk[begin:at]


def _learn(header: dict[str, bytes], data: bytes, connections: dict[bytes, tuple[str, str]]) -> None:
    fields = _fields(data)
    if fields is None or "type" not in fields or "conn" not in header:
        return
    package, _, name = fields["type"].decode("latin-1").partition("/")
    topic = header.get("topic", b"").decode("utf-8", "replace")
    connections[header["conn"]] = topic, f"{package}/msg/{name}"


def salvage_db3(path: Path, note: Callable[[str], None]) -> Iterator[Found]:
    """(topic, type, time in ns, bytes) of every message row of a ROS 2 SQLite file that can be read, as inserted."""
    import apsw

    vfs = _strict_vfs()
    database = apsw.Connection(
        f"file:{path.resolve()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, vfs=vfs.vfs_name
    )
    try:
        database.execute("PRAGMA writable_schema = ON")  # else a file that is shorter than it says is refused whole
        topics = {row[0]: (row[1], row[2]) for row in database.execute("SELECT id, name, type FROM topics")}
        last = _last_row(database)
        misses = in_a_row = 0
        for number in range(1, last + 1):
            row = _row(database, number)
            if row is None:
                misses, in_a_row = misses + 1, in_a_row + 1
                if in_a_row > MOST_MISSES:
                    break
            elif row:
                in_a_row = 0
                if row[0] in topics:
                    yield *topics[row[0]], row[1], row[2]
        if misses:
            note(f"{misses} of {last} rows of the bag cannot be read and are left out")
    except apsw.Error as error:
        note(f"the database cannot be read: {error}")
    finally:
        database.close()


def _row(database: Any, number: int) -> tuple | None:
    """(topic, time, data) of one row, () if there is none of that number, None if it cannot be read."""
    import apsw

    try:
        rows = list(database.execute("SELECT topic_id, timestamp, data FROM messages WHERE id = ?", (number,)))
    except apsw.Error:
        return None
    return rows[0] if rows else ()


@functools.cache
def _strict_vfs() -> Any:
    """File access for SQLite that fails past the end of a file; SQLite's own fills in zeros, which would be black."""
    import apsw

    class File(apsw.VFSFile):
        def xRead(self, amount: int, offset: int) -> bytes:
            if offset > 0 and offset + amount > self.xFileSize():
                raise apsw.IOError("past the end of the file")
            return super().xRead(amount, offset)

    class Strict(apsw.VFS):
        def __init__(self) -> None:
            self.vfs_name = "streamtok-strict"
            super().__init__(self.vfs_name, "")

        def xOpen(self, name: Any, flags: list[int]) -> Any:
            return File("", name, flags)

    return Strict()


def _last_row(database: Any) -> int:
    """The highest message id; where the end of the table is gone, found by doubling."""
    import apsw

    for question in ("SELECT max(id) FROM messages", "SELECT seq FROM sqlite_sequence WHERE name = 'messages'"):
        try:
            found = list(database.execute(question))
        except apsw.Error:
            continue
        if found and found[0][0] is not None:
            return int(found[0][0])
    step = 1
    while step < MOST_ROWS:
        try:
            if not list(database.execute("SELECT id FROM messages WHERE id >= ? LIMIT 1", (step,))):
                break
        except apsw.Error:  # a page on the way there is gone; there may be rows beyond it
            pass
        step *= 2
    return step
