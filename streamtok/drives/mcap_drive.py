"""Cameras recorded in MCAP files: ROS 1 and ROS 2 messages, Foxglove messages, and streamtok's own recordings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from streamtok.drives.drive_reader import Drive, Item, Place
from streamtok.drives.topics import choose_topics
from streamtok.io.image_messages import DamagedFrame, ImageMessage, image_kind, is_whole_jpeg, parser_of
from streamtok.io.video_packets import VideoDecoder
from streamtok.recording.mcap_reader import McapFile, RawMessage
from streamtok.types import Frame

STILL_CODECS = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp"}


@dataclass
class Camera:
    """One channel with images. Recordings of streamtok tie their times and ids to the channel's metadata: capture
    time = log time - `offset_ns`, ids count from `first_id`; `own` tells them apart."""

    stream: str
    parse: Callable[[Any], ImageMessage]
    own: bool = False
    offset_ns: int = 0
    first_id: int = 0
    session: str = ""
    codec: str = ""

    def frame_id(self, sequence: int) -> int | None:
        """The frame's own id from the low 32 bits that MCAP keeps of it; None if the file has no ids."""
        if not self.own:
            return None
        return self.first_id + ((sequence - self.first_id) & 0xFFFFFFFF)

    def capture_ns(self, log_time: int, stamp_ns: int) -> int:
        """The frame's own time: the message's stamp, where it has one."""
        if self.own:
            return log_time - self.offset_ns
        return stamp_ns or log_time


@dataclass
class _VideoState:
    """The decoder of one camera's video packets, and the last id it was given."""

    decoder: VideoDecoder
    session: str
    last_id: int | None = None


class Other(NamedTuple):
    """A message that is no camera image."""

    topic: str
    data: memoryview


