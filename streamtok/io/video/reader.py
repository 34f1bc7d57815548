"""Read video files in constant memory: pictures with exact times and numbers, in order, by number or from a time on.

    with VideoReader("drive.mp4") as video:
        for frame in video:
            print(frame.number, float(frame.seconds), frame.image.shape)
        again = video.read_frame(115)

All code that needs pictures of a video file reads them here, and so sees the same ones. A picture that damage may have
touched (`streamtok.io.video.clean_decoder`) is dropped and counted; its number is skipped, so that readers see the gap.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from streamtok.io.spec import split_file
from streamtok.io.video.containers import read_seconds
from streamtok.io.video.frame_images import to_image
from streamtok.io.video.picture_numbers import PictureNumbers, read_ticks
from streamtok.io.video.picture_pass import Numbered, Pass, read_from_seconds, read_from_tick
from streamtok.io.video.video_stream import VideoStream


@dataclass(frozen=True)
class VideoFrame:
    """One decoded picture: uint8 RGB (H, W, 3); `seconds` after the stream's start; `packet` if packets are kept."""

    number: int
    seconds: Fraction
    image: np.ndarray
    packet: bytes | None = None
    codec: str | None = None


class VideoReader:
    """Reads one video stream of a file, on this machine or on a web server.

    `codec` is its name, `size` (height, width) that of the first picture, upright. `fps` is the average rate or None,
    `rate` the same as a fraction, 25 if not known. Every read starts over and ends the one before; all reads give the
    same pictures. `counts` has `damaged` (pictures dropped from what was read) and `backwards` (dropped because their
    time does not rise).

    The parameter `fps` sets the rate of a stream without times (a raw one); None takes its headers' rate, else 25.
    `stream` chooses among several video streams; None is the default one. With `keep_packets` each picture has the
    packet it came in (H.264 and H.265 as Annex B access units), unless there are B-frames. Raises FileNotFoundError,
    OSError or ValueError for what is no video or cannot be opened.
    """

    def __init__(
        self, path: str | Path, *, fps: float | None = None, stream: int | None = None, keep_packets: bool = False
    ) -> None:
        self.path = str(path)
        self.counts: Counter[str] = Counter()
        self.video = VideoStream(self.path, stream=stream, fps=fps, keep_packets=keep_packets)
        self.codec: str = self.video.stream.codec_context.name
        self.rate = self.video.timing.rate
        self.fps = float(self.rate) if self.video.timing.claimed_rate else None
        self._ahead: tuple[VideoFrame | None, Iterator[VideoFrame]] | None = None
        self._passing: Fraction | None = None  # set by `pass_over` until a picture from that time on is delivered

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.video.close()

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first picture, upright."""
        frames = self.read_range(0)
        first = next(frames, None)
        self._ahead = first, frames
        context = self.video.stream.codec_context
        return (context.height, context.width) if first is None else first.image.shape[:2]

    @property
    def expected_frames(self) -> int:
        """The number of pictures by the container's headers, 0 if unknown; the true number may differ by a few."""
        seconds = read_seconds(self.video.container)
        return (self.video.stream.frames or round(seconds * (self.video.timing.claimed_rate or 0))) if seconds else 0

    def __iter__(self) -> Iterator[VideoFrame]:
        if self._ahead is None:
            return self.read_range(0)
        first, frames = self._ahead
        self._ahead = None
        return itertools.chain([] if first is None else [first], frames)

    def pass_over(self, seconds: Fraction) -> None:
        """Decode nothing before the first key frame at or after `seconds`; the skipped pictures are not counted."""
        self.video.pass_until = seconds
        self._passing = seconds

    def read_frame(self, number: int) -> VideoFrame:
        """The picture with that number; IndexError if there is none, or it is damaged."""
        frame = next(self.read_range(number, number + 1), None)
        if frame is None:
            raise IndexError(f"{self.path} has no picture {number} that can be read")
        return frame

    def read_range(self, first: int, stop: int | None = None) -> Iterator[VideoFrame]:
        """The pictures numbered `first` to `stop` - 1 (None: to the end), decoded from the key frame before on.

        The first read that does not begin at 0 reads all packets of the file once, without decoding them.
        """
        self._ahead = None
        if first == 0 or self._ticks is None:
            self.video.rewind()
            return self._deliver(Pass(self.video, PictureNumbers(self.video.timing.even)).read(), first, stop)
        if first >= len(self._ticks):
            return iter(())
        return self._deliver(read_from_tick(self.video, int(self._ticks[first]), first), first, stop)

    def read_from(self, seconds: Fraction, first: int, stop: int | None = None) -> Iterator[VideoFrame]:
        """The pictures from a time on, rounded to the file's resolution, decoded from the key frame before.

        Nothing before that key frame is read, so true numbers are not known: pictures are numbered from `first` to
        `stop` - 1.
        """
        if self.video.timing.timeless:
            return self.read_range(round(seconds * self.rate), stop)
        self._ahead = None
        if self.video.timing.counted:
            return self._deliver(read_from_seconds(self.video, seconds, first), first, stop)
        stream = self.video.stream
        tick = (stream.start_time or 0) + round(seconds / stream.time_base)
        return self._deliver(read_from_tick(self.video, tick, first), first, stop)

    @cached_property
    def _ticks(self) -> np.ndarray | None:
        """Each picture's presentation time, int64 (N,) in units of the stream's time base; see `read_ticks`."""
        return read_ticks(self.path, self.video.stream.index) if self.video.timing.even else None

    def _deliver(self, pictures: Iterator[Numbered], first: int, stop: int | None) -> Iterator[VideoFrame]:
        """The pictures of a read from number `first` on; numbers that do not come are counted as damaged."""
        expected, last, joins = first, None, 0
        for number, seconds, frame, stretches in pictures:
            if number is None or number < first:
                continue
            expected, joins = expected + stretches - joins, stretches
            if self._passing is None:
                self.counts["damaged"] += max(min(number, stop or number) - expected, 0)
            elif seconds >= self._passing:
                self._passing = None
            if stop is not None and number >= stop:
                return
            expected = number + 1
            if last is not None and seconds <= last:
                self.counts["backwards"] += 1
                self.video.tell_once("time_backwards", f"picture {number} at {float(seconds):.6f} s")
            else:
                last = seconds
                packet = self.video.packets.take(frame) if self.video.packets else None
                yield VideoFrame(number, seconds, to_image(frame), packet, self.codec if packet else None)
            if expected == stop:
                return
        end = self.video.end if stop is None else min(stop, self.video.end)
        self.counts["damaged"] += max(end - expected, 0) if self._passing is None else 0


def open_reader(text: str | Path) -> VideoReader:
    """The reader of "FILE?fps=20&stream=1", or of FILE alone; see `split_file`."""
    path, options = split_file(str(text))
    return VideoReader(path, **options)
