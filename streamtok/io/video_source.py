"""A video file as a source of frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamtok.io.base import RecordedSource
from streamtok.io.video import VideoFrame, VideoReader
from streamtok.types import Frame


class VideoSource(RecordedSource):
    """A video file as a source. `capture_ns` is the opening plus the presentation time; see VideoReader for damage.

    Reading raises ValueError if not one picture can be read.
    """

    def __init__(
        self,
        path: str | Path,
        stream: str = "cam0",
        *,
        fps: float | None = None,
        keep_packets: bool = False,
        realtime: bool = False,
        max_frames: int | None = None,
    ) -> None:
        super().__init__(stream, realtime=realtime, max_frames=max_frames)
        self.path, self._fps, self._keep_packets = Path(path), fps, keep_packets
        self._reader: VideoReader | None = None
        self._pictures: Iterator[VideoFrame] = iter(())
        self._empty = True

    def _open(self) -> None:
        self._close()
        self._reader = VideoReader(self.path, fps=self._fps, keep_packets=self._keep_packets)
        self._reader.counts = self.counts
        self.size, self.fps = self._reader.size, self._reader.fps
        self._pictures, self._empty = iter(self._reader), True

    def _next(self) -> Frame | None:
        picture = next(self._pictures, None)
        if picture is None:
            if self._empty:
                raise ValueError(f"{self.path}: no frame of it can be read ({self.counts['damaged']} are damaged)")
            return None
        self._empty = False
        capture_ns = self.start_ns + round(picture.seconds * 1_000_000_000)
        return Frame(self.stream, picture.number, capture_ns, picture.image, picture.packet, picture.codec)

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        self._pictures, self._empty = iter(()), False
        if reader is not None:
            reader.close()
