"""Camera images of another node, over ZeroMQ: the topic `frames/<stream>` of docs/wire-protocol.md.

A publisher whose messages arrive at most 5 s after their publish time is taken to share this machine's clock, and its
capture times stay. Times by any other clock are shifted by the smallest difference between publishing and arrival in
the last one to two minutes: that message was delayed least, and the window follows clock drift.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from streamtok.event_log import EventLog
from streamtok.io.base import FreezeWatch, Source
from streamtok.io.images.stills import decode_still
from streamtok.io.messages.image_messages import VIDEO_CODECS
from streamtok.io.spec import parse_positive, split_options
from streamtok.io.video.video_packets import VideoDecoder
from streamtok.names import check_stream_name
from streamtok.preprocessing.pixels import RawImage
from streamtok.types import Frame
from streamtok.wire.header import FrameHeader
from streamtok.wire.message import FrameMessage
from streamtok.wire.security import CurveClient, load_keys
from streamtok.wire.subscriber import Subscription

OPTIONS: dict[str, Callable[[str], Any]] = {"stream": check_stream_name, "curve": str, "freeze_after": parse_positive}
log = logging.getLogger("streamtok.io")

SILENT_S = 5.0
CLOCK_NS = 5_000_000_000
FAR_NS = 365 * 86_400 * 10**9  # a capture time this far from the arrival is wrong
LAST_ID = 1 << 53
BURST_NS = 10**9  # after a connection, in which a backlog arrives at once
WINDOW_NS = 60 * 10**9  # of the search for the smallest difference between two clocks
BACKWARDS = 8  # pictures in a row until the publisher counts as restarted, or its clock as set
QUEUE_SIZE = 8
POLL_S = 0.5
Key = tuple[int, int]  # a picture's number here, and its time by the publisher's clock


class ClockShift:
    """Estimates what to add to another clock's times, ns: the smallest difference of the last one to two `WINDOW_NS`.

    `shift_ns` begins with the first message's difference, and moves in small steps so that capture times still rise.
    """

    def __init__(self, sent_ns: int, arrived_ns: int) -> None:
        self.shift_ns = arrived_ns - sent_ns
        self._smallest_ns = self._before_ns = self.shift_ns  # of this window, and of the one before
        self._began_ns = self._since_ns = arrived_ns  # of the connection, and of this window
        self._last_ns = 0

    def see(self, sent_ns: int, arrived_ns: int, capture_ns: int) -> None:
        """Take a message; `sent_ns` and `capture_ns` are by the other clock, `arrived_ns` by this machine's."""
        difference = arrived_ns - sent_ns
        if arrived_ns - self._since_ns > WINDOW_NS:
            self._since_ns, self._before_ns, self._smallest_ns = arrived_ns, self._smallest_ns, difference
        if self._smallest_ns - difference < CLOCK_NS:  # an outlier would hold for a whole window
            self._smallest_ns = min(self._smallest_ns, difference)
        most = (capture_ns - self._last_ns) // 4 if arrived_ns - self._began_ns > BURST_NS else 0
        self.shift_ns += max(-most, min(min(self._before_ns, self._smallest_ns) - self.shift_ns, most))
        self._last_ns = capture_ns


def decode_picture(header: FrameHeader, payload: bytes | memoryview) -> np.ndarray | RawImage:
    """The picture (H, W, 3) of a `frames/` message that is not a video packet; ValueError if it cannot be decoded."""
    if header.nbytes is None:
        return decode_still(payload)
    return RawImage(np.frombuffer(payload, np.uint8), header.encoding, *header.image_size)


