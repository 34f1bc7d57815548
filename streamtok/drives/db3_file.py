"""Read the messages of ROS 2 SQLite files by queries, or row by row if the file is damaged."""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path

import apsw

from streamtok.drives.clocks import Span
from streamtok.drives.message_drive import Topic, TopicMessage
from streamtok.io.messages.image_messages import image_kind
from streamtok.recording.packing import read_head, unpack_if_packed
from streamtok.times import go_over_twice

MOST_MISSES = 20_000  # consecutive unreadable rows after which reading stops
PAGE_SIZE_AT = 16  # offset of the page size in the file's header
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")  # of a hot journal: its transaction is not finished
VFS_NAME = "streamtok-strict"
TIME, DATA = "CAST(timestamp AS INTEGER)", "CAST(data AS BLOB)"  # SQLite's columns may hold any type
Row = tuple[int, int, int, bytes]  # id, topic id, time in ns, data


class StrictFile(apsw.VFSFile):
    """A file that fails past its end; SQLite would fill in zeros there, which become black pictures."""

    def xRead(self, amount: int, offset: int) -> bytes:
        if offset > 0 and offset + amount > self.xFileSize():
            raise apsw.IOError("past the end of the file")
        return super().xRead(amount, offset)


class StrictVFS(apsw.VFS):
    """SQLite's file access through `StrictFile`."""

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> StrictFile:
        return StrictFile("", name, flags)


STRICT_VFS = StrictVFS(VFS_NAME, "")  # registered as long as it lives