class McapDrive(Drive):
    """The cameras of one or several MCAP files (parts of one recording, in order)."""

    kind = "mcap"

    def __init__(self, paths: Sequence[Path], topics: Sequence[str] | dict[str, str] | None = None) -> None:
        self.files = [McapFile(path) for path in paths]
        cameras, others = self._list_topics()
        self.topics = choose_topics(paths[0], cameras, others, topics)
        super().__init__(paths[0] if len(paths) == 1 else paths[0].parent, list(dict.fromkeys(self.topics.values())))
        self.checked = not self._own_only()
        self._note_damage()

    def _own_only(self) -> bool:
        """A recording of streamtok keeps the times and the order that its cameras had."""
        channels = [c for file in self.files for c in file.channels.values() if c.topic in self.topics]
        return all("clock_offset_ns" in channel.metadata for channel in channels)

    def _list_topics(self) -> tuple[list[str], dict[str, str]]:
        cameras: dict[str, None] = {}
        others: dict[str, str] = {}
        for file in self.files:
            for channel in file.channels.values():
                schema = file.schemas.get(channel.schema_id)
                name = schema.name if schema else channel.message_encoding
                if channel.topic.startswith("token_images/"):
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
            offset = channel.metadata.get("clock_offset_ns")
            if offset is None:
                cameras[channel.id] = Camera(stream, parse)
                continue
            first, session = int(channel.metadata.get("first_frame_id", 0)), channel.metadata.get("session", "")
            codec = channel.metadata.get("codec", "")
            cameras[channel.id] = Camera(stream, parse, True, int(offset), first, session, codec)
        return cameras

    def events(self, streams: list[str], topics: Collection[str] = ()) -> Iterator[Frame | Other]:
        """Frames of the given cameras and, between them, the messages of other `topics`, as they were recorded.

        Frames come when they can be decoded, which for compressed video may be some messages later.
        """
        states: dict[str, _VideoState] = {}
        places = {name: Place() for name in streams}
        for file in self.files:
            cameras = self._cameras_of(file, streams)
            others = {channel.id: channel.topic for channel in file.channels.values() if channel.topic in topics}
            for message in file.messages(cameras.keys() | others.keys(), as_written=True):
                if message.channel_id in others:
                    yield Other(others[message.channel_id], message.data)
                else:
                    yield from self._accepted(self._item(cameras[message.channel_id], message, states), places)
            self._note_damage()
        for state in states.values():
            yield from self._accepted(self._finished(state.decoder.flush()), places)

    def _accepted(self, items: Iterator[Item], places: dict[str, Place]) -> Iterator[Frame]:
        for item in items:
            frame = self.accept(item, places[item.stream])
            if frame is not None:
                yield frame

    def _items(self, streams: list[str]) -> Iterator[Item]:
        states: dict[str, _VideoState] = {}
        for file in self.files:
            cameras = self._cameras_of(file, streams)
            for message in file.messages(cameras.keys(), as_written=not self.checked):
                yield from self._item(cameras[message.channel_id], message, states)
            self._note_damage()
        for state in states.values():
            yield from self._finished(state.decoder.flush())

    def _item(self, camera: Camera, message: RawMessage, states: dict[str, _VideoState]) -> Iterator[Item]:
        frame_id = camera.frame_id(message.sequence)
        try:
            image = camera.parse(message.data)
        except DamagedFrame as error:
            yield Item(camera.stream, camera.capture_ns(message.log_time, 0), failing(str(error)), frame_id)
            return
        capture_ns = camera.capture_ns(message.log_time, image.stamp_ns)
        if (
            camera.codec == "mjpeg"
        ):  # the picture of a video decoder, which differs from an image decoder's in the last bit
            image = replace(image, kind="video", encoding="mjpeg")
        if image.kind == "video":
            yield from self._video(camera, image, (capture_ns, frame_id), states)
            return
        codec = STILL_CODECS.get(image.encoding.lower()) if image.kind == "image" else None
        packet = bytes(image.data) if codec else None
        yield Item(camera.stream, capture_ns, loader(image), frame_id, packet, codec)

    def _video(
        self, camera: Camera, image: ImageMessage, place: tuple[int, int | None], states: dict[str, _VideoState]
    ) -> Iterator[Item]:
        capture_ns, frame_id = place
        state = states.get(camera.stream)
        if state is None or state.session != camera.session:
            if state is not None:
                yield from self._finished(state.decoder.flush())
            try:
                state = states[camera.stream] = _VideoState(VideoDecoder(image.encoding), camera.session)
            except DamagedFrame as error:
                yield Item(camera.stream, capture_ns, failing(str(error)), frame_id)
                return
        if frame_id is not None:
            if state.last_id is not None and frame_id != state.last_id + 1:
                state.decoder.missing("depends on a picture that was not recorded")
            state.last_id = frame_id
        data = bytes(image.data)
        key = Item(camera.stream, capture_ns, failing("not decoded"), frame_id, data, image.encoding)
        yield from self._finished(state.decoder.decode(data, key))

    def _finished(self, decoded: Iterator[Any]) -> Iterator[Item]:
        for one in decoded:
            load = failing(one.damage) if one.image is None else given(one.image)
            yield one.key._replace(load=load)

    def _note_damage(self) -> None:
        for file in self.files:
            for text in file.damage:
                self.note("", f"{file.path.name}: {text}" if len(self.files) > 1 else text)


def loader(message: ImageMessage) -> Callable[[], Any]:
    """What decodes a raw or still-image message when it is wanted."""

    def load() -> Any:
        if message.kind == "image" and not is_whole_jpeg(message.data):
            raise DamagedFrame("a JPEG that is cut off")
        return message.picture()

    return load


def failing(text: str) -> Callable[[], Any]:
    """A `load` that says why there is no picture."""

    def load() -> Any:
        raise DamagedFrame(text)

    return load


def given(image: Any) -> Callable[[], Any]:
    """A `load` that has the picture already."""

    return lambda: image
