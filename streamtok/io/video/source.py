"""A video file as a source: its pictures in order, as fast as possible or in real time."""

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from streamtok.io.base import RecordedSource
from streamtok.io.video.reader import VideoFrame, VideoReader
from streamtok.types import Frame

PATIENCE_NS = 150_000_000


class VideoSource(RecordedSource):
    """A video file as a source; see VideoReader for damage and `options`. ValueError if no picture can be read."""

    kind = "video file"

    def __init__(
        self,
        path: str | Path,
        stream: str = "cam0",
        *,
        options: dict[str, Any] | None = None,
        keep_packets: bool = False,
        **paced: Any,
    ) -> None:
        super().__init__(stream, **paced)
        self.path, self.options, self._keep_packets = path, options or {}, keep_packets
        self._reader: VideoReader | None = None
        self._pictures: Iterator[VideoFrame] = iter(())
        self._empty = True
        self._reached_ns = 0  # the time of the last picture
        self._decodes_until_ns = 0  # while it skips

    def _open(self) -> None:
        self._close()  # in case it is opened again
        self._reader = VideoReader(self.path, **self.options, keep_packets=self._keep_packets)
        self._reader.counts = self.counts
        self.size, self.fps, self.expected_frames = self._reader.size, self._reader.fps, self._reader.expected_frames
        counted = self._reader.video.timing.timeless
        self.clock = "none: pictures are counted at the rate" if counted else "the container's presentation times"
        self.rate_from = self._reader.video.timing.rate_from
        self._pictures, self._empty = iter(self._reader), True

    def skip_to(self, capture_ns: int) -> None:
        """As `RecordedSource.skip_to`. If decoding takes more than half of the skipped time, the rest up to the next
        key frame is not decoded."""
        patience_ns = max((capture_ns - max(self._reached_ns, self.start_ns)) // 2, PATIENCE_NS)
        self._decodes_until_ns = time.monotonic_ns() + patience_ns
        super().skip_to(capture_ns)

    def _pass_over(self, time_ns: int) -> None:
        if self._reader is not None and time.monotonic_ns() > self._decodes_until_ns:
            self._reader.pass_over(Fraction(time_ns, 1_000_000_000))

    def _next(self) -> Frame | None:
        picture = next(self._pictures, None)
        if picture is None:
            if self._empty:
                raise ValueError(f"{self.path}: no frame of it can be read ({self.counts['damaged']} are damaged)")
            return None
        self._empty = False
        self._reached_ns = self.start_ns + round(picture.seconds * 1_000_000_000)
        return Frame(self.stream, picture.number, self._reached_ns, picture.image, picture.packet, picture.codec)

    def _close(self) -> None:
        self._pictures, self._empty = iter(()), False
        if self._reader is not None:
            self._reader.close()