class Db3File:
    """One SQLite file of a ROS 2 bag, packed or not, with its write-ahead log if there is one.

    `topics` are its topics, `damage` says why it has no usable index; `note` is called with what is left out. With
    `undo`, a killed recorder's unfinished transaction is rolled back in a copy. ValueError if no topic can be read.
    """

    def __init__(self, path: Path, note: Callable[[str], None], undo: bool = True) -> None:
        self.path, self._note = path, note
        self.place, self._unpacked = unpack_if_packed(path, note)
        self._copies = self._copy_to_read(undo)
        self.damage = "the last page is cut off" if self._ends_within_page() else ""
        try:
            self._topics = self._read_topics(strict=bool(self.damage))
        except apsw.Error as error:
            self.damage = str(error)
            try:
                self._topics = self._read_topics(strict=True)
            except apsw.Error:
                raise ValueError(f"{path}: no message can be read from this bag: {error}") from error
        self.topics = set(self._topics.values())

    def _copy_to_read(self, undo: bool) -> tempfile.TemporaryDirectory[str] | None:
        """Copy the file if SQLite has to write: beside it, to index a write-ahead log, if its folder is read-only; or
        to the file, to roll back an unfinished transaction by its journal.
        """
        log, journal = self._beside("-wal"), self._beside("-journal")
        undo = undo and journal is not None and read_head(journal, len(JOURNAL_MAGIC)) == JOURNAL_MAGIC
        if not undo and (log is None or os.access(self.place.parent, os.W_OK)):
            return None
        folder = tempfile.TemporaryDirectory(prefix="streamtok-")
        try:
            for path in filter(None, (self.place, log, journal)):
                shutil.copyfile(path, Path(folder.name, path.name))
        except OSError as error:
            self._note(
                f"read without its {'-journal' if undo else '-wal'} file, since it cannot be copied "
                f"to {folder.name} ({error.strerror}; TMPDIR says where else)"
            )
            folder.cleanup()
            return None
        self.place = Path(folder.name, self.place.name)
        with suppress(apsw.Error), closing(apsw.Connection(str(self.place))) as database:
            database.execute("PRAGMA schema_version")  # any read rolls back
        return folder

    def _ends_within_page(self) -> bool:
        """Whether the file is cut off within a page: SQLite would not notice, and fill it up with zeros."""
        with self.place.open("rb") as stream:
            stream.seek(PAGE_SIZE_AT)
            size = int.from_bytes(stream.read(2), "big")
        return size >= 512 and self.place.stat().st_size % size > 0  # 1 stands for 65536

    def _beside(self, suffix: str) -> Path | None:
        """SQLite's file with this suffix beside the database, if it exists and is not empty."""
        path = self.place.with_name(self.place.name + suffix)
        return path if os.path.isfile(path) and path.stat().st_size else None  # a Path refuses names that are too long

    @property
    def span(self) -> Span | None:
        """The first and the last time of the messages, ns; None if none can be read."""
        with suppress(apsw.Error, ValueError), closing(self._connect(strict=False)) as database:
            ((first, last),) = database.execute("SELECT min(timestamp), max(timestamp) FROM messages")
            return None if first is None else (int(first), int(last))
        return None

    @cached_property
    def set_back(self) -> set[Topic]:
        """Cameras whose clock was set back, so that order by time would mix images from before and after."""
        times: dict[int, list[int]] = {n: [] for n, topic in self._topics.items() if image_kind(topic.kind)}
        with suppress(apsw.Error), closing(self._connect(strict=False)) as database:
            wanted = ",".join(map(str, times))
            question = f"SELECT topic_id, {TIME} FROM messages WHERE topic_id IN ({wanted}) ORDER BY id"
            for number, time_ns in database.execute(question):
                times[number].append(time_ns or 0)
        return {self._topics[number] for number, each in times.items() if go_over_twice(each)}

    def messages(self, topics: Collection[Topic]) -> Iterator[TopicMessage]:
        """Messages of the topics by time; after damage, those that can still be read, in order of insertion.

        Raises OSError if the file is gone.
        """
        self.place.stat()  # SQLite would not say that the file is gone
        ids = [number for number, topic in self._topics.items() if topic in topics]
        given = set[int]()
        order = "timestamp, id" if self.set_back.isdisjoint(topics) else "id"
        for number, topic, time_ns, data in self._read(ids, order):
            key = hash((number, topic, time_ns))
            if topic in ids and key not in given:  # damage can link a page twice, or repeat an id
                given.add(key)
                yield TopicMessage(self._topics[topic], time_ns or 0, data or b"")
            elif topic not in self._topics:
                self._note(f"messages of topic {topic}, which nothing describes, are left out")

    def _read(self, ids: list[int], order: str) -> Iterator[Row]:
        """Rows of the topics, and rows of unknown topics; after damage, all that can be read."""
        if not self.damage:
            try:
                yield from self._query(ids, order)
                return
            except apsw.Error as error:
                self._note(f"the bag is damaged ({error}); going on with what can be read after it")
        try:
            with closing(self._connect(strict=True)) as database:
                yield from _read_rows(database, self._note)
        except apsw.Error as error:
            self._note(f"the database cannot be read: {error}")

    def _query(self, ids: list[int], order: str) -> Iterator[Row]:
        wanted, known = (",".join(map(str, each)) for each in (ids, self._topics))
        stray = f"topic_id NOT IN ({known})"  # by damage
        columns = f"id, topic_id, {TIME}, CASE WHEN {stray} THEN NULL ELSE {DATA} END"
        where = f"topic_id IN ({wanted}) OR {stray} OR topic_id IS NULL"
        with closing(self._connect(strict=False)) as database:
            yield from database.execute(f"SELECT {columns} FROM messages WHERE {where} ORDER BY {order}")

    def _read_topics(self, strict: bool) -> dict[int, Topic]:
        with closing(self._connect(strict)) as database:
            rows = list(database.execute("SELECT id, CAST(name AS BLOB), CAST(type AS BLOB) FROM topics"))
        texts = ((number, [(cell or b"").decode("utf-8", "replace") for cell in cells]) for number, *cells in rows)
        return {number: Topic(*cells) for number, cells in texts}

    def _connect(self, strict: bool) -> apsw.Connection:
        """Open the database read-only; as immutable if it has no write-ahead log, or if `strict`."""
        place = self.place.resolve().as_uri()
        alone = strict or self._beside("-wal") is None
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        database = apsw.Connection(f"{place}{'?immutable=1' if alone else ''}", flags, VFS_NAME if strict else None)
        if strict:
            database.execute("PRAGMA writable_schema = ON")  # otherwise SQLite refuses a truncated file as a whole
        return database


def _read_rows(database: apsw.Connection, note: Callable[[str], None]) -> Iterator[Row]:
    question = f"SELECT id, topic_id, {TIME}, {DATA} FROM messages WHERE id > ? ORDER BY id"
    at = misses = nothing = 0  # the latest row, unreadable rows between others, unreadable rows since the latest
    while nothing <= MOST_MISSES:
        try:
            for row in database.execute(question, (at,)):
                if row[0] > at:  # damage links pages to earlier ones
                    at, misses, nothing = row[0], misses + nothing, 0
                yield row
            break
        except apsw.Error:
            at, nothing = at + 1, nothing + 1
    if misses or nothing:
        where = f"{misses} rows between others" if misses else f"what comes after row {at - nothing}"
        note(f"{where} of the bag cannot be read, and is left out")
