"""Read the packets of a video once: every undamaged picture, with its number and its time.

`VideoReader` is the public face. In containers without presentation times (raw streams; AVI, ASF and MXF have decoding
times) pictures are numbered as they come out. A clock that restarts inside a file begins a new stretch. Its times go on
after the last picture, and one number is skipped, so that readers see a gap.
"""

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

from streamtok.io.video.clean_decoder import MARKED_BEHIND, Checked, CleanDecoder
from streamtok.io.video.containers import (
    PLAYLIST,
    demux,
    makes_up_times,
    open_container,
    read_rate,
    video_streams,
)
from streamtok.io.video.kept_packets import KeptPackets
from streamtok.io.video.mp4_boxes import find_cut_off
from streamtok.io.video.picture_numbers import PictureNumbers
from streamtok.io.video.transport_stream import Losses, find_losses
from streamtok.names import is_url
from streamtok.redaction import without_password

log = logging.getLogger("streamtok.io")

DEFAULT_FPS = Fraction(25)
PROGRESSIVE = (0, 1)  # of FFmpeg's field orders: unknown, progressive
STEP_BACK_S = 1
"""A fall of decoding times by more than this is a clock that restarts; in a playlist any fall is, if presentation times
fall too: pieces with B-frames and without have decoding times that overlap."""


class Numbered(NamedTuple):
    """A PyAV frame with its number (None: before the requested range) and its time, s, after the start of the stream.

    `stretches` counts how often the clock restarted before it.
    """

    number: int | None
    seconds: Fraction
    frame: Any
    stretches: int = 0