class ZmqSource(Source):
    """Frames of a publisher's `frames/<remote>`; ZeroMQ reconnects by itself, and the source never ends.

    Still images and video packets are decoded, raw encodings stay as they are (`Frame.picture`); `packet` is kept if
    asked for. After a restart of the publisher `frame_id`s continue upwards, and a reconnect is counted. Numbers or
    times that keep running backwards count as a restart; the pictures until then are dropped (`backwards`). Messages
    that break the protocol are counted in `rejects`, pictures that cannot be decoded as `damaged`.
    """

    kind, clock, live = "frames of a publisher", "the publisher's", True

    @property
    def own_clock(self) -> bool:  # type: ignore[override]
        """Whether the publisher's clock is this machine's; False before it was heard."""
        return self._session is not None and self._shift is None

    def __init__(
        self, target: str, stream: str = "cam0", *, max_frames: int | None = None, keep_packets: bool = False
    ) -> None:
        super().__init__(stream, max_frames=max_frames)
        spec = f"zmq:{target}"
        self.endpoint, options = split_options(spec, target, OPTIONS)
        if not self.endpoint.startswith(("tcp://", "ipc://")):
            raise ValueError(f"source {spec!r}: expected zmq:tcp://HOST:PORT or zmq:ipc://PATH")
        self.remote = options.get("stream", stream)
        self._keys = options.get("curve")
        self._keep_packets = keep_packets
        self._log = EventLog(stream, log)
        self._watch = FreezeWatch(options.get("freeze_after", 5.0))
        self._subscription: Subscription[FrameMessage] | None = None
        self._session: str | None = None
        self._video: VideoDecoder | None = None
        self._first_id = 0
        self._shift: ClockShift | None = None  # None: the publisher's clock is this machine's
        self._last: Key | None = None
        self._behind = 0
        self._pictures: list[Frame] = []

    def _open(self) -> None:
        # Lossless: a late reader's frames are dropped in one place, its Capture, and not in this queue too.
        self._subscription = Subscription[FrameMessage](
            self.endpoint,
            [self.remote],
            kinds=("frames",),
            lossless=True,
            queue_size=QUEUE_SIZE,
            messages_per_second=QUEUE_SIZE,
            curve=load_keys(CurveClient, self._keys),
        )
        self.rejects, self._video = self._subscription.rejects, None
        self._heard = time.monotonic()

    def _read(self, timeout: float | None) -> Frame | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._pictures:
            if self._subscription is None or self._stop.is_set():
                self.end("closed")
            left = POLL_S if deadline is None else min(deadline - time.monotonic(), POLL_S)
            message = self._subscription.get(max(left, 0))
            if message is not None:
                self._pictures += self._take(message, time.monotonic_ns())
                continue
            if self.state == "up" and time.monotonic() - self._heard > SILENT_S:
                self.state = "lost"
                log.warning("stream=%s event=lost endpoint=%s reason='silent'", self.stream, self.endpoint)
            if deadline is not None and time.monotonic() >= deadline:
                return None
        return self._pictures.pop(0)

    def _take(self, message: FrameMessage, arrival_ns: int) -> list[Frame]:
        self._heard, self.state = time.monotonic(), "up"
        header = message.header
        if header.session != self._session:
            self._begin_session(header, arrival_ns)
        elif self._video is not None and message.lost:
            self._video.missing("pictures were lost on the network")
        key = self._accept_key(header, arrival_ns)
        if key is None:
            return []
        if self._shift is not None:
            self._shift.see(header.publish_ns, arrival_ns, header.capture_ns)
        frames = []
        for (frame_id, sent_ns), picture in self._decode_pictures(message, key):
            capture_ns = sent_ns + self._shift_ns
            if self._watch.see(picture, capture_ns):
                self.counts["frozen"] += 1
                self._note("frozen")
            self.size = picture.shape[0], picture.shape[1]
            packet = codec = None
            delayed = (frame_id, sent_ns) != key  # by decoder reordering: the packet belongs to another picture
            if self._keep_packets and not delayed and header.nbytes is None:
                packet, codec = bytes(message.payload), header.encoding
            frames.append(Frame(self.stream, frame_id, capture_ns, picture, packet, codec))
        return frames

    def _accept_key(self, header: FrameHeader, arrival_ns: int) -> Key | None:
        """The picture's key; None, counted as `backwards`, if it does not follow the one before."""
        if not self._follows(self._key(header), arrival_ns):
            self._behind += 1
            if self._behind >= BACKWARDS:
                self._begin_session(header, arrival_ns)
        key = self._key(header)
        if not self._follows(key, arrival_ns):
            self.counts["backwards"] += 1
            return None
        self._last, self._behind = key, 0
        return key

    def _key(self, header: FrameHeader) -> Key:
        return self._first_id + header.frame_id, header.capture_ns

    @property
    def _shift_ns(self) -> int:
        return 0 if self._shift is None else self._shift.shift_ns

    def _follows(self, key: Key, arrival_ns: int) -> bool:
        if key[0] > LAST_ID or abs(key[1] + self._shift_ns - arrival_ns) > FAR_NS:
            return False
        return self._last is None or (key[0] > self._last[0] and key[1] > self._last[1])

    def _begin_session(self, header: FrameHeader, arrival_ns: int) -> None:
        """Continue the numbers of the session before after a gap of one, and reset the clock shift."""
        if self._session is not None:
            self.counts["reconnects"] += 1
            self._note("publisher_restarted")
        self._session, self._video = header.session, None
        same_clock = 0 <= arrival_ns - header.publish_ns < CLOCK_NS
        self._shift = None if same_clock else ClockShift(header.publish_ns, arrival_ns)
        self._first_id = 0 if self._last is None else max(self._last[0] + 2 - header.frame_id, 0)
        self._last = None  # times may well be before those of the last session: the node then begins an epoch

    def _decode_pictures(self, message: FrameMessage, key: Key) -> Iterator[tuple[Key, np.ndarray | RawImage]]:
        header = message.header
        try:
            if header.encoding in VIDEO_CODECS:
                yield from self._decode_video(header.encoding, bytes(message.payload), key)
                return
            picture = decode_picture(header, message.payload)
        except ValueError as error:
            self._note_damage(str(error))
            return
        if picture.shape[:2] == tuple(header.image_size):
            yield key, picture
        else:
            self._note_damage(f"picture of {picture.shape[:2]} announced as {header.image_size}")

    def _decode_video(self, codec: str, payload: bytes, key: Key) -> Iterator[tuple[Key, np.ndarray]]:
        self._video = self._video or VideoDecoder(codec)
        for decoded in self._video.decode(payload, key):
            if decoded.image is None:
                self._note_damage(decoded.damage)
            else:
                yield decoded.key, decoded.image

    def _note_damage(self, reason: str) -> None:
        self.counts["damaged"] += 1
        self._note("damaged", reason=repr(reason))

    def _note(self, event: str, **facts: str) -> None:
        """Log an event that a publisher may cause at any rate: at most one line in 10 s."""
        self._log.add(time.monotonic_ns(), event, {"times": 1}, logging.WARNING, endpoint=self.endpoint, **facts)

    def _close(self) -> None:
        self._log.finish()
        if self._subscription is not None:
            self._subscription.close()
