"""ROS 1 and ROS 2 bags, without ROS: through rosbags, and where a bag is damaged by walking over what is left of it."""

from __future__ import annotations

import importlib
import itertools
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from streamtok.drives.bag_salvage import salvage_bag1, salvage_db3
from streamtok.drives.drive_reader import Drive, Item
from streamtok.drives.mcap_drive import STILL_CODECS, failing, given, loader
from streamtok.drives.topics import choose_topics
from streamtok.io.image_messages import VIDEO_CODECS, DamagedFrame, image_kind, parser_of
from streamtok.io.video_packets import VideoDecoder

# What rosbags lets through when a bag is damaged: its own errors are added in `_unreadable`.
UNREADABLE = (AssertionError, ValueError, LookupError, RuntimeError, OSError, EOFError, struct.error)
SEQ_SAMPLE = 8  # header.seq is taken as the frame's id if it rises by one over this many first messages


class BagMessage(NamedTuple):
    """One message: its topic, ROS type name, the bag's time in ns, and its bytes."""

    topic: str
    kind: str
    time_ns: int
    data: Any


class BagDrive(Drive):
    """The cameras of a ROS 1 bag (`kind` "bag"), a ROS 2 SQLite file ("db3") or a ROS 2 bag folder ("db3")."""

    def __init__(self, path: Path, kind: str, topics: Sequence[str] | dict[str, str] | None = None) -> None:
        self.kind = kind
        self._broken = ""
        found = self._list_topics(path)
        cameras = [topic for topic, name in found.items() if image_kind(name)]
        others = {topic: name for topic, name in found.items() if not image_kind(name)}
        self.topics = choose_topics(path, cameras, others, topics)
        super().__init__(path, list(dict.fromkeys(self.topics.values())))
        if self._broken:
            self.note("", self._broken)

    def messages(self, topics: Sequence[str]) -> Iterator[BagMessage]:
        """Messages of the topics in the bag's order of time; what cannot be read is left out and noted."""
        last = -1
        if not self._broken:
            try:
                for message in self._through_rosbags(self.path, topics):
                    last = message.time_ns
                    yield message
            except _unreadable() as error:
                self.note("", f"the bag is damaged ({error}); going on with what can be read after it")
            else:
                return
        for message in self._salvage(self.path):
            if message.topic in topics and message.time_ns > last:
                yield message

    def _list_topics(self, path: Path) -> dict[str, str]:
        """{topic: ROS type}; of a bag that rosbags cannot open, those met while walking over it."""
        try:
            with self._open(path) as reader:
                return {connection.topic: connection.msgtype for connection in reader.connections}
        except _unreadable() as error:
            if path.is_dir():
                raise ValueError(f"{path}: not a readable ROS 2 bag: {error}") from error
            self._broken = f"the bag has no usable index ({error}); reading what is there"
        found = {message.topic: message.kind for message in self._salvage(path)}
        if not found:
            raise ValueError(f"{path}: no message can be read from this bag: {self._broken}")
        return found

    def _open(self, path: Path) -> Any:
        module = importlib.import_module("rosbags.rosbag1" if self.kind == "bag" else "rosbags.rosbag2")
        return module.Reader(path)

    def _through_rosbags(self, path: Path, topics: Sequence[str]) -> Iterator[BagMessage]:
        with self._open(path) as reader:
            connections = [connection for connection in reader.connections if connection.topic in topics]
            for connection, time_ns, data in reader.messages(connections=connections):
                yield BagMessage(connection.topic, connection.msgtype, time_ns, data)

    def _salvage(self, path: Path) -> Iterator[BagMessage]:
        salvage = salvage_bag1 if self.kind == "bag" else salvage_db3
        for topic, kind, time_ns, data in salvage(path, lambda text: self._note_early(text)):
            yield BagMessage(topic, kind, time_ns, data)

    def _note_early(self, text: str) -> None:
        if hasattr(self, "problems"):
            self.note("", text)

    def _items(self, streams: list[str]) -> Iterator[Item]:
        topics = [topic for topic, name in self.topics.items() if name in streams]
        encoding = "ros1" if self.kind == "bag" else "cdr"
        counted = self._counted(topics, encoding) if self.kind == "bag" else set()
        decoders: dict[str, VideoDecoder] = {}
        for message in self.messages(topics):
            stream = self.topics[message.topic]
            try:
                image = parser_of(message.kind, encoding)(message.data)
            except DamagedFrame as error:
                yield Item(stream, message.time_ns, failing(str(error)))
                continue
            item = Item(
                stream, image.stamp_ns or message.time_ns, loader(image), image.seq if stream in counted else None
            )
            if image.kind == "video":
                yield from self._video(item, image, decoders)
                continue
            codec = STILL_CODECS.get(image.encoding.lower()) if image.kind == "image" else None
            yield item._replace(codec=codec, packet=bytes(image.data) if codec else None)
        for decoder in decoders.values():
            yield from finished(decoder.flush())

    def _video(self, item: Item, image: Any, decoders: dict[str, VideoDecoder]) -> Iterator[Item]:
        if image.encoding not in VIDEO_CODECS:
            yield item._replace(load=failing(f"video format {image.encoding!r} is not known"))
            return
        if item.stream not in decoders:
            decoders[item.stream] = VideoDecoder(image.encoding)
        data = bytes(image.data)
        key = item._replace(packet=data, codec=image.encoding)
        yield from finished(decoders[item.stream].decode(data, key))

    def _counted(self, topics: list[str], encoding: str) -> set[str]:
        """Streams whose header.seq counts frames: throttled or rewritten topics have other numbers there."""
        streams = set()
        for topic in topics:
            first: list[int] = []
            for message in itertools.islice(self.messages([topic]), SEQ_SAMPLE):
                try:
                    seq = parser_of(message.kind, encoding)(message.data).seq
                except DamagedFrame:
                    seq = None
                first.append(-1 if seq is None else seq)
            if len(first) > 1 and min(first) >= 0 and all(b == a + 1 for a, b in itertools.pairwise(first)):
                streams.add(self.topics[topic])
        return streams


def finished(decoded: Iterator[Any]) -> Iterator[Item]:
    """Items with their pictures, from what a VideoDecoder gave."""
    for one in decoded:
        yield one.key._replace(load=failing(one.damage) if one.image is None else given(one.image))


def _unreadable() -> tuple[type[BaseException], ...]:
    try:
        from rosbags.rosbag1 import ReaderError as Error1
        from rosbags.rosbag2 import ReaderError as Error2
    except ImportError as error:
        raise ImportError("ROS bags need the rosbags package: pip install 'streamtok[ros]'") from error
    import apsw

    return (*UNREADABLE, Error1, Error2, apsw.Error)
