"""Cameras behind a URL (RTSP, HTTP, UDP, SRT), read as files are: by PyAV, and only what damage has not touched.

A picture's time is the stream's own, put on this machine's clock by the packet that came with the least delay. What a
camera had buffered when it was opened so keeps its spacing, and jitter of the network is taken out.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from http.client import HTTPException, HTTPResponse
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import (
    HTTPBasicAuthHandler,
    HTTPDigestAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    HTTPSHandler,
    OpenerDirector,
    build_opener,
)

import av
import numpy as np

from streamtok.io.base import GRAB_S, EndOfSource
from streamtok.io.cameras.camera import Device, Grabbed
from streamtok.io.certificates import make_context, verifies
from streamtok.io.video.clean_decoder import BEFORE_KEY, MARKED_BEHIND, CleanDecoder
from streamtok.io.video.containers import OPEN_S, demux, is_rtp, makes_up_times, open_container, read_rate
from streamtok.io.video.frame_images import to_image
from streamtok.names import without_password

log = logging.getLogger("streamtok.io")

MULTIPART, PLAYLIST = "mpjpeg", "hls"
LOW_DELAY = av.codec.context.Flags.low_delay
DEFAULT_FPS = 25
MOST_PLAYLIST = 1 << 24  # bytes
PAGES = "text/html", "multipart"
BURST_NS = 1_500_000_000  # what is buffered at most
WAIT_NS, LIVE_WAITS = 5_000_000, 3  # packets that took so long, one after the other, were not buffered
MOST_LATE_NS, LATE_NS = 1_000_000_000, 10_000_000_000  # what is late, and for how long it may be
MOST_EARLY_NS = 5_000_000_000  # for which a picture of a playlist waits
MOST_BACK_NS = 500_000_000  # by which order of decoding may differ from that of time
MOST_DRIFT = 200e-6  # of the camera's clock against this machine's
RTP_LOSS = ("missed", "jitter buffer full", "dropping old packet")  # of what the demuxer says, as it marks nothing


class StreamClock:
    """Puts times of a stream on this machine's monotonic clock: by the least delay seen, which drifts as clocks do.

    What a network held up keeps its times, however late it comes. Where times step back, or all of them are late for
    `LATE_NS`, the camera's clock was set, and the delay is measured anew.
    """

    def __init__(self) -> None:
        self._offset_ns: float | None = None
        self._seen_ns = self._stream_ns = 0
        self._late_ns = 0  # when the first of those came that are late now
        self._play_ns: int | None = None  # the same where pictures are played

    def see(self, stream_ns: int, now_ns: int) -> None:
        """Note that what was taken at `stream_ns` came at `now_ns`."""
        delay = now_ns - stream_ns
        back = self._stream_ns - stream_ns > MOST_BACK_NS
        if self._offset_ns is None or back or (self._late_ns and now_ns - self._late_ns > LATE_NS):
            self._offset_ns = delay
        self._offset_ns = min(self._offset_ns + MOST_DRIFT * (now_ns - self._seen_ns) * bool(self._seen_ns), delay)
        self._late_ns = (self._late_ns or now_ns) if delay - self._offset_ns > MOST_LATE_NS else 0
        self._seen_ns, self._stream_ns = now_ns, stream_ns

    def play(self, stream_ns: int, now_ns: int) -> int:
        """When a picture of a playlist read at `now_ns` is due: as long behind the one before as in the stream.

        The first one and one behind a jump are due now, and those that follow count from it. One that is late was due
        before: those behind it come as fast as they can, until they are in time again.
        """
        if self._play_ns is None or abs(stream_ns + self._play_ns - now_ns) >= MOST_EARLY_NS:
            self._play_ns = now_ns - stream_ns
        self.see(stream_ns, stream_ns + self._play_ns)
        return stream_ns + self._play_ns

    def to_local(self, stream_ns: int) -> int:
        """The monotonic time in ns of a time of the stream."""
        return stream_ns + round(self._offset_ns or 0)


class Waiting(NamedTuple):
    """A picture that was decoded: its time in the stream, if that says, its arrival, the damaged ones before it."""

    image: np.ndarray
    stream_ns: int | None
    arrival_ns: int
    damaged: int


class NetworkCamera(Device):
    """A device of `CameraSource`. `size` (height, width) and `fps` are what the stream says, until pictures come."""

    kind, clock = "network camera", "the stream's own times, put on this machine's clock; arrival where it has none"

    def __init__(self, url: str) -> None:
        verifies(url)  # nonsense in an option is told at once
        self.url, self.name = url, without_password(url)
        self.size: tuple[int, int] | None = None
        self.fps: float | None = None
        self._container: Any = None
        self._form: str | None = None  # FFmpeg's demuxer, where its own choice was not right

    def connect(self) -> None:
        """Open the stream; raises OSError that says what is wrong."""
        self.release()
        self._rtp = is_rtp(self.url)
        if self._rtp:
            _listen()
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
        self._waiting: deque[Waiting] = deque()
        self._plays = self._container.format.name == PLAYLIST
        self._began_ns, self._live = time.monotonic_ns(), self._clock is None or self._plays
        self._waits, self._marked, self._damaged, self._clean = 0, 0, 0, False
        self._ended = self._failed = self._told = False

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
            return Grabbed(one.image, self._guess_time(one), damaged=one.damaged)
        if self._plays:  # pieces of seconds, each of which comes at once: wait until a picture is due
            due_ns = self._clock.play(one.stream_ns, time.monotonic_ns())
            while not self.closing and (early_ns := due_ns - time.monotonic_ns()) > 0:
                time.sleep(min(early_ns / 1e9, GRAB_S))
        return Grabbed(one.image, self._clock.to_local(one.stream_ns), damaged=one.damaged, timed=True)

    def release(self) -> None:
        """Close the connection."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _guess_time(self, one: Waiting) -> int:
        """When a picture without a time was taken, as the first one of RTSP: a period before the next one, or now."""
        following = self._waiting[0].stream_ns if self._waiting else None
        if following is None or self._clock is None:
            return one.arrival_ns
        return self._clock.to_local(following - round(1e9 / (self.fps or DEFAULT_FPS)))

    def _read(self) -> bool:
        """Take the next packet and what comes of it; False at the end, or where the connection fails.

        What comes at once was buffered: it waits.
        """
        started_ns = time.monotonic_ns()
        try:
            packet = self._next_packet()
        except (av.FFmpegError, OSError) as error:
            log.info("device=%s event=read_failed error=%r", self.name, error.strerror or "")
            self._failed, packet = True, None
            if self._container.format.name == MULTIPART and isinstance(error, av.error.InvalidDataError):
                self._form = "mjpeg"  # which finds pictures by their marks, whatever the heads of parts say
        now_ns = time.monotonic_ns()
        if packet is not None and packet.pts is not None and self._clock is not None and not self._plays:
            self._clock.see(self._to_ns(packet.pts), now_ns)
        for frame, damage, *_ in self._decoder.decode(packet, bool(self._marked)):
            if damage:
                self._damaged += self._clean  # what comes before the first key frame was not meant for us
                if not self._told and damage != BEFORE_KEY:  # once in a connection: there may be nothing but damage
                    log.warning("device=%s event=damaged reason=%r", self.name, damage)
                    self._told = True
                continue
            stream_ns = self._to_ns(frame.pts) if frame.pts is not None else None
            self._waiting.append(Waiting(to_image(frame), stream_ns, now_ns, self._damaged))
            self._damaged, self._clean = 0, True
        self._waits = self._waits + 1 if now_ns - started_ns > WAIT_NS else 0
        live = self._waits >= LIVE_WAITS and bool(self._waiting)
        self._live = self._live or live or now_ns - self._began_ns > BURST_NS
        return packet is not None

    def _to_ns(self, ticks: int) -> int:
        return round(ticks * self._time_base * 1_000_000_000)

    def _next_packet(self) -> Any:
        """The next packet that holds something, None at the end; notes where some before it were lost."""
        while True:
            with av.logging.Capture() as told:
                packet = next(self._packets, None)
            lost = packet is not None and packet.is_corrupt
            lost = lost or (self._rtp and any(sign in text for _, _, text in told for sign in RTP_LOSS))
            self._marked = MARKED_BEHIND if lost else max(self._marked - 1, 0)
            if packet is None or packet.size:
                return packet


