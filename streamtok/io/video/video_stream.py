"""Open one video stream of a file or URL, and say what its container tells of times, numbers and damage."""

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from streamtok.io.codecs.nal_units import add_orientation, to_annex_b
from streamtok.io.video.clean_decoder import CleanDecoder, new_extradata
from streamtok.io.video.containers import makes_up_times, open_container, video_streams
from streamtok.io.video.mp4_boxes import find_cut_off
from streamtok.io.video.picture_clock import read_timing
from streamtok.io.video.transport_stream import FoundLosses, Losses, MarkedLosses, find_losses
from streamtok.names import is_url
from streamtok.preprocessing.orientation import UPRIGHT
from streamtok.redaction import without_password

log = logging.getLogger("streamtok.io")

ANNEX_B = ("h264", "hevc")
MOST_PACKETS = 64  # kept until their pictures come out


class VideoStream:
    """One video stream of an open file; see `VideoReader` for the parameters.

    Nothing is decoded before the first key frame at or after `pass_until` (s). After a complete pass, `end` is one more
    than the number of the last picture, damaged or not.
    """

    def __init__(self, target: str, *, stream: int | None, fps: float | None, keep_packets: bool) -> None:
        self.target, self.name = target, without_password(target)
        self.end = 0
        self.pass_until: Fraction | None = None
        self._wanted, self._fps, self._keep_packets = stream, fps, keep_packets
        self._warned: set[str] = set()
        self._losses: Losses | None = None
        self._open()
        if self.timing.rate_from == "assumed" and makes_up_times(self.container):
            reason = "its headers say none: ?fps=N"
            log.info("file=%s event=rate_assumed fps=%d reason=%r", self.name, self.timing.rate, reason)

    def _open(self) -> None:
        self.container, self.stream = open_container(self.target, stream=self._wanted)
        self._wanted = video_streams(self.container).index(self.stream)
        context = self.stream.codec_context
        self._is_mpegts = self.container.format.name == "mpegts"
        if self._is_mpegts and self._losses is None and Path(self.target).is_file():
            self._losses = find_losses(Path(self.target), self.stream.id)
        self.timing = read_timing(self.container, self.stream, self._fps)
        self.decoder = CleanDecoder(context, self.timing.counted)
        if self.decoder.unchecked:
            self.tell_once("not_checked", "its header breaks the standard of AV1: changed bytes are not noticed")
        self.packets = KeptPackets(context) if self._keep_packets and not context.has_b_frames else None
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

    def follow_losses(self) -> FoundLosses | MarkedLosses:
        """What the container tells of damage in one pass."""
        if self._losses is not None:
            return FoundLosses(self._losses)
        return MarkedLosses(late=self._is_mpegts)

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


class KeptPackets:
    """Holds the packets of one PyAV stream until their pictures come out; H.264 and H.265 as Annex B access units."""

    def __init__(self, context: Any) -> None:
        self._codec, self._extradata = context.name, context.extradata
        self._packets: dict[int, bytes] = {}

    def keep(self, packet: Any) -> None:
        """Keep the bytes of a PyAV packet."""
        self._extradata = new_extradata(packet) or self._extradata
        if not packet.size or packet.pts is None:
            return
        data = bytes(packet)
        self._packets[packet.pts] = to_annex_b(data, self._codec, self._extradata) if self._codec in ANNEX_B else data
        while len(self._packets) > MOST_PACKETS:
            del self._packets[next(iter(self._packets))]

    def take(self, frame: Any) -> bytes | None:
        """The packet of a frame that came out, with its orientation; None if it is gone, or cannot hold that."""
        packet, orientation = self._packets.pop(frame.pts, None), frame.opaque[0]
        if packet is None or orientation == UPRIGHT:
            return packet
        return add_orientation(packet, self._codec, orientation) if self._codec in ANNEX_B else None
