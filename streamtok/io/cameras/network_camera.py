"""Cameras behind a URL (RTSP, HTTP, UDP, SRT), read by PyAV; damaged pictures are dropped and counted.

A picture's time is the stream's own, put on this machine's clock by the packet with the least delay. Pictures that the
camera had buffered when it was opened keep their spacing, and network jitter is removed.
"""

import logging
import time
from collections import deque
from dataclasses import replace
from typing import Any

import av

from streamtok.io.base import GRAB_S, EndOfSource
from streamtok.io.cameras.camera import Device, Grabbed
from streamtok.io.cameras.stream_clock import MOST_BACK_NS, StreamClock
from streamtok.io.certificates import verifies
from streamtok.io.video.clean_decoder import CleanDecoder
from streamtok.io.video.containers import PLAYLIST, demux, is_rtp, makes_up_times, open_container, read_rate
from streamtok.io.video.damage import BEFORE_KEY
from streamtok.io.video.frame_images import to_image
from streamtok.io.video.transport_stream import MarkedLosses
from streamtok.redaction import without_password

log = logging.getLogger("streamtok.io")

MULTIPART = "mpjpeg"
LOW_DELAY = av.codec.context.Flags.low_delay
DEFAULT_FPS = 25
BURST_NS = 1_500_000_000  # the longest that reading a camera's buffer takes after connecting
WAIT_NS, LIVE_WAITS = 5_000_000, 3  # so many packets in a row that took this long were not buffered
LEAST_STEP_NS = 1_000_000  # between pictures; cameras whose times stand still, or come twice, have less
RTP_LOSS = ("missed", "jitter buffer full")  # in log lines: the RTP demuxer marks no packet


