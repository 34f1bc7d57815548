"""Cameras recorded in MCAP files: ROS 1 and ROS 2 messages, Foxglove messages, and streamtok's own recordings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from streamtok.drives.drive import Drive, Item, Progress
from streamtok.drives.image_items import ItemMaker, fail_with
from streamtok.drives.topics import Topics, choose_topics
from streamtok.io.image_messages import DamagedFrame, ImageMessage, image_kind, parser_of
from streamtok.recording.format import PICTURES, TOKENS
from streamtok.recording.mcap_file import McapFile, RawMessage
from streamtok.types import Frame


@dataclass
class Camera:
    """One channel with images. `recorded` by streamtok, its metadata ties times and ids together: capture time = log
    time - `offset_ns`, ids count from `first_id`."""

    stream: str
    parse: Callable[[memoryview], ImageMessage]
    recorded: bool = False
    offset_ns: int = 0
    first_id: int = 0
    session: str = ""
    codec: str = ""

    def frame_id(self, sequence: int) -> int | None:
        """The frame's own id from the low 32 bits that MCAP keeps of it; None if the file has no ids."""
        return self.first_id + ((sequence - self.first_id) & 0xFFFFFFFF) if self.recorded else None

    def capture_ns(self, log_time: int, stamp_ns: int) -> int:
        """The frame's own time: the message's stamp, where it has one."""
        return log_time - self.offset_ns if self.recorded else stamp_ns or log_time


class TokenData(NamedTuple):
    """A token message between the frames of a recording, as it is stored."""

    topic: str
    data: memoryview


class McapDrive(Drive):
    """The cameras of one or several MCAP files (parts of one recording, in order)."""

    kind = "mcap"

    def __init__(self, paths: Sequence[Path], topics: Topics = None) -> None:
        self.files = [McapFile(path) for path in paths]
        cameras, others = self._list_topics()
        self.topics = choose_topics(paths[0], cameras, others, topics)
        super().__init__(paths[0] if len(paths) == 1 else paths[0].parent, list(dict.fromkeys(self.topics.values())))
        channels = [c for file in self.files for c in file.channels.values() if c.topic in self.topics]
        # What streamtok recorded keeps the times and the order that its cameras had.
        self.checked = not all("clock_offset_ns" in channel.metadata for channel in channels)
        self._note_damage()

    def _list_topics(self) -> tuple[list[str], dict[str, str]]:
        cameras: dict[str, None] = {}
        others: dict[str, str] = {}
        for file in self.files:
            for channel in file.channels.values():
                schema = file.schemas.get(channel.schema_id)
                name = schema.name if schema else channel.message_encoding
                if channel.topic.startswith(PICTURES):
                    others[channel.topic] = "pictures of tokens"
                elif image_kind(name):
                    cameras[channel.topic] = None
                else:
                    others[channel.topic] = name
        return list(cameras), others

    def _cameras_of(self, file: McapFile, streams: Sequence[str]) -> dict[int, Camera]:
        cameras = {}
        for channel in file.channels.values():
            stream = self.topics.get(channel.topic)
            if stream is None or stream not in streams:
                continue
            parse = parser_of(file.schemas[channel.schema_id].name, channel.message_encoding)
            facts = channel.metadata
            camera = cameras[channel.id] = Camera(stream, parse, "clock_offset_ns" in facts)
            if camera.recorded:
                camera.offset_ns, camera.first_id = int(facts["clock_offset_ns"]), int(facts.get("first_frame_id", 0))
                camera.session, camera.codec = facts.get("session", ""), facts.get("codec", "")
        return cameras

    def frames_and_tokens(self, streams: list[str]) -> Iterator[Frame | TokenData]:
        """Frames of the given cameras of a recording and, between them, their token messages, as they were recorded.

        Frames come when they can be decoded, which for compressed video may be some messages later.
        """
        progress = {name: Progress() for name in streams}
        for each in self._read(streams, {TOKENS + name for name in streams}, as_written=True):
            found = self.accept(each, progress[each.stream]) if isinstance(each, Item) else each
            if found is not None:
                yield found

    def _items(self, streams: list[str]) -> Iterator[Item]:
        return (each for each in self._read(streams, set(), not self.checked) if isinstance(each, Item))

    def _read(self, streams: list[str], token_topics: set[str], as_written: bool) -> Iterator[Item | TokenData]:
        maker = ItemMaker()
        for file in self.files:
            cameras = self._cameras_of(file, streams)
            tokens = {number: c.topic for number, c in file.channels.items() if c.topic in token_topics}
            for message in file.messages(cameras.keys() | tokens.keys(), as_written=as_written):
                if message.channel_id in tokens:
                    yield TokenData(tokens[message.channel_id], message.data)
                else:
                    yield from self._make(maker, cameras[message.channel_id], message)
            self._note_damage()
        yield from maker.flush()

    def _make(self, maker: ItemMaker, camera: Camera, message: RawMessage) -> Iterator[Item]:
        frame_id = camera.frame_id(message.sequence)
        try:
            image = camera.parse(message.data)
        except DamagedFrame as error:
            yield Item(camera.stream, camera.capture_ns(message.log_time, 0), fail_with(str(error)), frame_id)
            return
        if camera.codec == "mjpeg":  # came of a video decoder, which differs from an image decoder in the last bit
            image = replace(image, kind="video", encoding="mjpeg")
        capture_ns = camera.capture_ns(message.log_time, image.stamp_ns)
        item = Item(camera.stream, capture_ns, fail_with("not decoded"), frame_id)
        yield from maker.make(item, image, camera.session)

    def _note_damage(self) -> None:
        for file in self.files:
            for text in file.damage:
                self.note("", f"{file.path.name}: {text}" if len(self.files) > 1 else text)
