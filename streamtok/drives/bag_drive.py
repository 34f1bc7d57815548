"""ROS 1 and ROS 2 bags, without ROS: through rosbags, and where a bag is damaged by walking over what is left of it."""

import itertools
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from streamtok.drives.bag1_salvage import BagMessage, salvage_bag1
from streamtok.drives.drive import Drive, Item
from streamtok.drives.image_items import ItemMaker, fail_with
from streamtok.drives.topics import Topics, choose_topics
from streamtok.extras import missing_extra
from streamtok.io.image_messages import DamagedFrame, image_kind, parser_of

try:
    import apsw  # of rosbags, which reads SQLite by it
    from rosbags import rosbag1, rosbag2

    from streamtok.drives.db3_salvage import salvage_db3
except ImportError as error:
    raise missing_extra("reading ROS bags", "ros") from error

SEQ_SAMPLE = 8  # header.seq is taken as the frame's id if it rises by one over this many first messages
# What rosbags lets through when a bag is damaged, and its own errors.
UNREADABLE = (
    *(AssertionError, ValueError, LookupError, RuntimeError, OSError, EOFError, struct.error),
    *(rosbag1.ReaderError, rosbag2.ReaderError, apsw.Error),
)


class BagDrive(Drive):
    """The cameras of a ROS 1 bag (`kind` "bag"), a ROS 2 SQLite file ("db3") or a ROS 2 bag folder ("db3")."""

    def __init__(self, path: Path, kind: str, topics: Topics = None) -> None:
        self.kind = kind
        self._encoding = "ros1" if kind == "bag" else "cdr"
        self._salvage = salvage_bag1 if kind == "bag" else salvage_db3
        self._broken = ""
        found = self._list_topics(path)
        cameras = [topic for topic, name in found.items() if image_kind(name)]
        others = {topic: name for topic, name in found.items() if topic not in cameras}
        self.topics = choose_topics(path, cameras, others, topics)
        super().__init__(path, list(dict.fromkeys(self.topics.values())))
        if self._broken:
            self.note("", self._broken)

    def messages(self, topics: Sequence[str]) -> Iterator[BagMessage]:
        """Messages of the topics in the bag's order of time; what cannot be read is left out and noted."""
        last = -1
        if not self._broken:
            try:
                with self._open(self.path) as reader:
                    wanted = [connection for connection in reader.connections if connection.topic in topics]
                    for connection, last, data in reader.messages(connections=wanted):
                        yield BagMessage(connection.topic, connection.msgtype, last, data)
                return
            except UNREADABLE as error:
                self.note("", f"the bag is damaged ({error}); going on with what can be read after it")
        for message in self._salvage(self.path, lambda text: self.note("", text)):
            if message.topic in topics and message.time_ns > last:
                yield message

    def _list_topics(self, path: Path) -> dict[str, str]:
        """{topic: ROS type}; of a bag that rosbags cannot open, those met while walking over it."""
        try:
            with self._open(path) as reader:
                return {connection.topic: connection.msgtype for connection in reader.connections}
        except UNREADABLE as error:
            if path.is_dir():
                raise ValueError(f"{path}: not a readable ROS 2 bag: {error}") from error
            self._broken = f"the bag has no usable index ({error}); reading what is there"
        found = {message.topic: message.kind for message in self._salvage(path, lambda text: None)}
        if not found:
            raise ValueError(f"{path}: no message can be read from this bag: {self._broken}")
        return found

    def _open(self, path: Path) -> rosbag1.Reader | rosbag2.Reader:
        return rosbag1.Reader(path) if self.kind == "bag" else rosbag2.Reader(path)

    def _items(self, streams: list[str]) -> Iterator[Item]:
        topics = [topic for topic, name in self.topics.items() if name in streams]
        counted = self._find_counted(topics) if self.kind == "bag" else set()
        maker = ItemMaker()
        for message in self.messages(topics):
            stream = self.topics[message.topic]
            try:
                image = parser_of(message.kind, self._encoding)(message.data)
            except DamagedFrame as error:
                yield Item(stream, message.time_ns, fail_with(str(error)))
                continue
            frame_id = image.seq if stream in counted else None
            item = Item(stream, image.stamp_ns or message.time_ns, fail_with("not decoded"), frame_id)
            yield from maker.make(item, image)
        yield from maker.flush()

    def _find_counted(self, topics: list[str]) -> set[str]:
        """Streams whose header.seq counts frames: throttled or rewritten topics have other numbers there."""
        streams = set()
        for topic in topics:
            first = [self._read_seq(message) for message in itertools.islice(self.messages([topic]), SEQ_SAMPLE)]
            if len(first) > 1 and min(first) >= 0 and all(b == a + 1 for a, b in itertools.pairwise(first)):
                streams.add(self.topics[topic])
        return streams

    def _read_seq(self, message: BagMessage) -> int:
        """The header's counter; -1 if there is none."""
        try:
            seq = parser_of(message.kind, self._encoding)(message.data).seq
        except DamagedFrame:
            return -1
        return -1 if seq is None else seq