class NetworkCamera(Device):
    """A camera's stream at a URL. Until pictures come, `size` (height, width) and `fps` are what its headers say."""

    kind, clock = "network camera", "the stream's own times, put on this machine's clock; arrival where it has none"

    def __init__(self, url: str, form: str | None = None) -> None:
        verifies(url)  # raises at once for a wrong option
        self.url, self.name = url, without_password(url)
        self._container: Any = None
        self._damaged = 0  # pictures since the last good one
        self._form = form  # FFmpeg's demuxer, if its own choice is wrong or takes it too long

    def connect(self) -> None:
        """Open the stream; raises OSError that says what is wrong."""
        self.release()
        self._rtp = is_rtp(self.url)
        if self._rtp:
            _enable_ffmpeg_log()
        try:
            self._container, stream = open_container(self.url, live=True, form=self._form)
        except ValueError as error:
            raise OSError(str(error)) from error
        context, self._time_base = stream.codec_context, stream.time_base
        self.size = (context.height, context.width) if context.height and context.width else None
        rate = read_rate(self._container, stream)
        self.fps = float(rate) if rate else None
        context.flags |= LOW_DELAY
        self._decoder, self._packets = CleanDecoder(context), demux(self._container, stream)
        self._clock = None if makes_up_times(self._container) else StreamClock()
        self._waiting: deque[Grabbed] = deque()  # with their times of arrival
        self._plays = self._container.format.name == PLAYLIST
        self._began_ns, self._live = time.monotonic_ns(), self._clock is None or self._plays
        self._waits, self._clean = 0, False
        self._losses, self._marked = MarkedLosses(late=True), False  # whether the latest packet may be damaged
        self._last_ns: int | None = None  # the time of the last picture in the stream
        self._ended = self._failed = self._warned = False

    def grab(self) -> Grabbed | None:
        """The next picture, uint8 RGB (H, W, 3), with its time; None if the stream ends or fails."""
        while not self._ended and not self.closing and (not self._waiting or not self._live):
            self._ended = not self._read()
        if not self._waiting:
            if self._ended and self._container.duration and not self._failed:
                raise EndOfSource(f"{self.name} is a file that ended")
            return None
        one = self._waiting.popleft()
        self.size = one.image.shape[:2]
        if self._clock is None or one.stream_ns is None:
            return replace(one, capture_ns=self._guess_time(one))
        if self._plays:  # an HLS segment of seconds arrives at once: wait until a picture is due
            due_ns = self._clock.play(one.stream_ns, time.monotonic_ns())
            while not self.closing and (early_ns := due_ns - time.monotonic_ns()) > 0:
                time.sleep(min(early_ns / 1e9, GRAB_S))
        return replace(one, capture_ns=self._clock.to_local(one.stream_ns))

    def release(self) -> None:
        """Close the connection."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _guess_time(self, one: Grabbed) -> int:
        """The time of a picture without one, such as the first of RTSP: a period before the next, else its arrival."""
        following = self._waiting[0].stream_ns if self._waiting else None
        if following is None or self._clock is None:
            return one.capture_ns
        return self._clock.to_local(following - round(1e9 / (self.fps or DEFAULT_FPS)))

    def _read(self) -> bool:
        """Read the next packet and queue its decoded pictures; False at the end, or if the connection fails.

        Packets that come without a wait were buffered by the camera; `_live` is set once that backlog is read.
        """
        started_ns = time.monotonic_ns()
        try:
            packet = self._next_packet()
        except (av.FFmpegError, OSError) as error:
            log.info("device=%s event=read_failed error=%r", self.name, error.strerror or "")
            self._failed, packet = True, None
            if self._container.format.name == MULTIPART and isinstance(error, av.error.InvalidDataError):
                self._form = "mjpeg"  # which finds pictures by JPEG markers, whatever the part headers say
        now_ns = time.monotonic_ns()
        if packet is not None and packet.pts is not None and self._clock is not None and not self._plays:
            self._clock.see(self._to_ns(packet.pts), now_ns)
        for frame, damage, *_ in self._decoder.decode(packet, self._marked):
            if damage:
                self._damaged += self._clean  # pictures before the first keyframe do not count
                if not self._warned and damage != BEFORE_KEY:  # once per connection: there may be nothing but damage
                    log.warning("device=%s event=damaged reason=%r", self.name, damage)
                    self._warned = True
                continue
            stream_ns = self._read_time(frame)
            timed = self._clock is not None and stream_ns is not None
            self._waiting.append(Grabbed(to_image(frame), now_ns, None, self._damaged, timed, stream_ns))
            self._damaged, self._clean = 0, True
        self._waits = self._waits + 1 if now_ns - started_ns > WAIT_NS else 0
        self._live |= (self._waits >= LIVE_WAITS and bool(self._waiting)) or now_ns - self._began_ns > BURST_NS
        return packet is not None

    def _read_time(self, frame: Any) -> int | None:
        """The time of a frame in the stream; None if it has none, or one that tells nothing beside the last one."""
        if frame.pts is None:
            return None
        before, self._last_ns = self._last_ns, self._to_ns(frame.pts)
        stands = before is not None and -MOST_BACK_NS <= self._last_ns - before < LEAST_STEP_NS
        return None if stands else self._last_ns

    def _to_ns(self, ticks: int) -> int:
        return round(ticks * self._time_base * 1_000_000_000)

    def _next_packet(self) -> Any:
        """The next packet that is not empty, None at the end; notes whether some before it were lost."""
        while True:
            with av.logging.Capture() as told:
                packet = next(self._packets, None)
            if packet is None:
                return None
            packet.is_corrupt |= self._rtp and any(sign in text for _, _, text in told for sign in RTP_LOSS)
            _, self._marked = self._losses.see(packet)
            if packet.size:
                return packet


def _enable_ffmpeg_log() -> None:
    """Enable FFmpeg's log: its RTP demuxer reports lost packets in no other way."""
    av.logging.set_skip_repeated(False)
    if av.logging.get_level() is None:
        quiet = logging.getLogger("libav")
        quiet.propagate = False
        quiet.addHandler(logging.NullHandler())
        av.logging.set_level(av.logging.WARNING)
