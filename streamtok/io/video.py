"""Video files: every frame with its exact presentation time, one at a time, in constant memory.

    from streamtok.io.video import VideoReader

    with VideoReader("drive.mp4") as video:
        for picture in video:
            print(picture.number, float(picture.seconds), picture.image.shape)

A picture that damage may have touched (`streamtok.io.clean_decoder`) is left out and counted, and so is its number:
readers see the gap.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.io.base import RecordedSource
from streamtok.io.clean_decoder import Checked, CleanDecoder, to_image
from streamtok.types import Frame

log = logging.getLogger("streamtok.io")

ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
DEFAULT_FPS = Fraction(25)
MOST_PACKETS = 64
"""Packets kept for pictures that have not come out of the decoder yet."""


@dataclass(frozen=True)
class Picture:
    """One decoded picture: uint8 RGB (H, W, 3); `seconds` after the stream's start; `packet` if packets are kept."""

    number: int
    seconds: Fraction
    image: np.ndarray
    packet: bytes | None = None
    codec: str | None = None


class VideoReader:
    """Reads one video stream of a file. `size` is (height, width), `fps` the average rate if the file knows it.

    `fps` given is used for streams without times (raw H.264 or H.265), else the rate that the file claims, else 25.
    `keep_packets` gives each picture the packet it came in (H.264 and H.265 as Annex B access units), where pictures
    come in the order of packets; with B-frames they do not, and `packet` is None. `counts` has `damaged` (pictures
    left out) and `backwards` (pictures whose time does not rise, left out). Raises FileNotFoundError, and ValueError
    for what is no video.
    """

    def __init__(self, path: str | Path, *, fps: float | None = None, keep_packets: bool = False) -> None:
        import av

        self.path = Path(path)
        self.counts: Counter[str] = Counter()
        if not self.path.is_file():
            raise FileNotFoundError(f"video {str(path)!r}: no such file")
        try:
            self._container = av.open(str(self.path))
        except av.FFmpegError as error:
            raise ValueError(f"{path} cannot be read as a video: {error.strerror}") from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{path} holds no video stream")
        self._stream: Any = self._container.streams.video[0]
        context = self._stream.codec_context
        self._decoder = CleanDecoder(context)
        self.codec = context.name
        self.size = (context.height, context.width)
        rate = Fraction(fps).limit_denominator(100_000) if fps else self._stream.average_rate
        self.fps = float(rate) if rate else None
        self.packets_kept = keep_packets and not context.has_b_frames
        self._period = 1 / (rate or DEFAULT_FPS)
        self._timeless = self._container.format.name in ("h264", "hevc") or fps is not None
        self._packets: dict[int, bytes] = {}
        self._filter = self._annex_b() if self.packets_kept else None
        self._number = 0
        self._last: Fraction | None = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def empty(self) -> bool:
        """Whether no picture has come out so far."""
        return self._last is None

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __iter__(self) -> Iterator[Picture]:
        import av

        packets = iter(self._container.demux(self._stream))
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, EOFError) as error:
                log.warning("file=%s event=cut_short frames=%d reason=%r", self.path, self._number, str(error))
                self.counts["damaged"] += 1
                break
            if packet is None:
                break
            for checked in self._decode(packet):
                picture = self._picture(checked)
                if picture is not None:
                    yield picture
        self._count_cut_off()

    def _decode(self, packet: Any) -> Iterator[Checked]:
        import av

        try:
            self._keep(packet)
        except av.FFmpegError as error:
            yield self._decoder.refuse(f"no access unit can be made of it: {error.strerror}")
            return
        yield from self._decoder.decode(packet)

    def _picture(self, checked: Checked) -> Picture | None:
        frame, damage = checked
        if damage:
            self._damage(damage)
            return None
        number, self._number = self._number, self._number + 1
        seconds = self._seconds(frame, number)
        if self._last is not None and seconds <= self._last:
            self.counts["backwards"] += 1
            if self.counts["backwards"] == 1:
                log.warning("file=%s event=time_backwards number=%d seconds=%.6f", self.path, number, seconds)
            return None
        self._last = seconds
        packet = self._packets.pop(frame.pts, None)
        return Picture(number, seconds, to_image(frame), packet, self.codec if packet is not None else None)

    def _count_cut_off(self) -> None:
        """Count the pictures that the file's index (MP4 has one) places behind the end of the file."""
        end = self.path.stat().st_size
        index = getattr(self._stream, "index_entries", ())  # older PyAV does not give it
        cut_off = sum(entry.pos >= end and not entry.is_discard for entry in index)
        if cut_off:
            log.warning("file=%s event=cut_off frames=%d missing=%d", self.path, self._number, cut_off)
            self.counts["damaged"] += cut_off

    def _seconds(self, frame: Any, number: int) -> Fraction:
        if frame.pts is None or self._timeless:
            return number * self._period
        return (frame.pts - (self._stream.start_time or 0)) * frame.time_base

    def _damage(self, reason: str) -> None:
        self.counts["damaged"] += 1
        if self.counts["damaged"] == 1:
            log.warning("file=%s event=damaged number=%d reason=%r", self.path, self._number, reason)
        self._number += 1

    def _annex_b(self) -> Any:
        from av.bitstream import BitStreamFilterContext

        if self.codec not in ANNEX_B or not self._stream.codec_context.extradata:
            return None
        return BitStreamFilterContext(ANNEX_B[self.codec], in_stream=self._stream)

    def _keep(self, packet: Any) -> None:
        """Keep what a packet holds for the picture that it becomes; raises FFmpegError where it is damaged."""
        import av

        if not self.packets_kept or not packet.size or packet.pts is None:
            return
        data = bytes(packet)
        if self._filter is not None:  # it empties what it is given, so it gets a copy
            data = b"".join(bytes(part) for part in self._filter.filter(av.Packet(data)))
        self._packets[packet.pts] = data
        while len(self._packets) > MOST_PACKETS:
            del self._packets[next(iter(self._packets))]


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
        **paced: Any,
    ) -> None:
        super().__init__(stream, **paced)
        self.path, self._fps, self._keep_packets = Path(path), fps, keep_packets
        self._reader: VideoReader | None = None
        self._pictures: Iterator[Picture] = iter(())

    def _open(self) -> None:
        self._close()
        self._reader = VideoReader(self.path, fps=self._fps, keep_packets=self._keep_packets)
        self._reader.counts = self.counts
        self.size, self.fps = self._reader.size, self._reader.fps
        self._pictures = iter(self._reader)

    def _next(self) -> Frame | None:
        picture = next(self._pictures, None)
        if picture is None:
            if self._reader is not None and self._reader.empty:
                raise ValueError(f"{self.path}: no frame of it can be read ({self.counts['damaged']} are damaged)")
            return None
        capture_ns = self.start_ns + round(picture.seconds * 1_000_000_000)
        return Frame(self.stream, picture.number, capture_ns, picture.image, picture.packet, picture.codec)

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        self._pictures = iter(())
        if reader is not None:
            reader.close()
