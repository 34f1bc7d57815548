"""Open one video stream of a file or URL, and say what its container tells of times, numbers and damage."""

import logging
from fractions import Fraction
from pathlib import Path

import av

from streamtok.io.video.clean_decoder import CleanDecoder
from streamtok.io.video.containers import PLAYLIST, makes_up_times, open_container, read_rate, video_streams
from streamtok.io.video.kept_packets import KeptPackets
from streamtok.io.video.mp4_boxes import find_cut_off
from streamtok.io.video.picture_clock import DecodedClock, RateClock, RestartWatch, ShownClock
from streamtok.io.video.transport_stream import FoundLosses, Losses, MarkedLosses, find_losses
from streamtok.names import is_url
from streamtok.redaction import without_password

log = logging.getLogger("streamtok.io")

DEFAULT_FPS = Fraction(25)
PROGRESSIVE = (0, 1)  # of FFmpeg's field orders: unknown, progressive


class VideoStream:
    """One video stream of an open file; see `VideoReader` for the parameters.

    `raw`: it has no times, and FFmpeg makes some up. `counted`: it has no presentation times, so pictures are numbered
    as they come out. `timeless`: its times are by the rate. `even`: each packet is one picture. After a complete pass,
    `end` is one more than the number of the last picture, damaged or not.
    """

    def __init__(self, target: str, *, stream: int | None, fps: float | None, keep_packets: bool) -> None:
        self.target, self.name = target, without_password(target)
        self.end = 0
        self.pass_until: Fraction | None = None
        self._wanted, self._keep_packets = stream, keep_packets
        self._warned: set[str] = set()
        self._losses: Losses | None = None
        self._open()
        context = self.stream.codec_context
        said = read_rate(self.container, self.stream)
        self.rate_from = "given" if fps else "its headers" if said else "assumed"
        claimed = said or (DEFAULT_FPS if self.raw else None)
        self.claimed_rate: Fraction | None = Fraction(fps).limit_denominator(100_000) if fps else claimed
        self.rate = self.claimed_rate or DEFAULT_FPS
        self.timeless = self.raw or fps is not None
        if self.raw and self.rate_from == "assumed":
            log.info("file=%s event=rate_assumed fps=%d reason='its headers say none: ?fps=N'", self.name, self.rate)
        interlaced = getattr(context, "field_order", 0) not in PROGRESSIVE  # older PyAV lacks it
        hides_pictures = context.name == "vp8"  # whose packets may show no picture
        self.even = not (self.timeless or self.counted or interlaced or hides_pictures)

    def _open(self) -> None:
        self.container, self.stream = open_container(self.target, stream=self._wanted)
        self._wanted = video_streams(self.container).index(self.stream)
        form, reordered = self.container.format.name, bool(self.stream.codec_context.has_b_frames)
        if form == "mpegts" and self._losses is None and Path(self.target).is_file():
            self._losses = find_losses(Path(self.target), self.stream.id)
        self.raw = makes_up_times(self.container)
        self.counted = self.raw or form == "avi" or (form in ("asf", "mxf") and reordered)
        self.decoder = CleanDecoder(self.stream.codec_context, self.counted)
        kept = self._keep_packets and not reordered
        self.packets = KeptPackets(self.stream.codec_context) if kept else None
        self._at_start = True

    def close(self) -> None:
        """Close the file or connection."""
        self.container.close()

    def rewind(self) -> None:
        """Go back to the start of the file."""
        if not self._at_start:
            self.container.close()
            self._open()
        self._at_start = False

    def pass_over(self, seconds: Fraction) -> None:
        """Decode nothing before the first key frame at or after `seconds`."""
        self.pass_until = seconds

    def seek(self, tick: int) -> bool:
        """Go to a key frame at or before `tick`; False where that is the start of the file."""
        try:
            if tick > (self.stream.start_time or 0) and self.container.format.name != "mpeg":  # it guesses times there
                self._at_start = False
                self.container.seek(tick, stream=self.stream)
                self.decoder.restart()
                return True
        except av.FFmpegError:  # the file is not seekable
            pass
        self.rewind()
        return False

    def make_clock(self) -> RateClock:
        """The clock of one pass."""
        if self.timeless:
            return RateClock(self.rate)
        timed = DecodedClock if self.counted else ShownClock
        return timed(self.rate, self.stream.time_base, self.stream.start_time or 0)

    def follow_losses(self) -> FoundLosses | MarkedLosses:
        """What the container tells of damage in one pass."""
        if self._losses is not None:
            return FoundLosses(self._losses)
        return MarkedLosses(late=self.container.format.name == "mpegts")

    def watch_restarts(self) -> RestartWatch:
        """What notices that the clock of the stream begins anew in one pass."""
        return RestartWatch(self.container.format.name == PLAYLIST)

    def count_cut_off(self) -> int:
        """The number of pictures that are not read as their file is cut off, or has a hole."""
        count, reason = (0, "") if is_url(self.target) else find_cut_off(self.target, self.stream)
        if count:
            self.tell_once("cut_off", reason)
        return count

    def tell_once(self, event: str, reason: str) -> None:
        """Log a warning for the first event of its kind."""
        if event not in self._warned:
            log.warning("file=%s event=%s reason=%r", self.name, event, reason)
        self._warned.add(event)
