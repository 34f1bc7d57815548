"""Decode video that arrives one access unit at a time (Foxglove CompressedVideo, recorded packets).

Each unit becomes a picture or a reason why there is none; `clean_decoder` defines damage.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Generic, NamedTuple, TypeVar

import av
import numpy as np

from streamtok.io.codecs.nal_units import KEY_UNITS, split_units, unit_type
from streamtok.io.images.stills import DamagedFrame, ImageData
from streamtok.io.messages.image_messages import VIDEO_CODECS
from streamtok.io.video.clean_decoder import CleanDecoder
from streamtok.io.video.damage import Checked
from streamtok.io.video.frame_images import to_image

COUNTED = Fraction(1, 1)  # a unit's time is its number
TELL_LOSSES = ("h264", "h265", "hevc", "mjpeg")  # VP9, and AV1 without order hints, do not show a missing unit
LONGEST_REORDER = 32  # units that a decoder may hold back: H.264 and H.265 allow 16 frames

Key = TypeVar("Key")


class Decoded(NamedTuple, Generic[Key]):
    """The result of the unit `key`: its picture, uint8 RGB (H, W, 3), or the reason why there is none."""

    key: Key
    image: np.ndarray | None
    damage: str = ""


class VideoDecoder(Generic[Key]):
    """Decodes one stream of access units of a codec in VIDEO_CODECS; each result carries the `key` of its unit."""

    def __init__(self, codec: str) -> None:
        if codec not in VIDEO_CODECS:
            raise DamagedFrame(f"video format {codec!r} is not known; known are {', '.join(VIDEO_CODECS)}")
        self._decoder = CleanDecoder(av.CodecContext.create(VIDEO_CODECS[codec], "r"), counted=True)
        self._tells_losses = codec in TELL_LOSSES
        self._waiting: dict[int, Key] = {}
        self._next = 0

    def missing(self, reason: str) -> None:
        """Report missing units at this point: pictures up to the next key frame are damaged."""
        self._decoder.lose_packets(reason)

    def decode(self, data: ImageData, key: Key) -> Iterator[Decoded[Key]]:
        """Feed one access unit; yields the results of it or of earlier units, in presentation order."""
        if not len(data):  # a decoder would take it for the end of the stream
            damage = self._decoder.damage or "it is empty"
            if not self._tells_losses:
                self._decoder.lose_packets()
            yield Decoded(key, None, damage)
            return
        packet = av.Packet(bytes(data))
        packet.pts = packet.dts = number = self._next
        packet.time_base = COUNTED
        self._waiting[number] = key
        self._next += 1
        for checked in self._decoder.decode(packet):
            yield from self._match_result(checked)

    def flush(self) -> Iterator[Decoded[Key]]:
        """The pictures that the decoder still holds, and the units that never gave one."""
        for checked in self._decoder.decode(None):
            yield from self._match_result(checked)
        yield from self._give_up(self._next)

    def _match_result(self, checked: Checked) -> Iterator[Decoded[Key]]:
        """The result of a frame's unit, or of a unit that gave none."""
        frame, damage = checked.frame, checked.damage
        if frame is not None:
            yield from self._give_up(frame.pts - LONGEST_REORDER)
        number = checked.pts if frame is None else frame.pts
        if number in self._waiting:
            yield Decoded(self._waiting.pop(number), None if damage else to_image(frame), damage)

    def _give_up(self, before: int) -> Iterator[Decoded[Key]]:
        for number in [number for number in self._waiting if number < before]:
            yield Decoded(self._waiting.pop(number), None, self._decoder.damage or "the decoder gave no picture for it")


def begins_video(codec: str, data: ImageData) -> bool:
    """Whether decoding can start at a packet: a key frame (H.264 and H.265 as Annex B), or a codec without any."""
    packet, codec = bytes(data), VIDEO_CODECS.get(codec, codec)
    if codec in KEY_UNITS:
        return any(unit_type(codec, unit) in KEY_UNITS[codec] for unit in split_units(packet, 0) if unit)
    if codec == "vp9":  # frame_marker, profile, show_existing_frame and frame_type of the uncompressed header
        return bool(packet) and not packet[0] & 0b1100
    return True
