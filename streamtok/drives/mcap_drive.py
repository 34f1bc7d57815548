"""Read cameras from MCAP files: ROS 1 and ROS 2 messages, Foxglove messages, and streamtok's own recordings."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from streamtok.drives.message_drive import MessageDrive, ReadOptions, Recorded, Topic, TopicMessage
from streamtok.recording.format import PICTURES, TOKENS
from streamtok.recording.mcap_file import McapFile, RawMessage
from streamtok.recording.parts import Parts, open_each
from streamtok.types import Frame

if TYPE_CHECKING:
    from mcap.records import Channel


class TokenData(NamedTuple):
    """A token message between the frames of a recording, as it is stored."""

    topic: str
    data: memoryview


class McapDrive(MessageDrive):
    """The cameras of one or several MCAP files (parts of one recording, in order)."""

    kind = "mcap"

    def __init__(self, parts: Parts, options: ReadOptions | None = None, path: Path | None = None) -> None:
        self.files, faults = open_each(parts.paths, McapFile)
        super().__init__(path or parts.paths[0], [*parts.notes, *faults])
        self.sizes = {file.place: file.place.stat().st_size for file in self.files}
        self._note_damage()
        channels = [(self._topic_of(file, c), c) for file in self.files for c in file.channels.values()]
        encodings = {topic: channel.message_encoding for topic, channel in channels}
        foreign = {topic for topic, channel in channels if "clock_offset_ns" not in channel.metadata}
        self.choose_cameras(encodings, options or ReadOptions(), recorded=encodings.keys() - foreign)
        # streamtok's own recordings have the cameras' times, in order.
        self.checked = not foreign.isdisjoint(self.topics)
        if self.checked:
            cameras = [(file, self._cameras_in(file, self.topics)) for file in self.files]
            self.find_twice((ids.values(), file.span, file.was_set_back(ids)) for file, ids in cameras)

    def messages(self, topics: Collection[Topic]) -> Iterator[TopicMessage]:
        read = self._read(topics, as_written=not self.checked)
        return (message for message in read if isinstance(message, TopicMessage))

    def frames_and_tokens(self, streams: list[str]) -> Iterator[Frame | TokenData]:
        """Frames of the given cameras of a recording, and their token messages between them, in recorded order.

        Frames come when they are decoded, which for compressed video may be some messages later.
        """
        numberings = {name: self.start_numbering(name) for name in streams}
        topics, tokens = {t for t, name in self.topics.items() if name in streams}, {TOKENS + name for name in streams}
        for each in self.assemble(self._read(topics, tokens, as_written=True)):
            if isinstance(each, TokenData):
                yield each
            elif (frame := self.load(self.number(each, numberings[each.stream]))) is not None:
                yield frame

    def _read(
        self, topics: Collection[Topic], token_topics: Collection[str] = (), *, as_written: bool
    ) -> Iterator[TopicMessage | TokenData]:
        for file in self.files:
            cameras = self._cameras_in(file, topics)
            tokens = {number: c.topic for number, c in file.channels.items() if c.topic in token_topics}
            ids = cameras.keys() | tokens.keys()
            messages = file.messages(ids, as_written=as_written, unreadable=self.checked)
            for message in self.read_file(file.path.name, file.place, messages):
                number, _, log_ns, publish_ns, data, unreadable = message
                if number in tokens:
                    yield TokenData(tokens[number], data)
                    continue
                recorded = _read_facts(file.channels[number], message)
                if recorded is None or not unreadable:  # in streamtok's own, numbers show what is missing
                    yield TopicMessage(cameras[number], log_ns, data, publish_ns, recorded, unreadable)
            self._note_damage()

    def _cameras_in(self, file: McapFile, topics: Collection[Topic]) -> dict[int, Topic]:
        return {number: t for number, c in file.channels.items() if (t := self._topic_of(file, c)) in topics}

    def _topic_of(self, file: McapFile, channel: "Channel") -> Topic:
        """A channel's topic with the name of its schema; pictures of tokens get a name that is no camera's."""
        schema = file.schemas.get(channel.schema_id)
        if channel.topic.startswith(PICTURES):
            return Topic(channel.topic, "pictures of tokens")
        return Topic(channel.topic, schema.name if schema else "")

    def _note_damage(self) -> None:
        for file in self.files:
            for text in file.damage:
                self.note("", f"{file.path.name}: {text}" if len(self.files) > 1 else text)


def _read_facts(channel: "Channel", message: RawMessage) -> Recorded | None:
    """The facts that streamtok recorded with a camera image; None in files of other recorders.

    MCAP's sequence holds the low 32 bits of a frame's id, counted from the channel's first id.
    """
    facts = channel.metadata
    if "clock_offset_ns" not in facts:
        return None
    first = int(facts.get("first_frame_id", 0))
    frame_id = first + ((message.sequence - first) & 0xFFFFFFFF)
    capture_ns = message.log_time - int(facts["clock_offset_ns"])
    return Recorded(capture_ns, frame_id, facts.get("session", ""), facts.get("codec", ""))
