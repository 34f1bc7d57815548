"""Read ROS 1 and ROS 2 bags without ROS, by rosbags and SQLite, and recover messages of damaged ones."""

import itertools
import struct
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from streamtok.drives.bag1_salvage import IMAGES, salvage_bag1
from streamtok.drives.clocks import Span
from streamtok.drives.message_drive import MessageDrive, ReadOptions, Topic, TopicMessage
from streamtok.extras import needs_extra
from streamtok.io.messages.image_messages import image_kind
from streamtok.recording.packing import unpack_if_packed
from streamtok.recording.parts import Parts, open_each
from streamtok.times import go_over_twice

with needs_extra("reading ROS bags", "ros"):
    import apsw  # noqa: F401 (of rosbags; `Db3File` reads by it)
    from rosbags import rosbag1
    from rosbags.interfaces import Connection

    from streamtok.drives.db3_file import Db3File

# The errors that rosbags raises for a damaged bag.
UNREADABLE = (
    *(AssertionError, ValueError, LookupError, RuntimeError, OSError, EOFError, struct.error),
    rosbag1.ReaderError,
)


class Bag1File:
    """One ROS 1 bag, used like `Db3File`. Without `undo` only its index is read. ValueError if no topic is readable."""

    def __init__(self, path: Path, note: Callable[[str], None], undo: bool = True) -> None:
        self.path, self._note, self.damage = path, note, ""
        self.place, self._unpacked = unpack_if_packed(path, note)
        self.span: Span | None = None
        self.set_back: set[Topic] = set()
        try:
            with rosbag1.Reader(self.place) as reader:
                self.topics = set(map(_topic_of, reader.connections))
                there = sum((Counter(info.connection_counts) for info in reader.chunk_infos), Counter())
                if there != (listed := Counter({c.id: c.msgcount for c in reader.connections})):
                    self.damage = f"it lists {listed.total()} of {there.total()} messages"
                self.span = reader.start_time, reader.end_time
                cameras = (c for c in reader.connections if image_kind(_topic_of(c).kind))
                for c in cameras:
                    written = sorted(reader.indexes[c.id], key=lambda entry: (entry.chunk_pos, entry.offset))
                    self.set_back |= {_topic_of(c)} if go_over_twice([entry.time for entry in written]) else set()
        except UNREADABLE as error:
            self.damage = str(error)
            self.topics = {message.topic for message in salvage_bag1(self.place, lambda text: None)} if undo else set()
            if undo and not self.topics:
                raise ValueError(f"{path}: no message can be read from this bag: {error}") from error

    def messages(self, topics: Collection[Topic]) -> Iterator[TopicMessage]:
        """Messages by the index up to damage, then those that can be recovered without one, in order of writing.

        Raises OSError if the file is gone.
        """
        self.place.stat()
        last, given = -1, set[Topic]()  # the latest time, and the topics with a message at that time
        if not self.damage and self.set_back.isdisjoint(topics):
            try:
                for message in self._read_by_index(topics):
                    given = {message.topic} | (given if message.log_ns == last else set())
                    last = message.log_ns
                    yield message
                return
            except UNREADABLE as error:
                self._note(f"the bag is damaged ({error}); going on with what can be read after it")
        for message in salvage_bag1(self.place, self._note):
            after = message.log_ns > last or (message.log_ns == last and message.topic not in given)
            if message.topic in topics and after:
                yield message

    def _read_by_index(self, topics: Collection[Topic]) -> Iterator[TopicMessage]:
        with rosbag1.Reader(self.place) as reader:
            wanted = [c for c in reader.connections if _topic_of(c) in topics]
            for c, log_ns, data in reader.messages(connections=wanted) if wanted else ():
                yield TopicMessage(_topic_of(c), log_ns, data)


def _topic_of(connection: Connection) -> Topic:
    return Topic(connection.topic, IMAGES.get(connection.digest, connection.msgtype))


FILES: dict[str, type[Bag1File] | type[Db3File]] = {"bag": Bag1File, "db3": Db3File}


class BagDrive(MessageDrive):
    """The cameras of one bag, in one or several files in order: ROS 1 (`kind` "bag") or ROS 2 in SQLite ("db3")."""

    def __init__(self, parts: Parts, kind: str, options: ReadOptions | None = None, path: Path | None = None) -> None:
        self.kind = kind
        super().__init__(path or parts.paths[0], parts.notes)
        drive = weakref.proxy(self)  # else files and drive hold each other, and what was unpacked stays
        names = {each: f"{each.name}: " if len(parts.paths) > 1 else "" for each in parts.paths}
        self.files, faults = open_each(
            parts.paths, lambda each: FILES[kind](each, lambda text: drive.note("", names[each] + text))
        )
        self.sizes = {file.place: file.place.stat().st_size for file in self.files}
        for file in filter(lambda file: file.damage, self.files):
            faults.append(f"{names[file.path]}it has no usable index ({file.damage}); reading what is there")
        for text in faults:
            self.note("", text)
        topics = dict.fromkeys(topic for file in self.files for topic in sorted(file.topics))
        encoding = "ros1" if kind == "bag" else "cdr"
        self.choose_cameras(dict.fromkeys(topics, encoding), options or ReadOptions())
        self.find_twice((file.topics, file.span, not file.set_back.isdisjoint(self.topics)) for file in self.files)

    def messages(self, topics: Collection[Topic]) -> Iterator[TopicMessage]:
        parts = (self.read_file(file.path.name, file.place, file.messages(topics)) for file in self.files)
        return itertools.chain.from_iterable(parts)
