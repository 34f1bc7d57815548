"""When a picture is shown, in s after the start of its stream, by what the container says of times.

| the container has | a picture's time | clock |
| --- | --- | --- |
| no times, or a rate was given for it | its number by the rate | `RateClock` |
| presentation times | its own; the rate places those without one | `ShownClock` |
| decoding times (AVI, ASF, MXF) | that of the packet for which it comes out | `DecodedClock` |

Each clock sees the packets in order of decoding and times the pictures in order of presentation.
"""

from fractions import Fraction
from typing import Any, NamedTuple

from streamtok.io.video.containers import makes_up_times, read_rate

DEFAULT_FPS = Fraction(25)
PROGRESSIVE = (0, 1)  # of FFmpeg's field orders: unknown, progressive
STEP_BACK_S = 1
"""A fall of decoding times by more than this is a clock that restarts; in a playlist any fall is, if presentation times
fall too: pieces with B-frames and without have decoding times that overlap."""


class Timing(NamedTuple):
    """What a container tells of the times of a stream.

    `claimed_rate`: pictures per second, None if it says none; `rate_from`: who says so. `timeless`: the rate makes the
    times. `counted`: there are no presentation times, so pictures are numbered as they come out. `even`: each packet
    is one picture.
    """

    claimed_rate: Fraction | None
    rate_from: str
    timeless: bool
    counted: bool
    even: bool

    @property
    def rate(self) -> Fraction:
        """The claimed rate, else 25."""
        return self.claimed_rate or DEFAULT_FPS


def read_timing(container: Any, stream: Any, fps: float | None) -> Timing:
    """The timing of a PyAV stream; a rate that is given takes the place of its times."""
    context, form, raw = stream.codec_context, container.format.name, makes_up_times(container)
    said = read_rate(container, stream)
    claimed = Fraction(fps).limit_denominator(100_000) if fps else said or (DEFAULT_FPS if raw else None)
    timeless = raw or fps is not None
    counted = raw or form == "avi" or (form in ("asf", "mxf") and bool(context.has_b_frames))
    interlaced = getattr(context, "field_order", 0) not in PROGRESSIVE  # older PyAV lacks it
    hides_pictures = context.name == "vp8"  # whose packets may show no picture
    even = not (timeless or counted or interlaced or hides_pictures)
    return Timing(claimed, "given" if fps else "its headers" if said else "assumed", timeless, counted, even)


def make_clock(timing: Timing, stream: Any) -> "RateClock":
    """The clock of one pass over a PyAV stream."""
    if timing.timeless:
        return RateClock(timing.rate)
    timed = DecodedClock if timing.counted else ShownClock
    return timed(timing.rate, stream.time_base, stream.start_time or 0)


class RateClock:
    """Times by number and rate alone, `rate` pictures per second."""

    def __init__(self, rate: Fraction) -> None:
        self._rate = rate

    def see_packet(self, order: int, packet: Any) -> Fraction | None:
        """Take a packet, the one of number `order`; its time, s, None if it has none."""
        return order / self._rate

    def time_picture(self, number: int, pts: int | None) -> Fraction:
        """The time of a picture, s; `pts` in ticks, None if it has none."""
        return number / self._rate

    def restart(self) -> None:
        """Go on after the last picture: the next packets have a clock of their own."""


class ShownClock(RateClock):
    """Presentation times, in ticks of `tick_s`; the first picture of the stream has the time `start`."""

    def __init__(self, rate: Fraction, tick_s: Fraction, start: int) -> None:
        super().__init__(rate)
        self._tick_s = tick_s
        self._base: int | None = start  # the tick from which times count
        self._behind = Fraction(0)  # its time, s
        self._last = -1 / rate, -1  # time and number of the latest picture; none so far
        self._timed = self._guessed = False  # whether some pictures had times, and some had none

    def see_packet(self, order: int, packet: Any) -> Fraction | None:
        return None if packet.pts is None else self._behind + (packet.pts - (self._base or 0)) * self._tick_s

    def time_picture(self, number: int, pts: int | None) -> Fraction:
        last_seconds, last_number = self._last
        if pts is None:
            seconds = last_seconds + (number - last_number) / self._rate
            self._guessed = True
        else:
            self._base = pts if self._base is None else self._base
            seconds = self._behind + (pts - self._base) * self._tick_s
            if self._guessed:  # the guess before may have been too late: times still rise
                seconds = max(seconds, last_seconds + 1 / (2 * self._rate))
            self._timed = True
        self._last = seconds, number
        if not self._timed:  # pictures with times go on after those without
            self.restart()
        return seconds

    def restart(self) -> None:
        self._behind, self._base = self._last[0] + 1 / self._rate, None


class DecodedClock(RateClock):
    """Decoding times, in ticks of `tick_s`; the stream starts at the tick `start`."""

    def __init__(self, rate: Fraction, tick_s: Fraction, start: int) -> None:
        super().__init__(rate)
        self._tick_s, self._start = tick_s, start
        self._ticks: dict[int, int] = {}  # of the packets, by number, whose pictures may not have come out
        self._first: int | None = None  # the tick of the packet for which the first picture came out
        self._lag = 0  # how many packets later than its own a picture comes out

    def see_packet(self, order: int, packet: Any) -> Fraction | None:
        self._ticks[order] = order if packet.dts is None else packet.dts
        return (self._ticks[order] - self._start) * self._tick_s

    def time_picture(self, number: int, pts: int | None) -> Fraction:
        last = max(self._ticks)
        if self._first is None:
            self._lag = max(last - number, 0)
            self._first = self._ticks[self._lag]
        order = number + self._lag
        last_tick = self._ticks[last]
        self._ticks = {one: tick for one, tick in self._ticks.items() if one >= order} or {last: last_tick}
        tick = self._ticks.get(order, last_tick)
        return (tick - self._first) * self._tick_s + max(order - last, 0) / self._rate


class RestartWatch:
    """Notices packets at which the clock of a stream begins anew; see STEP_BACK_S."""

    def __init__(self, is_playlist: bool) -> None:
        self._least_s = 0 if is_playlist else STEP_BACK_S
        self._dts: int | None = None  # of the packet before
        self._pts: int | None = None  # the latest so far

    def see(self, packet: Any) -> bool:
        """Whether the clock restarts at this packet."""
        if not packet.size or packet.dts is None or packet.pts is None:
            return False
        dts, pts = self._dts, self._pts
        self._dts = packet.dts
        if dts is None or pts is None:
            self._pts = packet.pts
            return False
        fell = (dts - packet.dts) * packet.time_base > self._least_s and packet.pts <= pts
        self._pts = packet.pts if fell else max(packet.pts, pts)
        return bool(fell)
