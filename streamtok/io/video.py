"""Video files: every picture with its exact time and number, in order, by number or from a time on, in constant memory.

    from streamtok.io.video import VideoReader

    with VideoReader("drive.mp4") as video:
        for frame in video:
            print(frame.number, float(frame.seconds), frame.image.shape)
        again = video.read_frame(115)

Whoever wants pictures of a video file reads them here, so that all see the same ones. A picture that damage may have
touched (`streamtok.io.clean_decoder`) is left out and counted, and so is its number: readers see the gap.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np

from streamtok.io.clean_decoder import Checked, CleanDecoder, KeptPackets, to_image
from streamtok.io.picture_numbers import PictureNumbers, read_ticks
from streamtok.io.spec import split_file

log = logging.getLogger("streamtok.io")

DEFAULT_FPS = Fraction(25)
PROGRESSIVE = (0, 1)  # of FFmpeg's field orders: not known, progressive

COVER = av.stream.Disposition.attached_pic
DEFAULT = av.stream.Disposition.default

Numbered = Iterator[tuple[int | None, Any]]
"""Pictures as frames of PyAV, each with its number (None: before what is asked for)."""


@dataclass(frozen=True)
class VideoFrame:
    """One decoded picture: uint8 RGB (H, W, 3); `seconds` after the stream's start; `packet` if packets are kept."""

    number: int
    seconds: Fraction
    image: np.ndarray
    packet: bytes | None = None
    codec: str | None = None


def video_streams(container: Any) -> list[Any]:
    """The video streams of a container of PyAV; pictures attached to it, such as a cover, are none."""
    return [stream for stream in container.streams.video if not stream.disposition & COVER]


def choose_stream(container: Any, number: int | None = None) -> Any:
    """The video stream of that number, else the one marked as default, else the first; ValueError if there is none."""
    streams = video_streams(container)
    if not streams:
        raise ValueError("holds no video stream: no frame that can be decoded")
    if number is not None and number >= len(streams):
        raise ValueError(f"has no video stream {number}: it has {len(streams)}, counted from 0")
    if number is None:
        marked = [stream for stream in streams if stream.disposition & DEFAULT]
        return marked[0] if len(marked) == 1 else streams[0]
    return streams[number]


