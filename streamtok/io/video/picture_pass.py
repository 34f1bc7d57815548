"""Read the packets of a video once: every undamaged picture, with its number and its time.

In containers without presentation times (raw streams; AVI, ASF and MXF have decoding times) pictures are numbered as
they come out. A clock that restarts inside a file begins a new stretch. Its times go on after the last picture, and one
number is skipped, so that readers see a gap.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av

from streamtok.io.video.containers import PLAYLIST, demux
from streamtok.io.video.damage import Checked
from streamtok.io.video.picture_clock import RestartWatch, make_clock
from streamtok.io.video.picture_numbers import PictureNumbers
from streamtok.io.video.video_stream import VideoStream


class Numbered(NamedTuple):
    """A PyAV frame with its number (None: before the requested range) and its time, s, after the start of the stream.

    `stretches` counts how often the clock restarted before it.
    """

    number: int | None
    seconds: Fraction
    frame: Any
    stretches: int = 0


class ColdStart:
    """Judges a pass that began with a seek: the decoder lacks the past, and what looks like damage may depend on it.

    From the second key frame on nothing depends on that; the first undamaged picture, of a key frame or where a stream
    without them recovers, counts as one. Before it, damage, or a first picture behind the `tick` that was wanted, means
    that the pass has `failed` and must begin earlier.
    """

    def __init__(self, tick: int) -> None:
        self._tick, self._keys, self.failed = tick, 0, False

    @property
    def proven(self) -> bool:
        """Whether the pictures so far are right."""
        return self._keys > 0 and not self.failed

    def fails(self, checked: Checked, damaged: bool) -> bool:
        """Take the next result; `damaged`: the decoder waits for a key frame."""
        if self._keys > 1:
            return False
        frame = checked.frame
        clean = frame is not None and not checked.damage
        first = clean and not self._keys
        self._keys += first or (clean and frame.key_frame)
        late = first and frame.pts is not None and frame.pts > self._tick
        self.failed = self._keys > 0 and (damaged or late)
        return self.failed


class Pass:
    """Reads a video once, from its current position on: packets in, undamaged pictures out."""

    def __init__(self, video: VideoStream, numbers: PictureNumbers, cold: ColdStart | None = None) -> None:
        self._video, self._numbers, self._cold = video, numbers, cold
        self._decoder, self._clock = video.decoder, make_clock(video.timing, video.stream)
        self._losses, self._restarts = video.follow_losses(), RestartWatch(video.container.format.name == PLAYLIST)
        self._counted = video.timing.counted
        self._stretches = 0
        self._cut_short = False

    def read(self) -> Iterator[Numbered]:
        """The pictures to the end, or until the pass proves to have begun too late."""
        video, numbers = self._video, self._numbers
        for checked in self._decode():
            if self._cold is not None and self._cold.fails(checked, bool(self._decoder.damage)):
                return
            if checked.damage:
                numbers.hide_picture(checked.timed and not self._counted)
                video.tell_once("damaged", checked.damage)
                continue
            pts = checked.frame.pts
            number = numbers.number(None if self._counted else pts, checked.disturbed)
            yield Numbered(number, self._clock.time_picture(number or 0, pts), checked.frame, self._stretches)
        video.end = numbers.end(bool(self._decoder.damage)) + self._cut_short + video.count_cut_off()

    def _decode(self) -> Iterator[Checked]:
        """The decoder's results, without those of packets that are passed over."""
        order, first = -1, 0  # number of the last packet; of the first one that is not passed over, if `counted`
        for packet in self._demux():
            if self._restarts.see(packet) and not self._counted:
                yield from self._decoder.decode(None)
                self._start_stretch()
            order += packet.size > 0
            seconds = self._number_packet(packet, order)
            if self._is_passed_over(packet, seconds):
                if self._counted:  # pictures still in the decoder can no longer be numbered: drop them
                    first = order + 1
                    self._numbers.restart(first)
                self._decoder.lose_packets()
                continue
            if self._video.packets is not None:
                self._video.packets.keep(packet)
            missing, damaged = self._losses.see(packet)
            if missing:
                self._decoder.lose_packets()
            for checked in self._decoder.decode(packet, damaged):
                if not (first and checked.frame and checked.frame.pts is not None and checked.frame.pts < first):
                    yield checked

    def _demux(self) -> Iterator[Any]:
        """The packets from here on; where the file is cut short an empty one, which flushes the decoder."""
        video = self._video
        try:
            for place, packet in enumerate(demux(video.container, video.stream)):
                if place == 0 and packet.has_sidedata("encryption_info"):
                    raise ValueError(f"{video.name} is encrypted: decrypt it first, streamtok takes no keys")
                yield packet
        except (av.FFmpegError, EOFError) as error:
            video.tell_once("cut_short", str(error))
            self._cut_short = True
            yield av.Packet()

    def _number_packet(self, packet: Any, order: int) -> Fraction | None:
        """Note a packet with a picture; its time, s. If `counted` its number takes the place of its own times."""
        if not packet.size:
            return None
        seconds = self._clock.see_packet(order, packet)
        if self._counted:
            packet.pts = packet.dts = order
        elif not packet.is_discard:
            self._numbers.add_packet(packet.pts)
        return seconds

    def _is_passed_over(self, packet: Any, seconds: Fraction | None) -> bool:
        """Whether a packet precedes the key frame that `pass_over` waits for; never the empty one at the end."""
        until = self._video.pass_until
        if until is None or not packet.size:
            return False
        if packet.is_keyframe and seconds is not None and seconds >= until:
            self._video.pass_until = None
        return self._video.pass_until is not None

    def _start_stretch(self) -> None:
        """Continue after a clock restart: times go on after the last picture, and a number is skipped."""
        video = self._video
        video.stream.codec_context.flush_buffers()
        self._decoder.restart()
        end = self._numbers.end(bool(self._decoder.damage))
        video.tell_once("clock_restarts", f"its times begin anew after picture {end - 1}")
        self._numbers.restart(end + 1)
        self._clock.restart()
        self._stretches += 1


def read_from_tick(video: VideoStream, tick: int, first: int) -> Iterator[Numbered]:
    """The pictures from presentation time `tick` on, numbered from `first`, decoded from a key frame before.

    If pictures prove to depend on the past of that key frame, reading starts over at an earlier one. That is so in open
    groups of pictures, and after a seek that did not hit a key frame.
    """
    back, second, given = 0, max(1, round(1 / video.stream.time_base)), tick - 1
    proven = False
    while not proven:
        cold = ColdStart(tick) if video.seek(tick - back) else None
        for one in Pass(video, PictureNumbers(video.timing.even, first, tick), cold).read():
            pts = one.frame.pts
            if given < tick if pts is None else pts <= given:  # before the range, or given before reading started over
                continue
            given = given if pts is None else pts
            yield one
        proven = cold is None or cold.proven
        back = max(second, 2 * back)


def read_from_seconds(video: VideoStream, seconds: Fraction, first: int) -> Iterator[Numbered]:
    """The pictures from a time on, numbered from `first`, decoded from the start of the file."""
    video.rewind()
    shift = None
    for one in Pass(video, PictureNumbers(video.timing.even)).read():
        if shift is None and one.seconds >= seconds:
            shift = first - (one.number or 0)
        yield one._replace(number=None if shift is None else (one.number or 0) + shift)
    video.end += shift or 0
