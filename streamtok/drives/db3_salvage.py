"""Messages of a damaged ROS 2 SQLite file, read row by row."""

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from streamtok.drives.bag1_salvage import BagMessage

MOST_ROWS = 1 << 30
MOST_MISSES = 20_000  # unreadable rows in a row after which there is nothing more
VFS_NAME = "streamtok-strict"


class StrictFile(apsw.VFSFile):
    """A file that fails past its end; SQLite's own fills in zeros there, which would be black pictures."""

    def xRead(self, amount: int, offset: int) -> bytes:
        if offset > 0 and offset + amount > self.xFileSize():
            raise apsw.IOError("past the end of the file")
        return super().xRead(amount, offset)


class StrictVFS(apsw.VFS):
    """File access for SQLite by `StrictFile`."""

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> StrictFile:
        return StrictFile("", name, flags)


STRICT_VFS = StrictVFS(VFS_NAME, "")  # registered as long as it lives


def salvage_db3(path: Path, note: Callable[[str], None]) -> Iterator[BagMessage]:
    """Every message row of a ROS 2 SQLite file that can be read, as inserted; `note` is told what is left out."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    database = apsw.Connection(f"file:{path.resolve()}?immutable=1", flags=flags, vfs=VFS_NAME)
    try:
        database.execute("PRAGMA writable_schema = ON")  # else a file that is shorter than it says is refused whole
        topics = {row[0]: (row[1], row[2]) for row in database.execute("SELECT id, name, type FROM topics")}
        for topic, time_ns, data in _read_rows(database, note):
            if topic in topics:
                yield BagMessage(*topics[topic], time_ns, data)
    except apsw.Error as error:
        note(f"the database cannot be read: {error}")
    finally:
        database.close()


def _read_rows(database: apsw.Connection, note: Callable[[str], None]) -> Iterator[tuple[int, int, bytes]]:
    """(topic id, time in ns, data) of every row that can be read."""
    last = _find_last_row(database)
    misses = in_a_row = 0
    for number in range(1, last + 1):
        try:
            rows = list(database.execute("SELECT topic_id, timestamp, data FROM messages WHERE id = ?", (number,)))
        except apsw.Error:
            misses, in_a_row = misses + 1, in_a_row + 1
            if in_a_row > MOST_MISSES:
                break
            continue
        in_a_row = 0 if rows else in_a_row
        yield from rows
    if misses:
        note(f"{misses} of {last} rows of the bag cannot be read and are left out")


def _find_last_row(database: apsw.Connection) -> int:
    """The highest message id; where the end of the table is gone, found by doubling."""
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
