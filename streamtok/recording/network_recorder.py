"""Record what a publisher sends: token streams, and camera frames if wanted, in order of arrival."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from streamtok.io.video.video_packets import begins_video
from streamtok.io.zmq_frames import decode_picture
from streamtok.recording.recorder import Recorder
from streamtok.recording.writer import STILLS, VIDEOS
from streamtok.types import Frame
from streamtok.wire.header import Info, TokenHeader
from streamtok.wire.keyframes import KeyframeRequests
from streamtok.wire.message import FrameMessage, TokenMessage
from streamtok.wire.security import CurveClient
from streamtok.wire.subscriber import Subscription

HELD_MESSAGES = 256  # per stream, that wait for the stream's info
QUEUE_SIZE = 512
MAX_STREAMS = 256
POLL_S = 0.1
PACKETS = (*STILLS, *VIDEOS)


@dataclass
class _Start:
    """The start of the recording of one session of a stream.

    Messages are held until the session's info has come. With camera images the recording begins with the first that
    decoding can start at, and the first token keyframe from there on: earlier messages could neither be replayed nor
    verified. `begun` is True from the first message that is written, for tokens alone, and if the node sends no images.
    """

    stream: str
    session: str
    begun: bool
    first_id: int = -1  # of the first image that decoding can start at
    undecodable: int = 0  # images before it
    since_ns: int | None = None  # publish time of the first message after the catch-up of the join
    held: deque[TokenMessage] = field(default_factory=deque)

    def hold(self, message: TokenMessage) -> None:
        """Hold a message, and judge by it whether the node sends images.

        A group's images are sent before its tokens. So if a group was captured after an earlier message was sent, and
        no image has come, the node sends no images.
        """
        self.held.append(message)
        header = message.header
        if self.since_ns is None and not message.catch_up:
            self.since_ns = header.publish_ns
        late = self.since_ns is not None and header.capture_ns[0] > self.since_ns and not self.undecodable
        if self.first_id < 0 and (late or len(self.held) >= HELD_MESSAGES):
            self.begun = True

    def takes(self, header: TokenHeader) -> bool:
        """Whether to write a message: from the first keyframe with the first image or a later one on."""
        self.begun = self.begun or (header.keyframe and header.frame_ids[0] >= self.first_id)
        return self.begun


class NetworkRecorder:
    """Feeds a Recorder from one publisher, on the caller's thread: call `run`.

    Tokens alone are joined by epoch, so that a late joiner's file begins with the keyframe of the running epoch. With
    camera images, which no node keeps, a file begins at the next keyframe; a stream without regular ones
    (`keyframe_interval` 0) is asked for one. `streams` None records every stream. With `until_end` recording ends when
    the publisher says that its streams have ended. `counts` holds `tokens`, `frames`, `before_keyframe` (messages
    before a recording could begin) and `held_back` (messages of a stream whose info never came).
    """

    def __init__(
        self,
        endpoint: str,
        recorder: Recorder,
        streams: Iterable[str] | None = None,
        *,
        until_end: bool = False,
        curve: CurveClient | None = None,
    ) -> None:
        self.recorder = recorder
        self.counts: Counter[str] = Counter()
        self._announced: dict[str, Info] = {}
        self._starts: dict[str, _Start] = {}
        # Lossless, which blocks a lossless node (back-pressure): only the recorder decides what to drop.
        self.subscription = Subscription[TokenMessage | FrameMessage](
            endpoint,
            streams,
            kinds=("tokens", "info") if recorder.options.frames == "none" else ("frames", "tokens", "info"),
            join="epoch",
            lossless=True,
            until_end=until_end,
            queue_size=QUEUE_SIZE,
            messages_per_second=QUEUE_SIZE,
            max_streams=MAX_STREAMS,
            curve=curve,
        )
        self.rejects = self.subscription.rejects
        self._keyframes = KeyframeRequests(self.subscription)

    def run(self, stop: Callable[[], bool] = lambda: False, *, seconds: float | None = None) -> None:
        """Record until `stop()`, for `seconds`, until the streams end, or until the recorder has to stop."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not (stop() or self.recorder.error or self.subscription.ended):
            message = self.subscription.get(POLL_S)
            if isinstance(message, FrameMessage):
                self._take_frame(message)
            elif message is not None:
                self._take_tokens(message)
            else:
                self._announce_all()
            if deadline is not None and time.monotonic() >= deadline:
                break
        self._announce_all()
        for stream, start in self._starts.items():
            start.begun = True
            self._write_held(start)
            self.recorder.missed(stream, "frames", start.undecodable if start.first_id < 0 else 0)
            self.counts["held_back"] += len(start.held)

    @property
    def without_key_frame(self) -> dict[str, int]:
        """{stream: images that came} of streams without an image that decoding can start at; none was recorded."""
        starts = self._starts.items()
        return {stream: start.undecodable for stream, start in starts if start.first_id < 0 and start.undecodable}

    def close(self) -> None:
        self.subscription.close()
        self._keyframes.finish_log()

    def _announce_all(self) -> None:
        """Announce every new info; only while no message waits, which may be of the session before."""
        for info in list(self.subscription.infos.values()):
            self._announce(info)

    def _announce(self, info: Info) -> None:
        """Pass a new info to the recorder, and write the messages that waited for it."""
        if self._announced.get(info.stream) is info:
            return
        self._announced[info.stream] = info
        self.recorder.add_stream(info)
        if (start := self._starts.get(info.stream)) is not None:
            self._write_held(start)

    def _take_tokens(self, message: TokenMessage) -> None:
        """Hold a message, and write what is held if the info of its session is known."""
        start = self._start_of(message.stream, message.header.session)
        start.hold(message)
        info = self.subscription.info_of(message)
        if info is not None:
            self._announce(info)
        self._write_held(start)

    def _start_of(self, stream: str, session: str) -> _Start:
        """The start of a session; what is held of the stream's session before is dropped."""
        start = self._starts.get(stream)
        if start is None or start.session != session:
            for message in start.held if start is not None else ():
                self._drop(message)
            start = self._starts[stream] = _Start(stream, session, begun=self.recorder.options.frames == "none")
        return start

    def _write_held(self, start: _Start) -> None:
        """Write the held messages from where the recording begins, once that and their info are known."""
        info = self._announced.get(start.stream)
        if info is None or info.session != start.session:
            if len(start.held) > HELD_MESSAGES:
                self._drop(start.held.popleft())
            return
        while start.held and (start.begun or start.first_id >= 0):
            message = start.held.popleft()
            if start.takes(message.header):
                self.recorder.write_message(message)
                self.counts["tokens"] += 1
            else:
                self.counts["before_keyframe"] += 1

    def _begin_frames(self, message: FrameMessage) -> bool:
        """Whether to write a camera image; video is written from its first key frame on."""
        header = message.header
        start = self._start_of(message.stream, header.session)
        if start.first_id < 0:
            if header.nbytes is None and not begins_video(header.encoding, message.payload):
                start.undecodable += 1
                self.counts["before_keyframe"] += 1
                return False
            start.first_id = header.frame_id
            if not start.begun:
                self._write_held(start)
                info = self.subscription.infos.get(message.stream)
                if info is not None and not info.keyframe_interval and info.control is not None and info.last_seq >= 0:
                    self._keyframes.ask([message.stream])
        return True

    def _drop(self, message: TokenMessage) -> None:
        self.counts["held_back"] += 1
        self.recorder.missed(message.stream, "tokens", 1)

    def _take_frame(self, message: FrameMessage) -> None:
        self.recorder.missed(message.stream, "frames", message.lost)
        if not self._begin_frames(message):
            return
        try:
            frame = to_frame(message)
        except (ValueError, MemoryError) as error:  # a size that its encoding cannot have
            self.recorder.unstorable(message.stream, "frames", error)
            return
        self.recorder.write_frame(frame)
        self.counts["frames"] += 1


def to_frame(message: FrameMessage) -> Frame:
    """The camera image of a message; a compressed one is not decoded, and its picture is empty (H, W, 0)."""
    header = message.header
    if header.nbytes is not None:
        return Frame(header.stream, header.frame_id, header.capture_ns, decode_picture(header, message.payload))
    if header.encoding not in PACKETS:
        raise ValueError(f"packets of {header.encoding!r} cannot be recorded; known are {', '.join(PACKETS)}")
    unseen = np.zeros((*header.image_size, 0), np.uint8)
    packet = bytes(message.payload)
    return Frame(header.stream, header.frame_id, header.capture_ns, unseen, packet, header.encoding)
