"""Number the pictures of a stream in order of presentation, so that numbers stay right after damaged pictures."""

import contextlib
import heapq

import av
import numpy as np

from streamtok.io.video.containers import demux, open_with_options

MOST_WAITING = 1024  # presentation times remembered of packets whose pictures have not come out yet


class PictureNumbers:
    """Numbers the pictures of one read; the first picture at or after the time `start` (ticks) has the number `first`.

    If each packet is one picture (`even`), packets show how many pictures did not come out. If a packet may be one of
    two fields, pictures are counted, and packets only after damage.
    """

    def __init__(self, even: bool, first: int = 0, start: int | None = None) -> None:
        self._next = first
        self._start = start
        self._even = even
        self._proven = False
        self._waiting: list[int] = []  # a heap of presentation times
        self._overflow = 0
        self._hidden = 0

    def add_packet(self, pts: int | None) -> None:
        """Note a packet with presentation time `pts`, before it is decoded."""
        self._even = self._even and pts is not None
        if pts is None or (self._start is not None and pts < self._start):
            return
        heapq.heappush(self._waiting, pts)
        if len(self._waiting) > MOST_WAITING:
            heapq.heappop(self._waiting)
            self._overflow += 1

    def hide_picture(self, timed: bool) -> None:
        """Note a dropped picture; `timed` ones count already, by their packets."""
        self._hidden += not timed

    def number(self, pts: int | None, disturbed: bool) -> int | None:
        """The number of a picture that came out; None before the start. `disturbed` is that of `Checked`."""
        hidden, self._hidden, step = self._hidden, 0, 1
        if pts is not None and self._start is not None and pts < self._start:
            return None
        if pts is not None:
            shown = self._overflow
            while self._waiting and self._waiting[0] <= pts:
                heapq.heappop(self._waiting)
                shown += 1
            self._overflow = 0
            if not disturbed and not self._proven:  # the first two pictures prove or disprove `even`
                self._even, self._proven = self._even and shown == 1, True
            step = max(shown, 1) if disturbed or self._even else 1
        self._next += step + hidden
        return self._next - 1

    def restart(self, first: int) -> None:
        """Go on with the number `first` after the packets' clock restarted."""
        self.__init__(self._even, first)  # type: ignore[misc]

    def end(self, disturbed: bool) -> int:
        """One more than the last picture's number, at the end of the stream."""
        return self._next + self._hidden + (len(self._waiting) + self._overflow if disturbed or self._even else 0)


def read_ticks(target: str, stream_index: int) -> np.ndarray | None:
    """The presentation time of each picture of a video, int64 (N,) rising in units of its time base, from packets only.

    None if packets have no times, share them, or restart their clock. A truncated file gives what is there.
    """
    ticks: list[int | None] = []
    orders: list[int] = []
    with open_with_options(target) as container, contextlib.suppress(av.FFmpegError, EOFError):
        for packet in demux(container, container.streams[stream_index]):
            if packet.size and packet.dts is not None:
                orders.append(packet.dts)
            if packet.size and not packet.is_discard:
                ticks.append(packet.pts)
    known = np.unique(np.array([tick for tick in ticks if tick is not None], np.int64))
    return known if len(known) == len(ticks) and orders == sorted(orders) else None
