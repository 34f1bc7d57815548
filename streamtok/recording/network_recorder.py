"""Records what a publisher sends: token streams, and camera frames if asked, by one socket that keeps their order."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

from streamtok.io.zmq_frames import picture_of
from streamtok.recording.recorder import Recorder
from streamtok.types import Frame
from streamtok.wire.connection import Connection
from streamtok.wire.endpoint import receive, socket_of
from streamtok.wire.joining import Joiner
from streamtok.wire.message import (
    FrameMessage,
    Info,
    Limits,
    TokenMessage,
    WireError,
    unpack,
    unpack_frame,
    unpack_info,
)
from streamtok.wire.rejects import Rejects
from streamtok.wire.tracking import StreamTracker

log = logging.getLogger("streamtok.record")

HELD_MESSAGES = 256  # per stream, until its info says what they are
HIGH_WATER = 512
POLL_MS = 100


@dataclass
class _Stream:
    """What is known of one stream: its newest info, messages that wait for it, and the last numbers seen."""

    info: Info | None = None
    tracker: StreamTracker = field(default_factory=StreamTracker)
    held: deque[TokenMessage] = field(default_factory=deque)
    frame_session: str = ""
    frame_seq: int = -1


class NetworkRecorder:
    """Feeds a Recorder from one publisher, on the caller's thread: call `run`.

    It joins every session by epoch: a file that begins between two keyframes cannot be decoded up to the second, and of
    a node that was started again the first keyframe is over before anyone has connected. `streams` None records every
    stream. With `until_end` it ends when the publisher says that its streams have ended.
    `counts` holds `tokens`, `frames` and `held_back` (messages whose stream was never explained).
    """

    def __init__(
        self,
        endpoint: str,
        recorder: Recorder,
        streams: Iterable[str] | None = None,
        *,
        curve: Any = None,
    ) -> None:
        self.endpoint, self.recorder = endpoint, recorder
        self.names = None if streams is None else set(streams)
        self.limits = Limits()
        self.counts: Counter[str] = Counter()
        self.rejects = Rejects()
        self._streams: dict[str, _Stream] = {}
        self._context = zmq.Context()
        socket = socket_of(self._context, zmq.SUB, HIGH_WATER, self.limits.max_part)
        # Frames first: a node that waits for readers of tokens then sends every frame. Info last: it proves the others.
        kinds = ("frames", "tokens", "info") if recorder.options.frames != "none" else ("tokens", "info")
        for kind in kinds:
            for name in sorted(self.names) if self.names is not None else [""]:
                socket.subscribe(f"{kind}/{name}".encode())
        self._joiner = Joiner(self._context, endpoint, self.rejects, self.limits, HELD_MESSAGES, curve)
        try:
            self._connection = Connection(socket, endpoint, curve)
        except ValueError:
            self._context.term()
            raise

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        *,
        seconds: float | None = None,
        until_end: bool = False,
        on_update: Callable[[], None] = lambda: None,
    ) -> None:
        """Record until `stop()`, for `seconds`, until the streams end, or until the recorder has to stop."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not stop() and not self.recorder.error:
            if self._connection.socket.poll(POLL_MS):
                self._drain()
            self._connection.check()
            for _, messages in self._joiner.ready():
                self._accept(messages)
            on_update()
            if deadline is not None and time.monotonic() >= deadline:
                break
            if until_end and self._all_ended():
                break
        for stream in self._streams.values():
            self.counts["held_back"] += len(stream.held)

    def close(self) -> None:
        """Disconnect. Closing twice is fine."""
        self._joiner.close()
        self._connection.close()
        self._context.term()

    def _all_ended(self) -> bool:
        infos = [stream.info for stream in self._streams.values()]
        ended = all(info is not None and info.ended for info in infos)
        return bool(infos) and ended and not self._joiner.waits()

    def _drain(self) -> None:
        for _ in range(HIGH_WATER):
            try:
                self._take(receive(self._connection.socket))
            except zmq.Again:
                return
            except WireError as error:
                self.rejects.add("record", error)

    def _take(self, parts: list[Any]) -> None:
        kind, _, name = bytes(parts[0][:80]).partition(b"/")
        if self.names is not None and name.decode("ascii", "replace") not in self.names:
            return
        if kind == b"tokens":
            self._on_tokens(unpack(parts, self.limits))
        elif kind == b"info":
            self._on_info(unpack_info(parts, self.limits))
        elif kind == b"frames":
            self._on_frame(unpack_frame(parts, self.limits))

    def _enter(self, name: str, session: str) -> _Stream:
        stream = self._streams.setdefault(name, _Stream())
        if stream.tracker.enter(session):
            self._joiner.begin(name)
        return stream

    def _on_info(self, info: Info) -> None:
        stream = self._enter(info.stream, info.session)
        if stream.tracker.session != info.session:
            return  # of a node that has been replaced
        stream.info = info
        self.recorder.add_stream(info)
        if info.stream in self._joiner.waits():
            self._joiner.ask(info)
        while stream.held and stream.held[0].header.session == info.session:
            self._write(stream.held.popleft())

    def _on_tokens(self, message: TokenMessage) -> None:
        self._enter(message.stream, message.header.session)
        if not self._joiner.hold(message):
            self._accept([message])

    def _accept(self, messages: list[TokenMessage]) -> None:
        """Write what an info has explained; the rest waits for it."""
        for message in messages:
            stream = self._streams[message.stream]
            if stream.info is not None and stream.info.session == message.header.session:
                self._write(message)
                continue
            stream.held.append(message)
            if len(stream.held) > HELD_MESSAGES:
                stream.held.popleft()
                self.counts["held_back"] += 1
                self.recorder.missed(message.stream, "tokens", 1)

    def _write(self, message: TokenMessage) -> None:
        if self._streams[message.stream].tracker.message(message.header) is None:
            return  # it came twice: with the epoch, and live
        self.recorder.write_message(message)
        self.counts["tokens"] += 1

    def _on_frame(self, message: FrameMessage) -> None:
        header = message.header
        stream = self._streams.setdefault(header.stream, _Stream())
        if stream.frame_session == header.session and header.seq > stream.frame_seq + 1:
            self.recorder.missed(header.stream, "frames", header.seq - stream.frame_seq - 1)
        stream.frame_session, stream.frame_seq = header.session, header.seq
        self.recorder.write_frame(frame_of(message))
        self.counts["frames"] += 1


def frame_of(message: FrameMessage) -> Frame:
    """The camera image of a message; one that is compressed stays so, and its picture is not looked at."""
    header = message.header
    if header.nbytes is not None:
        return Frame(header.stream, header.frame_id, header.capture_ns, picture_of(header, message.payload))
    unseen = np.broadcast_to(np.uint8(0), (*header.image_size, 3))
    packet = bytes(message.payload)
    return Frame(header.stream, header.frame_id, header.capture_ns, unseen, packet, header.encoding)
