"""Reads the camera images of a recording by time; video packets are decoded from a keyframe up to the one shown."""

from collections import deque

import numpy as np

from streamtok.io.images.stills import encode_jpeg
from streamtok.io.messages.image_messages import ImageMessage, find_parser
from streamtok.io.video.video_packets import LONGEST_REORDER, VideoDecoder, begins_video
from streamtok.preprocessing.pixels import RawImage
from streamtok.recording.format import FRAMES
from streamtok.recording.mcap_file import PLACE
from streamtok.recording.reader import Recording

MOST_BACK = 600  # packets that are searched for a keyframe


class RecordedCamera:
    """The images of one camera of a recording by log time, for one thread."""

    def __init__(self, recording: Recording, stream: str) -> None:
        self._files = recording.files
        topic, parts = FRAMES + stream, []
        for file in self._files:
            parts.append(file.locate({n for n in file.channel_ids(topic) if file.channels[n].topic == topic}))
        self._places = np.concatenate([np.zeros(0, PLACE), *parts])
        self._file_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        self._video: VideoDecoder[int] | None = None
        self._asked, self._next = 0, 0  # the packet that was last requested, and the next one to decode
        self._decoded: deque[tuple[int, np.ndarray | None]] = deque()  # pictures from the last requested one on

    def image_at(self, time_ns: int) -> bytes | None:
        """The image at a log time as a JPEG, PNG or WebP file; None if there is none that can be read."""
        number = int(np.searchsorted(self._places["time"], time_ns))
        if number == len(self._places) or self._places["time"][number] != time_ns:
            return None
        try:
            message = self._read(number)
            if message.kind == "image":
                return bytes(message.data)
            picture = self._decode(number) if message.kind == "video" else message.picture()
        except (ValueError, ImportError):  # damage, which reading the recording reports
            return None
        if picture is None:
            return None
        return encode_jpeg(picture.rgb() if isinstance(picture, RawImage) else picture)

    def _read(self, number: int) -> ImageMessage:
        file, place = self._files[self._file_of[number]], self._places[number]
        channel = file.channels[int(place["channel"])]
        parse = find_parser(file.schemas[channel.schema_id].name, channel.message_encoding)
        return parse(file.message_at(place).data)

    def _decode(self, number: int) -> np.ndarray | None:
        """The picture of a packet, uint8 RGB (H, W, 3); decoding continues from the last request if that is near."""
        if self._video is None or not self._asked <= number < self._next + MOST_BACK:
            self._video = self._begin(number)
        self._asked = number
        while self._decoded and self._decoded[0][0] < number:
            self._decoded.popleft()
        while not self._decoded and self._next < min(len(self._places), number + LONGEST_REORDER):
            found = self._video.decode(self._read(self._next).data, self._next)
            self._decoded += [(picture.key, picture.image) for picture in found if picture.key >= number]
            self._next += 1
        return self._decoded[0][1] if self._decoded and self._decoded[0][0] == number else None

    def _begin(self, number: int) -> VideoDecoder[int]:
        """Make a new decoder at the last packet up to `number` that decoding can start with."""
        for start in range(number, max(-1, number - MOST_BACK), -1):
            message = self._read(start)
            if begins_video(message.encoding, message.data):
                self._next = start
                self._decoded.clear()
                return VideoDecoder(message.encoding)
        raise ValueError(f"no key frame in {MOST_BACK} packets before number {number}")