def _listen() -> None:
    """Have FFmpeg say what it does: its RTP demuxer tells of lost packets in no other way."""
    av.logging.set_skip_repeated(False)
    if av.logging.get_level() is None:
        quiet = logging.getLogger("libav")
        quiet.propagate = False
        quiet.addHandler(logging.NullHandler())
        av.logging.set_level(av.logging.WARNING)


def make_opener(url: str) -> tuple[OpenerDirector, str]:
    """What opens a web address with the user and the password in it (basic or digest), and the address without them."""
    parts, passwords = urlsplit(url), HTTPPasswordMgrWithDefaultRealm()
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    passwords.add_password(None, bare, unquote(parts.username or ""), unquote(parts.password or ""))
    handlers = [HTTPBasicAuthHandler(passwords), HTTPDigestAuthHandler(passwords)]
    if parts.scheme == "https":
        handlers.append(HTTPSHandler(context=make_context(url)))
    return build_opener(*handlers), bare


def ask_web(url: str) -> Literal["file", "picture", "camera"]:
    """What a URL gives: a video file with an end, one picture per request, or else a camera's stream. Asks the server,
    and takes one that is silent for a camera."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "camera"
    opener, bare = make_opener(url)
    try:
        with opener.open(bare, timeout=OPEN_S) as answer:
            kind = answer.headers.get("Content-Type", "video").lower()
            if "mpegurl" in kind or parts.path.endswith(".m3u8"):
                return "file" if _ends(answer.read(MOST_PLAYLIST).decode(), bare, opener) else "camera"
            if kind.startswith("image"):
                return "picture" if _is_one_picture(answer) else "camera"
            ends = answer.headers.get("Content-Length") is not None and not kind.startswith(PAGES)
            return "file" if ends else "camera"
    except (OSError, ValueError, HTTPException):
        return "camera"


def _is_one_picture(answer: HTTPResponse) -> bool:
    """Whether an answer has an end: some cameras send one picture after the other as if they were one."""
    stop = time.monotonic() + OPEN_S
    while answer.headers.get("Content-Length") is None and answer.read1(1 << 16):
        if time.monotonic() > stop:
            return False
    return True


def _ends(playlist: str, url: str, opener: OpenerDirector) -> bool:
    """Whether an HLS playlist has an end, or the first of those that it lists."""
    if "#EXT-X-STREAM-INF" in playlist:
        listed = [line.strip() for line in playlist.splitlines() if line.strip() and not line.startswith("#")]
        if not listed:
            return False
        with opener.open(urljoin(url, listed[0]), timeout=OPEN_S) as answer:
            playlist = answer.read(MOST_PLAYLIST).decode()
    return "#EXT-X-ENDLIST" in playlist