class VideoReader:
    """Reads one video stream of a file. `size` is (height, width), `fps` the average rate if the file knows it,
    `rate` the same as a fraction (25 if it does not).

    Every read starts anew and ends the one before; a picture is the same whichever read gives it. `counts` has
    `damaged` (pictures left out of what was read) and `backwards` (those whose time does not rise, left out too).

    `stream` chooses a video stream, counted from 0; None takes the one that is marked as default, else the first.
    `fps` given is the rate of a stream without times (raw H.264 or H.265); None takes what the file claims, else 25.
    With `keep_packets` each picture has the packet it came in (H.264 and H.265 as Annex B access units), unless there
    are B-frames. Raises FileNotFoundError or ValueError for what is no video.
    """

    def __init__(
        self, path: str | Path, *, fps: float | None = None, stream: int | None = None, keep_packets: bool = False
    ) -> None:
        self.path, self._chosen = Path(path), stream
        self.counts: Counter[str] = Counter()
        self._keep_packets = keep_packets
        self._told: set[str] = set()
        self._open()
        streams = video_streams(self._container)
        if stream is None and len(streams) > 1:
            read = f"{streams.index(self._stream)} is read, FILE?stream=N reads another"
            log.warning("file=%s event=several_streams count=%d reason=%r", self.path, len(streams), read)
        context = self._stream.codec_context
        self.codec: str = context.name
        self.size: tuple[int, int] = (context.height, context.width)
        rate = Fraction(fps).limit_denominator(100_000) if fps else self._stream.average_rate
        self.fps = float(rate) if rate else None
        self.rate: Fraction = rate or DEFAULT_FPS
        self._raw = self._container.format.name in ("h264", "hevc")
        self._timeless = self._raw or fps is not None
        interlaced = getattr(context, "field_order", 0) not in PROGRESSIVE  # older PyAV lacks it
        hides_pictures = self.codec == "vp8" or self._container.format.name == "avi"  # or has several in a packet
        self._even = not (self._timeless or interlaced or hides_pictures)

    def _open(self) -> None:
        if not self.path.exists() or self.path.is_dir():  # a pipe is read once, from its beginning
            raise FileNotFoundError(f"video {str(self.path)!r}: no such file")
        try:
            self._container = av.open(str(self.path))
        except av.FFmpegError as error:
            told = f"{self.path} cannot be read as a video, it holds no frame that can be decoded: {error.strerror}"
            raise ValueError(told) from error
        try:
            self._stream: Any = choose_stream(self._container, self._chosen)
        except ValueError as error:
            self._container.close()
            raise ValueError(f"{self.path} {error}") from None
        self._decoder = CleanDecoder(self._stream.codec_context)
        kept = self._keep_packets and not self._stream.codec_context.has_b_frames
        self._packets = KeptPackets(self._stream) if kept else None
        self._at_start = True
        self._pass_until: Fraction | None = None  # until a picture from there on is given away
        self._passing = False

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    @property
    def expected_frames(self) -> int:
        """How many pictures the container says there are, 0 if it does not; the true number may differ by a few."""
        seconds = Fraction(self._container.duration or 0, av.time_base)
        return self._stream.frames or round(seconds * (self._stream.average_rate or 0))

    def __iter__(self) -> Iterator[VideoFrame]:
        return self.read_range(0)

    def pass_over(self, seconds: Fraction) -> None:
        """Decode nothing before the first key frame at or after `seconds`; what is passed over is not counted."""
        self._pass_until, self._passing = seconds, True

    def read_frame(self, number: int) -> VideoFrame:
        """The picture of that number; IndexError if there is none, or damage hides it."""
        frame = next(self.read_range(number, number + 1), None)
        if frame is None:
            raise IndexError(f"{self.path} has no picture {number} that can be read")
        return frame

    def read_range(self, first: int, stop: int | None = None) -> Iterator[VideoFrame]:
        """The pictures numbered `first` to `stop` - 1 (None: to the end), decoded from the key frame before on.

        The first read that does not begin at 0 passes over all packets of the file once, without decoding them.
        """
        if first == 0 or self._ticks is None:
            self._rewind()
            return self._deliver(self._number(PictureNumbers(self._even)), first, stop)
        if first >= len(self._ticks):
            return iter(())
        return self._deliver(self._number_from(int(self._ticks[first]), first), first, stop)

    def read_from(self, seconds: Fraction, first: int, stop: int | None = None) -> Iterator[VideoFrame]:
        """The pictures from a time on, rounded to the file's resolution, decoded from the key frame before on.

        What lies before that key frame is not read, so the number of the first picture is not known: it is called
        `first`, and the others count on up to `stop` - 1.
        """
        if self._timeless:
            return self.read_range(round(seconds * self.rate), stop)
        tick = (self._stream.start_time or 0) + round(seconds / self._stream.time_base)
        return self._deliver(self._number_from(tick, first), first, stop)

    @cached_property
    def _ticks(self) -> np.ndarray | None:
        """When each picture is shown, int64 (N,) in units of the stream's time base; None where packets do not say."""
        return read_ticks(self.path, self._stream.index) if self._even else None

    def _deliver(self, pictures: Numbered, first: int, stop: int | None) -> Iterator[VideoFrame]:
        """The pictures of a read from `first` on as they are given away; the numbers that do not come are counted."""
        expected, last = first, None
        for number, frame in pictures:
            if number is None or number < first:
                continue
            if self._pass_until is None:
                self.counts["damaged"] += max(min(number, stop or number) - expected, 0)
            elif self._seconds(frame, number) >= self._pass_until:
                self._pass_until = None
            if stop is not None and number >= stop:
                return
            expected, seconds = number + 1, self._seconds(frame, number)
            if last is not None and seconds <= last:
                self.counts["backwards"] += 1
                self._tell_once("time_backwards", f"picture {number} at {float(seconds):.6f} s")
            else:
                last = seconds
                packet = self._packets.take(frame.pts) if self._packets else None
                yield VideoFrame(number, seconds, to_image(frame), packet, self.codec if packet else None)
            if expected == stop:
                return
        end = self._end if stop is None else min(stop, self._end)
        self.counts["damaged"] += max(end - expected, 0) if self._pass_until is None else 0

    def _tell_once(self, event: str, reason: str) -> None:
        if event not in self._told:
            log.warning("file=%s event=%s reason=%r", self.path, event, reason)
        self._told.add(event)

    def _number_from(self, tick: int, first: int) -> Numbered:
        """Pictures shown at `tick` or later, the first of them called `first`, decoded from a key frame before on.

        Where that key frame gives too little, an earlier one does: some streams need more of the past at such a place,
        and not every container finds key frames.
        """
        back, second, given = 0, max(1, round(1 / self._stream.time_base)), tick - 1
        self._sure = False
        while not self._sure:
            cold_until = tick if self._seek(tick - back) else None
            for number, frame in self._number(PictureNumbers(self._even, first, tick), cold_until):
                if given < tick if frame.pts is None else frame.pts <= given:
                    continue
                given = given if frame.pts is None else frame.pts
                yield number, frame
            back = max(second, 2 * back)

    def _seek(self, tick: int) -> bool:
        """Go to a key frame at or before `tick`; False where that is the start of the file."""
        try:
            if tick > (self._stream.start_time or 0):
                self._at_start = False
                self._container.seek(tick, stream=self._stream)
                self._decoder.restart()
                return True
        except av.FFmpegError:  # a file that cannot be sought in
            pass
        self._rewind()
        return False

    def _rewind(self) -> None:
        if not self._at_start:
            self._container.close()
            self._open()
        self._at_start = False

    def _number(self, numbers: PictureNumbers, cold_until: int | None = None) -> Numbered:
        """Decode from here to the end; `_end` is then the number behind the last picture, whether it could be read.

        Behind a key frame in the midst of the stream a decoder is cold: what looks like damage may be the past that it
        does not know. Given `cold_until`, reading stops there, not `_sure`, and where the key frame comes later.
        """
        self._sure, self._keys = cold_until is None, 0
        for packet in self._demux(numbers):
            if self._is_passed_over(packet):
                self._decoder.lose_packets()
                continue
            for checked in self._decode(packet):
                if not self._sure and self._lacks_past(checked, cold_until):
                    return
                if checked.damage:
                    numbers.hide_picture()
                    self._tell_once("damaged", checked.damage)
                    continue
                yield numbers.number(None if self._raw else checked.frame.pts, checked.disturbed), checked.frame
        self._sure = self._sure or self._keys > 0
        self._end = numbers.end(bool(self._decoder.damage)) + self._cut_short + self._count_cut_off()

    def _lacks_past(self, checked: Checked, cold_until: int | None) -> bool:
        """Whether a read that began at a key frame must begin earlier; from its second key frame on it is sure."""
        frame = checked.frame
        self._keys += bool(frame and frame.key_frame and not checked.damage)
        late = frame and cold_until is not None and frame.pts is not None and frame.pts > cold_until
        if self._keys and (self._decoder.damage or (self._keys == 1 and frame.key_frame and late)):
            return True
        self._sure = self._keys > 1
        return False

    def _demux(self, numbers: PictureNumbers) -> Iterator[Any]:
        """The packets from here on, as PyAV gives them; `numbers` is told of those that become pictures."""
        self._cut_short = False
        count, packets = itertools.count(), self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, EOFError) as error:
                self._tell_once("cut_short", str(error))
                self._cut_short = True
                return
            if packet is None:
                return
            if packet.size and self._raw:  # a time that tells which packet a picture comes from, not when it is shown
                packet.pts = packet.dts = next(count)
            elif packet.size and not packet.is_discard:
                numbers.add_packet(packet.pts)
            yield packet

    def _is_passed_over(self, packet: Any) -> bool:
        """Whether a packet lies before the key frame that `pass_over` waits for; not the empty one at the end."""
        if self._pass_until is not None and packet.is_keyframe and packet.pts is not None:
            self._passing = self._passing and self._seconds(packet, packet.pts) < self._pass_until
        return self._passing and packet.size > 0

    def _decode(self, packet: Any) -> Iterator[Checked]:
        try:
            if self._packets is not None:
                self._packets.keep(packet)
        except av.FFmpegError as error:
            return iter([self._decoder.refuse(f"no access unit can be made of it: {error.strerror}", packet.pts)])
        return self._decoder.decode(packet)

    def _count_cut_off(self) -> int:
        """How many pictures the file's index (MP4 has one) places behind the end of the file."""
        size = self.path.stat().st_size or math.inf  # a pipe has none
        index = getattr(self._stream, "index_entries", ())  # older PyAV does not give it
        cut_off = sum(entry.pos >= size and not entry.is_discard for entry in index)
        if cut_off:
            self._tell_once("cut_off", f"{cut_off} pictures lie behind the end of the file")
        return cut_off

    def _seconds(self, frame: Any, number: int) -> Fraction:
        if frame.pts is None or self._timeless:
            return number / self.rate
        return (frame.pts - (self._stream.start_time or 0)) * frame.time_base


def open_video(text: str | Path) -> VideoReader:
    """The reader of "FILE?fps=20&stream=1", or of FILE alone; see `split_file`."""
    path, options = split_file(str(text))
    return VideoReader(path, **options)


def count_streams(path: Path) -> int:
    """How many video streams a file has; raises as VideoReader does."""
    with VideoReader(path, stream=0) as video:
        return len(video_streams(video._container))
