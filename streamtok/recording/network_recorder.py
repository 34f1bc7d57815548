"""Records what a publisher sends: token streams, and camera frames if asked, in the order of their arrival."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable

import numpy as np

from streamtok.io.zmq_frames import picture_of
from streamtok.recording.recorder import Recorder
from streamtok.types import Frame
from streamtok.wire.header import Info
from streamtok.wire.message import FrameMessage, TokenMessage
from streamtok.wire.security import CurveClient
from streamtok.wire.subscriber import Subscription

HELD_MESSAGES = 256  # per stream, until its info says what they are
QUEUE_SIZE = 512
MAX_STREAMS = 256
POLL_S = 0.1


class NetworkRecorder:
    """Feeds a Recorder from one publisher, on the caller's thread: call `run`.

    It joins every session by epoch. Otherwise a file would begin between two keyframes, where nothing can be decoded;
    and the first keyframe of a node that starts again is over before anyone has connected. `streams` None records
    every stream. With `until_end` it ends when the publisher says that its streams have ended. `counts` holds
    `tokens`, `frames` and `held_back` (messages whose stream was never explained).
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
        self._held: dict[str, deque[TokenMessage]] = defaultdict(deque)
        # Lossless makes a lossless node wait: only the recorder itself decides what is left out.
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
        self.counts["held_back"] += sum(map(len, self._held.values()))

    def close(self) -> None:
        self.subscription.close()

    def _announce_all(self) -> None:
        """Announce what is new of every stream; only while no message waits, which may be of the session before."""
        for info in list(self.subscription.infos.values()):
            self._announce(info)

    def _announce(self, info: Info) -> None:
        """Tell the recorder of an info once, and write the messages that waited for it."""
        if self._announced.get(info.stream) is info:
            return
        self._announced[info.stream] = info
        self.recorder.add_stream(info)
        for message in self._held.pop(info.stream, ()):
            if message.header.session == info.session:
                self._write(message)
            else:
                self._leave_out(message)

    def _take_tokens(self, message: TokenMessage) -> None:
        """Write a message that an info has explained; another one waits for it."""
        info = self.subscription.info_of(message)
        if info is not None:
            self._announce(info)
        announced = self._announced.get(message.stream)
        if announced is not None and announced.session == message.header.session:
            self._write(message)
            return
        held = self._held[message.stream]
        held.append(message)
        if len(held) > HELD_MESSAGES:
            self._leave_out(held.popleft())

    def _write(self, message: TokenMessage) -> None:
        self.recorder.write_message(message)
        self.counts["tokens"] += 1

    def _leave_out(self, message: TokenMessage) -> None:
        self.counts["held_back"] += 1
        self.recorder.missed(message.stream, "tokens", 1)

    def _take_frame(self, message: FrameMessage) -> None:
        self.recorder.missed(message.stream, "frames", message.lost)
        try:
            frame = frame_of(message)
        except (ValueError, MemoryError) as error:  # a size that its encoding cannot have
            self.recorder.unstorable(message.stream, "frames", error)
            return
        self.recorder.write_frame(frame)
        self.counts["frames"] += 1


def frame_of(message: FrameMessage) -> Frame:
    """The camera image of a message; one that is compressed stays so, and its picture is not looked at."""
    header = message.header
    if header.nbytes is not None:
        return Frame(header.stream, header.frame_id, header.capture_ns, picture_of(header, message.payload))
    unseen = np.broadcast_to(np.uint8(0), (*header.image_size, 3))
    packet = bytes(message.payload)
    return Frame(header.stream, header.frame_id, header.capture_ns, unseen, packet, header.encoding)
