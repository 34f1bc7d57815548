"""Camera images of another node, over ZeroMQ: the topic `frames/<stream>` of docs/wire-protocol.md.

    zmq:tcp://127.0.0.1:5555                       the publisher's stream of the same name as this one
    zmq:ipc:///run/cameras?stream=front            another one
    zmq:tcp://10.0.0.2:5555?stream=front&curve=keys      with the keys of a folder (`streamtok keys generate`)

Capture times are the publisher's where its clock is this machine's (its publish time is then at most 5 s before the
arrival). Else they are moved by one constant per session, so that the first frame is published when it arrives here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamtok.io.base import STREAM_NAME, Source
from streamtok.io.image_messages import VIDEO_CODECS, DamagedFrame, decode_still
from streamtok.io.spec import split_options
from streamtok.io.video_packets import VideoDecoder
from streamtok.io.watch import FreezeWatch
from streamtok.preprocessing.pixels import RawImage
from streamtok.types import Frame

log = logging.getLogger("streamtok.io")

SILENT_S = 5.0
CLOCK_NS = 5_000_000_000
FAR_NS = 365 * 86_400 * 10**9  # a time so far from the arrival is none
LAST_ID = 1 << 53
BACKWARDS = 8  # pictures in a row: the publisher counts anew, or its clock was set
HIGH_WATER = 8
POLL_S = 0.05


def picture_of(header: Any, payload: bytes | memoryview) -> np.ndarray | RawImage:
    """The picture of a `frames/` message that is no packet of a video; DamagedFrame or ValueError for a broken one."""
    if header.nbytes is None:
        return decode_still(payload)
    return RawImage(np.frombuffer(payload, np.uint8), header.encoding, *header.image_size)


class ZmqSource(Source):
    """Frames of a publisher's `frames/<remote>`; ZeroMQ reconnects by itself, and the source never ends.

    Still images and video packets are decoded, raw encodings left as they are (`Frame.picture`); the packet stays in
    `packet` if asked. A publisher that starts again goes on with higher `frame_id`s, and counts as a reconnect. So does
    one whose numbers or times go on running backwards; the first such pictures are left out and counted (`backwards`).
    Messages that break the protocol are counted in `rejects`, pictures that cannot be decoded as `damaged`.
    """

    live = True

    def __init__(
        self, target: str, stream: str = "cam0", *, max_frames: int | None = None, keep_packets: bool = False
    ) -> None:
        super().__init__(stream, max_frames=max_frames)
        spec = f"zmq:{target}"
        self.endpoint, options = split_options(spec, target, {"stream": str, "curve": str, "freeze_after": float})
        if not self.endpoint.startswith(("tcp://", "ipc://")):
            raise ValueError(f"source {spec!r}: expected zmq:tcp://HOST:PORT or zmq:ipc://PATH")
        self.remote = options.get("stream", stream)
        if not STREAM_NAME.fullmatch(self.remote):
            raise ValueError(f"source {spec!r}: stream {self.remote!r} is no stream name")
        self._keys = options.get("curve")
        self._keep_packets = keep_packets
        self._watch = FreezeWatch(options.get("freeze_after", 5.0))
        self._lock = threading.Lock()
        self._context: Any = None
        self._session: str | None = None
        self._video: VideoDecoder | None = None
        self._first_id = 0
        self._shift_ns = 0
        self._seq = 0
        self._last: tuple[int, int] | None = None
        self._behind = 0
        self._pictures: list[Frame] = []

    def _open(self) -> None:
        import zmq

        from streamtok.wire.connection import Connection
        from streamtok.wire.endpoint import socket_of
        from streamtok.wire.message import Limits
        from streamtok.wire.rejects import Rejects
        from streamtok.wire.security import CurveClient

        self.rejects, self._limits, self._video = Rejects(), Limits(), None
        keys = CurveClient.load(self._keys) if self._keys else None
        self._context = zmq.Context()
        socket = socket_of(self._context, zmq.SUB, HIGH_WATER, self._limits.max_part)
        socket.subscribe(f"frames/{self.remote}")
        try:
            self._connection = Connection(socket, self.endpoint, keys)
        except ValueError:
            self._close()
            raise
        self._heard = time.monotonic()

    def _read(self, timeout: float | None) -> Frame | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._pictures:
                return self._pictures.pop(0)
            if self._stop.is_set():
                self.end("closed")
            left = POLL_S if deadline is None else min(deadline - time.monotonic(), POLL_S)
            parts = self._receive(max(left, 0))
            if parts is not None:
                self._pictures += self._take(parts, time.monotonic_ns())
            elif deadline is not None and time.monotonic() >= deadline:
                return None

    def _receive(self, wait_s: float) -> list[bytes] | None:
        from streamtok.wire.endpoint import receive

        with self._lock:
            if self._context is None:
                self.end("closed")
            if self._connection.socket.poll(round(wait_s * 1000)):
                return receive(self._connection.socket)
            self._connection.check()
        if self.state == "up" and time.monotonic() - self._heard > SILENT_S:
            self.state = "lost"
            log.warning("stream=%s event=lost endpoint=%s reason='silent'", self.stream, self.endpoint)
        return None

    def _take(self, parts: list[bytes], arrival_ns: int) -> list[Frame]:
        from streamtok.wire.message import WireError, unpack_frame

        if parts[0] != f"frames/{self.remote}".encode():
            return []
        try:
            message = unpack_frame(parts, self._limits)
        except WireError as error:
            self.rejects.add("frames", error)
            return []
        self._heard, self.state = time.monotonic(), "up"
        header = message.header
        if header.session != self._session:
            self._new_session(header, arrival_ns)
        elif self._video is not None and header.seq != self._seq + 1:
            self._video.missing("pictures were lost on the network")
        self._seq = header.seq
        key = self._place(header, arrival_ns)
        if key is None:
            return []
        frames = []
        for (frame_id, capture_ns), picture in self._pictures_of(header, bytes(message.payload), key):
            if self._watch.see(picture, capture_ns):
                self.counts["frozen"] += 1
                log.warning("stream=%s event=frozen endpoint=%s", self.stream, self.endpoint)
            self.size = picture.shape[0], picture.shape[1]
            frames.append(self._frame(frame_id, capture_ns, picture, message))
        return frames

    def _place(self, header: Any, arrival_ns: int) -> tuple[int, int] | None:
        """The picture's number and time here; None if they do not follow those before."""
        if not self._follows(self._key(header), arrival_ns):
            self._behind += 1
            if self._behind >= BACKWARDS:
                self._new_session(header, arrival_ns)
        key = self._key(header)
        if not self._follows(key, arrival_ns):
            self.counts["backwards"] += 1
            return None
        self._last, self._behind = key, 0
        return key

    def _key(self, header: Any) -> tuple[int, int]:
        return self._first_id + header.frame_id, header.capture_ns + self._shift_ns

    def _follows(self, key: tuple[int, int], arrival_ns: int) -> bool:
        if key[0] > LAST_ID or abs(key[1] - arrival_ns) > FAR_NS:
            return False
        return self._last is None or (key[0] > self._last[0] and key[1] > self._last[1])

    def _frame(self, frame_id: int, capture_ns: int, picture: np.ndarray | RawImage, message: Any) -> Frame:
        packet = codec = None
        if self._keep_packets and message.header.nbytes is None:
            packet, codec = bytes(message.payload), message.header.encoding
        return Frame(self.stream, frame_id, capture_ns, picture, packet, codec)

    def _new_session(self, header: Any, arrival_ns: int) -> None:
        """Numbers go on after those of the session before, with one left out; times start where they should."""
        if self._session is not None:
            self.counts["reconnects"] += 1
            log.info("stream=%s event=publisher_restarted endpoint=%s", self.stream, self.endpoint)
        self._session, self._video = header.session, None
        same_clock = 0 <= arrival_ns - header.publish_ns < CLOCK_NS
        self._shift_ns = 0 if same_clock else arrival_ns - header.publish_ns
        self._first_id = 0 if self._last is None else max(self._last[0] + 2 - header.frame_id, 0)
        self._last = None  # times may well be before those of the last session: the node then begins an epoch

    def _pictures_of(
        self, header: Any, payload: bytes, key: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], np.ndarray | RawImage]]:
        try:
            if header.encoding in VIDEO_CODECS:
                yield from self._video_images(header.encoding, payload, key)
                return
            picture = picture_of(header, payload)
        except (DamagedFrame, ValueError) as error:
            self._damaged(str(error))
            return
        if picture.shape[:2] != tuple(header.image_size):
            self._damaged(f"picture of {picture.shape[:2]} announced as {header.image_size}")
            return
        yield key, picture

    def _video_images(
        self, codec: str, payload: bytes, key: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        self._video = self._video or VideoDecoder(codec)
        for decoded in self._video.decode(payload, key):
            if decoded.image is None:
                self._damaged(decoded.damage)
            else:
                yield decoded.key, decoded.image

    def _damaged(self, reason: str) -> None:
        self.counts["damaged"] += 1
        if self.counts["damaged"] == 1:
            log.warning("stream=%s event=damaged endpoint=%s reason=%r", self.stream, self.endpoint, reason)

    def _close(self) -> None:
        with self._lock:
            if self._context is not None:
                self._context.destroy(linger=0)
                self._context = None
