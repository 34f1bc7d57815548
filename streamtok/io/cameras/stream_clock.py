"""Times of a stream on this machine's clock: cameras that send times of their own are timed by the least delay."""

MOST_LATE_NS, LATE_NS = 1_000_000_000, 10_000_000_000  # delay that counts as late, and how long it is tolerated
MOST_EARLY_NS = 5_000_000_000  # the longest that a picture of a playlist waits until it is due
MOST_BACK_NS = 500_000_000  # backward steps of time up to this are reordering by the codec
MOST_DRIFT = 200e-6  # of the camera's clock against this machine's


class StreamClock:
    """Maps times of a stream to this machine's monotonic clock by the least delay seen, with an allowance for drift.

    Packets that the network delayed keep their times. If times step back, or all are late for `LATE_NS`, the camera's
    clock was set, and the delay is measured again.
    """

    def __init__(self) -> None:
        self._offset_ns: float | None = None
        self._seen_ns = self._stream_ns = 0
        self._late_ns = 0  # when the current run of late packets began; 0: the last one was in time
        self._play_ns: int | None = None  # the offset by which pictures of a playlist are played

    def see(self, stream_ns: int, now_ns: int) -> None:
        """Note that a packet with time `stream_ns` arrived at `now_ns` (monotonic ns)."""
        delay = now_ns - stream_ns
        back = self._stream_ns - stream_ns > MOST_BACK_NS
        if self._offset_ns is None or back or (self._late_ns and now_ns - self._late_ns > LATE_NS):
            self._offset_ns = delay
        self._offset_ns = min(self._offset_ns + MOST_DRIFT * (now_ns - self._seen_ns) * bool(self._seen_ns), delay)
        self._late_ns = (self._late_ns or now_ns) if delay - self._offset_ns > MOST_LATE_NS else 0
        self._seen_ns, self._stream_ns = now_ns, stream_ns

    def play(self, stream_ns: int, now_ns: int) -> int:
        """When a picture of a playlist, read at `now_ns`, is due (monotonic ns): pictures keep the stream's spacing.

        The first picture, and one after a jump in time, is due now, and later ones count from it. A late picture was
        due in the past: later ones come as fast as they can until they have caught up.
        """
        back = stream_ns < self._stream_ns  # pictures come in order
        if self._play_ns is None or back or abs(stream_ns + self._play_ns - now_ns) >= MOST_EARLY_NS:
            self._play_ns, self._offset_ns = now_ns - stream_ns, None
        self.see(stream_ns, stream_ns + self._play_ns)
        return stream_ns + self._play_ns

    def to_local(self, stream_ns: int) -> int:
        """The monotonic time (ns) of a time of the stream (ns)."""
        return stream_ns + round(self._offset_ns or 0)
