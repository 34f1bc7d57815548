"""ROS 1 and ROS 2 bags, without ROS: by rosbags and SQLite, and what is left of a bag that is damaged."""

import struct
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from streamtok.drives.bag1_salvage import salvage_bag1
from streamtok.drives.clocks import Span
from streamtok.drives.message_drive import MessageDrive, ReadOptions, Topic, TopicMessage
from streamtok.extras import needs_extra
from streamtok.io.messages.image_messages import image_kind
from streamtok.measures import go_over_twice
from streamtok.recording.parts import Parts, open_each

with needs_extra("reading ROS bags", "ros"):
    import apsw  # noqa: F401 (of rosbags; `Db3File` reads by it)
    from rosbags import rosbag1

    from streamtok.drives.db3_file import Db3File

# What rosbags lets through when a bag is damaged, and its own errors.
UNREADABLE = (
    *(AssertionError, ValueError, LookupError, RuntimeError, OSError, EOFError, struct.error),
    rosbag1.ReaderError,
)


class Bag1File:
    """One ROS 1 bag; `topics` and `messages` as of a `Db3File`. ValueError if not one topic can be read."""

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self.path, self._note, self.damage = path, note, ""
        self.span: Span | None = None
        self.set_back: set[Topic] = set()
        try:
            with rosbag1.Reader(path) as reader:
                self.topics = {Topic(c.topic, c.msgtype) for c in reader.connections}
                listed, there = sum(c.msgcount for c in reader.connections), reader.message_count
                self.damage = f"it lists {listed} of {there} messages" if listed != there else ""
                self.span = reader.start_time, reader.end_time
                cameras = (c for c in reader.connections if image_kind(c.msgtype))
                self.set_back = {Topic(c.topic, c.msgtype) for c in cameras if _was_set_back(reader.indexes[c.id])}
        except UNREADABLE as error:
            self.damage = str(error)
            self.topics = {message.topic for message in salvage_bag1(path, lambda text: None)}
            if not self.topics:
                raise ValueError(f"{path}: no message can be read from this bag: {error}") from error

    def messages(self, topics: Collection[Topic]) -> Iterator[TopicMessage]:
        """Messages by the index as far as that goes, then those that can be read without one, as they were written."""
        last, given = -1, set[Topic]()  # the latest time, and the topics that had a message then
        if not self.damage and self.set_back.isdisjoint(topics):
            try:
                for message in self._read_by_index(topics):
                    given = {message.topic} | (given if message.log_ns == last else set())
                    last = message.log_ns
                    yield message
                return
            except UNREADABLE as error:
                self._note(f"the bag is damaged ({error}); going on with what can be read after it")
        for message in salvage_bag1(self.path, self._note):
            after = message.log_ns > last or (message.log_ns == last and message.topic not in given)
            if message.topic in topics and after:
                yield message

    def _read_by_index(self, topics: Collection[Topic]) -> Iterator[TopicMessage]:
        with rosbag1.Reader(self.path) as reader:
            wanted = [c for c in reader.connections if Topic(c.topic, c.msgtype) in topics]
            for c, log_ns, data in reader.messages(connections=wanted) if wanted else ():
                yield TopicMessage(Topic(c.topic, c.msgtype), log_ns, data)


def _was_set_back(index: list[rosbag1.reader.IndexData]) -> bool:
    written = sorted(index, key=lambda entry: (entry.chunk_pos, entry.offset))
    return go_over_twice([entry.time for entry in written])


FILES: dict[str, type[Bag1File] | type[Db3File]] = {"bag": Bag1File, "db3": Db3File}


class BagDrive(MessageDrive):
    """The cameras of one or several files of a bag, in order: ROS 1 (`kind` "bag") or ROS 2 by SQLite ("db3")."""

    def __init__(self, parts: Parts, kind: str, options: ReadOptions | None = None, path: Path | None = None) -> None:
        self.kind = kind
        super().__init__(path or parts.paths[0], parts.notes)
        note = partial(self.note, "")
        self.files, faults = open_each(parts.paths, lambda each: FILES[kind](each, note))
        damaged = [(file.path.name, file.damage) for file in self.files if file.damage]
        faults += [f"{name}: it has no usable index ({reason}); reading what is there" for name, reason in damaged]
        for text in faults:
            note(text)
        topics = dict.fromkeys(topic for file in self.files for topic in sorted(file.topics))
        encoding = "ros1" if kind == "bag" else "cdr"
        self.choose_cameras(dict.fromkeys(topics, encoding), options or ReadOptions())
        self.find_twice((file.topics, file.span, not file.set_back.isdisjoint(self.topics)) for file in self.files)

    def messages(self, topics: Collection[Topic]) -> Iterator[TopicMessage]:
        return (message for file in self.files for message in file.messages(topics))