class PictureStream:
    """The pictures of one video stream; see `VideoReader` for the parameters.

    Every pass starts over and ends the one before. After a complete pass, `end` is one more than the number of the last
    picture, damaged or not.
    """

    def __init__(self, target: str, *, stream: int | None, fps: float | None, keep_packets: bool) -> None:
        self.target, self.name = target, without_password(target)
        self.end = 0
        self._wanted, self._keep_packets = stream, keep_packets
        self._warned: set[str] = set()
        self._losses: Losses | None = None
        self._pass_until: Fraction | None = None
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
        self._place: int | None = None  # of the last packet, in bytes
        form, reordered = self.container.format.name, bool(self.stream.codec_context.has_b_frames)
        if form == "mpegts" and self._losses is None and Path(self.target).is_file():
            self._losses = find_losses(Path(self.target), self.stream.id)
        self.raw = makes_up_times(self.container)
        self.counted = self.raw or form == "avi" or (form in ("asf", "mxf") and reordered)
        self.decoder = CleanDecoder(self.stream.codec_context, self.counted)
        kept = self._keep_packets and not reordered
        self.packets = KeptPackets(self.stream.codec_context) if kept else None
        self._marks_late, self._marked = form == "mpegts", 0
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
        self._pass_until = seconds

    def seek(self, tick: int) -> bool:
        """Go to a key frame at or before `tick`; False where that is the start of the file."""
        try:
            if tick > (self.stream.start_time or 0) and self.container.format.name != "mpeg":  # it guesses times there
                self._at_start, self._place = False, None
                self.container.seek(tick, stream=self.stream)
                self.decoder.restart()
                return True
        except av.FFmpegError:  # the file is not seekable
            pass
        self.rewind()
        return False

    def read_from_tick(self, tick: int, first: int) -> Iterator[Numbered]:
        """The pictures from presentation time `tick` on, numbered from `first`, decoded from a key frame before.

        If pictures prove to depend on the past of that key frame, reading starts over at an earlier one. That is so
        in open groups of pictures, and after a seek that did not hit a key frame.
        """
        back, second, given = 0, max(1, round(1 / self.stream.time_base)), tick - 1
        self._sure = False
        while not self._sure:
            cold_until = tick if self.seek(tick - back) else None
            for one in self.read(PictureNumbers(self.even, first, tick), cold_until):
                if given < tick if one.frame.pts is None else one.frame.pts <= given:
                    continue
                given = given if one.frame.pts is None else one.frame.pts
                yield one
            back = max(second, 2 * back)

    def read_from_seconds(self, seconds: Fraction, first: int) -> Iterator[Numbered]:
        """The pictures from a time on, numbered from `first`, decoded from the start of the file."""
        self.rewind()
        shift = None
        for one in self.read(PictureNumbers(self.even)):
            if shift is None and one.seconds >= seconds:
                shift = first - (one.number or 0)
            yield one._replace(number=None if shift is None else (one.number or 0) + shift)
        self.end += shift or 0

    def read(self, numbers: PictureNumbers, cold_until: int | None = None) -> Iterator[Numbered]:
        """Decode from the current position to the end.

        After a seek the decoder lacks the past, and what looks like damage may only depend on it. With `cold_until`
        (ticks), reading stops at such damage, or at a first key frame after that time, and leaves `_sure` False.
        """
        self._sure, self._keys = cold_until is None, 0
        self._stretches = 0
        self._base, self._behind = self.stream.start_time or 0, Fraction(0)  # the stretch's first tick, and its time, s
        self._last_seconds, self._last_number = -1 / self.rate, -1  # of the latest picture; none so far
        self._timed = self._guessed = False  # whether some pictures had times, and some had none
        self._slots: dict[int, int] = {}  # `counted` containers: packet number -> its time, in decoding order
        self._start: Fraction | None = None  # `counted` containers: the time of the first picture
        first = 0  # `counted` containers: the number of the first packet after those passed over
        for packet in self._demux(numbers):
            if self._is_passed_over(packet):
                if self.counted:  # pictures still in the decoder can no longer be numbered: drop them
                    first = packet.pts + 1
                    numbers.restart(first)
                self.decoder.lose_packets()
                continue
            for checked in self._decode(packet):
                if first and checked.frame and checked.frame.pts is not None and checked.frame.pts < first:
                    continue
                if not self._sure and self._lacks_past(checked, cold_until):
                    return
                if checked.damage:
                    numbers.hide_picture(checked.timed and not self.counted)
                    self.tell_once("damaged", checked.damage)
                    continue
                number = numbers.number(None if self.counted else checked.frame.pts, checked.disturbed)
                yield Numbered(number, self._seconds(checked.frame, number), checked.frame, self._stretches)
            if packet is None:
                self._start_stretch(numbers)
        self._sure = self._sure or self._keys > 0
        self.end = numbers.end(bool(self.decoder.damage)) + self._cut_short + self._count_cut_off()

    def tell_once(self, event: str, reason: str) -> None:
        """Log a warning for the first event of its kind."""
        if event not in self._warned:
            log.warning("file=%s event=%s reason=%r", self.name, event, reason)
        self._warned.add(event)

    def _lacks_past(self, checked: Checked, cold_until: int | None) -> bool:
        """Whether a read that began at a key frame must begin earlier; from its second key frame on it need not."""
        frame = checked.frame
        self._keys += bool(frame and frame.key_frame and not checked.damage)
        late = frame and cold_until is not None and frame.pts is not None and frame.pts > cold_until
        if self._keys and (self.decoder.damage or (self._keys == 1 and frame.key_frame and late)):
            return True
        self._sure = self._keys > 1
        return False

    def _demux(self, numbers: PictureNumbers) -> Iterator[Any]:
        """The packets from here on, with None where the clock restarts; adds those with pictures to `numbers`."""
        self._cut_short, step_back = False, 0 if self.container.format.name == PLAYLIST else STEP_BACK_S
        packets, latest, newest, self._order = demux(self.container, self.stream), None, None, -1
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, EOFError) as error:
                self.tell_once("cut_short", str(error))
                self._cut_short = True
                yield av.Packet()  # flushes the decoder, as at the end of a file
                return
            if packet is None:
                return
            if latest is None and packet.has_sidedata("encryption_info"):
                raise ValueError(f"{self.name} is encrypted: decrypt it first, streamtok takes no keys")
            time = packet.dts
            if packet.size and time is not None and packet.pts is not None:
                fell = latest is not None and (latest - time) * packet.time_base > step_back and packet.pts <= newest
                if fell and not self.counted:
                    yield None
                latest, newest = time, packet.pts if fell or newest is None else max(packet.pts, newest)
            self._order += packet.size > 0
            if packet.size and self.counted:  # the time becomes the packet's number, to find it for a picture
                self._slots[self._order] = time if time is not None else self._order
                packet.pts = packet.dts = self._order
            elif packet.size and not packet.is_discard:
                numbers.add_packet(packet.pts)
            yield packet

    def _is_passed_over(self, packet: Any) -> bool:
        """Whether a packet precedes the key frame that `pass_over` waits for; never the empty one at the end."""
        if self._pass_until is None or packet is None or not packet.size:
            return False
        if packet.is_keyframe and packet.pts is not None:
            tick = self._slots.get(packet.pts, packet.pts)
            seconds = self._behind + (tick - (self._base or 0)) * packet.time_base
            if (self._order / self.rate if self.timeless else seconds) >= self._pass_until:
                self._pass_until = None
        return self._pass_until is not None

    def _decode(self, packet: Any) -> Iterator[Checked]:
        if packet is None:
            return self.decoder.decode(None)
        if self.packets is not None:
            self.packets.keep(packet)
        if self._losses is None:
            self._marked = MARKED_BEHIND if packet.is_corrupt else max(self._marked - 1, 0)
            return self.decoder.decode(packet, packet.is_corrupt or (self._marked > 0 and self._marks_late))
        last, self._place = self._place, self._place if packet.pos is None else packet.pos  # None inside a PES packet
        if packet.pos in self._losses.missing or self._losses.hide_picture(last, self._place):
            self.decoder.lose_packets()
        return self.decoder.decode(packet, packet.size > 0 and self._place in self._losses.touched)

    def _start_stretch(self, numbers: PictureNumbers) -> None:
        """Continue after a clock restart: times go on after the last picture, and a number is skipped."""
        self.stream.codec_context.flush_buffers()
        self.decoder.restart()
        end = numbers.end(bool(self.decoder.damage))
        self.tell_once("clock_restarts", f"its times begin anew after picture {end - 1}")
        numbers.restart(end + 1)
        self._behind, self._base = self._last_seconds + 1 / self.rate, None
        self._stretches += 1

    def _count_cut_off(self) -> int:
        """The number of pictures that are not read as their file is cut off, or has a hole."""
        count, reason = (0, "") if is_url(self.target) else find_cut_off(self.target, self.stream)
        if count:
            self.tell_once("cut_off", reason)
        return count

    def _seconds(self, frame: Any, number: int | None) -> Fraction:
        """The presentation time of a picture, s after the start of the stream."""
        if self.counted and not self.timeless:
            return self._shown_at(number or 0)
        if frame.pts is None or self.timeless:
            seconds, self._guessed = self._last_seconds + ((number or 0) - self._last_number) / self.rate, True
            if not self._timed:  # pictures with times go on after it
                self._behind, self._base = seconds + 1 / self.rate, None
        else:
            self._base, self._timed = frame.pts if self._base is None else self._base, True
            seconds = self._behind + (frame.pts - self._base) * self.stream.time_base
            if self._guessed:  # the guess before may have been too late: times still rise
                seconds = max(seconds, self._last_seconds + 1 / (2 * self.rate))
        self._last_seconds, self._last_number = seconds, number or 0
        return seconds

    def _shown_at(self, number: int) -> Fraction:
        """The presentation time from decoding times: that of the packet during whose decoding the picture comes out."""
        last = max(self._slots)
        if self._start is None:
            self._lag = max(last - number, 0)
            self._start = self._slots[self._lag] * self.stream.time_base
        order = number + self._lag
        self._slots = {one: tick for one, tick in self._slots.items() if one >= order} or {last: self._slots[last]}
        tick = self._slots.get(order, self._slots[last])
        return tick * self.stream.time_base + max(order - last, 0) / self.rate - self._start
