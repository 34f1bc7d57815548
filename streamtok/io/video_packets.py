"""Pictures of compressed video that arrives one access unit at a time (Foxglove CompressedVideo, recorded packets).

Decoders conceal damage: they go on with pictures that look right and are not. Here a picture that an error, or a
missing unit, may have touched is left out and named until the next key frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from streamtok.io.image_messages import VIDEO_CODECS, DamagedFrame

LONGEST_REORDER = 32  # units that a decoder may hold back: H.264 and H.265 allow 16 frames


class Decoded(NamedTuple):
    """What became of the unit given as `key`: its picture, uint8 RGB (H, W, 3), or why there is none."""

    key: Any
    image: np.ndarray | None
    damage: str = ""


class VideoDecoder:
    """Decodes one stream of access units ("h264", "h265", "av1", "vp9"); each unit comes with a key that comes back."""

    def __init__(self, codec: str) -> None:
        import av

        if codec not in VIDEO_CODECS:
            raise DamagedFrame(f"video format {codec!r} is not known; known are {', '.join(VIDEO_CODECS)}")
        self._context: Any = av.CodecContext.create(VIDEO_CODECS[codec], "r")
        self._context.thread_count = 1
        self._context.options = {"err_detect": "explode"}
        self._waiting: dict[int, Any] = {}
        self._next = 0
        self._broken = "video before its first key frame"

    def missing(self, reason: str) -> None:
        """Say that units are missing here: pictures up to the next key frame are left out."""
        self._broken = reason

    def decode(self, data: Any, key: Any) -> Iterator[Decoded]:
        """Feed one access unit; yields what became of it or of units before it, in presentation order."""
        import av

        if not len(data):  # which a decoder would take for the end of the stream
            yield Decoded(key, None, "it is empty")
            self._broken = self._broken or "depends on a damaged picture"
            return
        packet = av.Packet(bytes(data))
        packet.pts = packet.dts = self._next
        self._waiting[self._next] = key
        self._next += 1
        yield from self._run(packet, self._next - 1)

    def flush(self) -> Iterator[Decoded]:
        """The pictures that the decoder still holds, and the units that never gave one."""
        yield from self._run(None, None)
        yield from self._lost(self._next)

    def _run(self, packet: Any, number: int | None) -> Iterator[Decoded]:
        import av

        try:
            frames = self._context.decode(packet)
        except av.FFmpegError as error:
            key = self._waiting.pop(number, None) if number is not None else None
            reason = f"the decoder refuses it: {error.strerror}"
            if key is not None:
                first = self._broken
                yield Decoded(key, None, first or reason)
            self._broken = self._broken or "depends on a damaged picture"
            return
        for frame in frames:
            yield from self._picture(frame)

    def _picture(self, frame: Any) -> Iterator[Decoded]:
        yield from self._lost(frame.pts - LONGEST_REORDER)
        key = self._waiting.pop(frame.pts, None)
        if frame.is_corrupt:
            self._broken = "depends on a damaged picture"
            yield Decoded(key, None, "the decoder marks it as damaged")
            return
        if frame.key_frame:
            self._broken = ""
        if self._broken:
            yield Decoded(key, None, self._broken)
            return
        yield Decoded(key, to_image(frame))

    def _lost(self, before: int) -> Iterator[Decoded]:
        for number in [number for number in self._waiting if number < before]:
            yield Decoded(self._waiting.pop(number), None, self._broken or "the decoder gave no picture for it")


def to_image(frame: Any) -> np.ndarray:
    """A decoded video frame as uint8 RGB (H, W, 3)."""
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
