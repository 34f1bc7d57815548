"""Reads token streams: `subscribe(endpoint)` gives typed messages, keeps the newest, and counts losses.

for message in streamtok.subscribe("tcp://127.0.0.1:5555"):
    print(message.stream, message.header.seq, message.tokens.shape)
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

import zmq

from streamtok.coding.library import Coders
from streamtok.wire.arrivals import KINDS, Arrivals, Kind
from streamtok.wire.coded import GridReader
from streamtok.wire.control import ControlClient
from streamtok.wire.drain import Drain
from streamtok.wire.endpoint import reachable
from streamtok.wire.errors import Rejects
from streamtok.wire.header import Info, Limits
from streamtok.wire.joining import Joiner
from streamtok.wire.mailbox import Closed, Mailbox
from streamtok.wire.message import FrameMessage, TokenMessage
from streamtok.wire.security import CurveClient
from streamtok.wire.tracking import StreamTracker

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    Message = TypeVarWithDefault("Message", bound=TokenMessage | FrameMessage, default=TokenMessage)
else:
    Message = TypeVar("Message")

QUEUE_BYTES = 1 << 28  # of all messages that wait to be read, unpacked


def count_memory(message: TokenMessage | FrameMessage) -> int:
    """Bytes of memory that a waiting message takes."""
    grid = message.header.nbytes if isinstance(message, TokenMessage) else 0
    return grid + len(message.payload)


@dataclass(eq=False)
class Subscription(Generic[Message]):
    """Messages of one publisher, for `for`, `async for` or `get`. Use it as a context manager, or close it.

    A thread drains the socket at once into bounded queues, one per stream and kind. `message.decodable` is False from
    a loss, or from joining, until a keyframe. Messages that break the protocol are counted in `rejects` and dropped.

    Args:
        endpoint: The address that the node binds.
        streams: Names of the streams to read; None reads all.
        kinds: "tokens" and "frames" come out as `TokenMessage` and `FrameMessage`, in the order of arrival; "info"
            fills `infos`, the newest of each stream.
        latest_only: Keep only the newest message of each stream.
        lossless: Stop reading while a queue is full, so that a lossless node waits for this reader (back-pressure).
        join: How to join a node that is already running. "epoch" first fetches what the current epoch has sent, so
            that decoding starts at once; "keyframe" waits for the next one. A node that starts, or returns, while the
            reader waits is read from the start of its epoch in both cases (except with `latest_only`).
        queue_size: Messages that may wait in a queue; beyond it the oldest is discarded and counted.
        timeout: Seconds without a message after which iterating raises TimeoutError.
        until_end: Stop iterating when the node says that its streams have ended.
        curve: Keys, for a node that requires them.
        limits: The largest grids, headers and frames that are accepted.
        messages_per_second: Expected over all streams; with `lossless` about one second of them waits in the socket.
        max_streams: More streams than this are refused, unless they are named.
        coders: coder.safetensors files, or folders with one, for coded streams; coders that ship are known.

    Raises:
        ValueError: For a malformed endpoint, or contradicting options.
    """

    endpoint: str
    streams: Iterable[str] | None = None
    _: KW_ONLY
    kinds: Iterable[Kind] = ("tokens", "info")
    latest_only: bool = False
    lossless: bool = False
    join: Literal["keyframe", "epoch"] = "keyframe"
    queue_size: int = 256
    timeout: float | None = None
    until_end: bool = False
    curve: CurveClient | None = None
    limits: Limits = field(default_factory=Limits)
    messages_per_second: float = 64.0
    max_streams: int = 64
    coders: Iterable[str | Path] = ()
    rejects: Rejects = field(default_factory=Rejects, init=False)
    infos: dict[str, Info] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.streams, str):
            raise ValueError(f"streams is {self.streams!r}, expected several names: [{self.streams!r}]")
        self.streams = None if self.streams is None else frozenset(self.streams)
        self.kinds = frozenset(self.kinds)
        self._check_options(self.kinds)
        self._delivered: dict[str, StreamTracker] = {}
        self._frames: dict[str, tuple[str, int]] = {}  # session and seq of the newest camera image
        capacity = 1 if self.latest_only else self.queue_size
        self._mailbox: Mailbox[TokenMessage | FrameMessage] = Mailbox(capacity, QUEUE_BYTES, count_memory)
        grids = GridReader(Coders(self.coders))
        self._arrivals = Arrivals(
            self._mailbox,
            Joiner(zmq.Context(), self.endpoint, self.rejects, self.limits, capacity, self.curve),
            streams=self.streams,
            kinds=self.kinds,
            join="never" if self.latest_only or "info" not in self.kinds else self.join,
            limits=self.limits,
            max_streams=max(self.max_streams, len(self.streams or ())),
            grids=grids,
            rejects=self.rejects,
            infos=self.infos,
        )
        self._drain = Drain(
            self.endpoint,
            self._arrivals,
            lossless=self.lossless,
            until_end=self.until_end,
            curve=self.curve,
            high_water=max(16, round(self.messages_per_second)),
        )

        # If it is never closed, garbage collection stops it. That may come in any thread, so it waits for nothing.
        weakref.finalize(self, self._drain.stop).atexit = False

    def _check_options(self, kinds: frozenset[str]) -> None:
        if not kinds or kinds - set(KINDS):
            raise ValueError(f"kinds is {sorted(kinds)}, expected one or more of {', '.join(KINDS)}")
        if self.join not in ("keyframe", "epoch"):
            raise ValueError(f"join is {self.join!r}, expected 'keyframe' or 'epoch'")
        if self.latest_only and (self.join == "epoch" or self.lossless):
            raise ValueError(
                "latest_only keeps one message per stream, so neither join='epoch' nor lossless helps; choose one"
            )
        if "info" not in kinds and (self.join == "epoch" or self.until_end):
            raise ValueError("join='epoch' and until_end follow what info says; expected 'info' among the kinds")

    def get(self, timeout: float | None = None) -> Message | None:
        """The next message, waiting up to `timeout` seconds (None: for ever); None if none came, or after the end."""
        try:
            message = self._mailbox.get(timeout)
        except Closed:
            return None
        return None if message is None else self._deliver(message)

    @property
    def connected(self) -> bool:
        """Whether the connection to the node is established."""
        return self._drain.connection.up

    @property
    def ended(self) -> bool:
        """Whether all messages were read, and none will come: after `close`, or the streams' end with `until_end`."""
        return self._mailbox.over

    def decodable(self) -> Iterator[TokenMessage]:
        """Iterate over decodable messages only: after a loss, those from the next keyframe on."""
        return (message for message in self if isinstance(message, TokenMessage) and message.decodable)

    def info(self, stream: str, timeout: float = 5.0) -> Info:
        """The info of a stream; waits for it, and raises TimeoutError after `timeout` seconds."""
        info = self._arrivals.wait_for_info(stream, timeout)
        if info is None:
            raise TimeoutError(
                f"no info of stream {stream!r} from {self.endpoint} within {timeout} s; known: {list(self.infos)}"
            )
        return info

    def info_of(self, message: TokenMessage) -> Info | None:
        """The info that a message came with, else the newest one if it is of the same session, else None."""
        infos = message.info, self.infos.get(message.stream)
        return next((info for info in infos if info is not None and info.session == message.header.session), None)

    def waits(self, stream: str) -> bool:
        """Whether token messages of a stream wait to be read, or its epoch is being fetched."""
        return stream in self._arrivals.joiner.waiting or self._mailbox.waiting(stream) > 0

    def control(self, stream: str) -> ControlClient:
        """Open a client of a stream's control socket (the caller closes it); ValueError if it has none."""
        control = self.info(stream).control
        if control is None:
            raise ValueError(f"the node of stream {stream!r} has no control socket")
        return ControlClient(reachable(control, self.endpoint), self.curve)

    def request_keyframe(self, stream: str, timeout: float = 2.0) -> None:
        """Request a keyframe. It restarts every reader's context, so use join="epoch" to join."""
        with self.control(stream) as client:
            client.request("keyframe", stream, timeout)

    def counts(self) -> dict[str, dict[str, int]]:
        """Counts of token messages, per stream.

        They are messages, keyframes, lost (in transit), stale, sessions, and discarded (not read in time). Undecodable
        ones were read after a loss or before a keyframe; unreadable ones have a payload that cannot be decoded.
        """
        return {stream: self._counts_of(stream) for stream in list(self._arrivals.received)}

    def _counts_of(self, stream: str) -> dict[str, int]:
        received, delivered = self._arrivals.received[stream], self._delivered.get(stream, StreamTracker())
        counts = {name: received.counts[name] for name in ("messages", "keyframes", "lost", "stale", "sessions")}
        read = {"discarded": self._mailbox.discarded[stream], "undecodable": delivered.counts["undecodable"]}
        return counts | read | {"unreadable": self._arrivals.grids.unreadable[stream]}

    @property
    def missing(self) -> int:
        """Token messages that the node sent but this reader did not get: lost in transit, or discarded."""
        return sum(counts["lost"] + counts["discarded"] for counts in self.counts().values())

    def close(self) -> None:
        """Stop reading; iterators end."""
        self._drain.close()

    def __enter__(self) -> "Subscription[Message]":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        try:
            message = self._mailbox.get(self.timeout)
        except Closed:
            raise StopIteration from None
        if message is None:
            raise self._silence()
        return self._deliver(message)

    async def __aenter__(self) -> "Subscription[Message]":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.close)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        """The next message; cancelling it loses none."""
        try:
            return self._deliver(await self._mailbox.get_async(self.timeout))
        except Closed:
            raise StopAsyncIteration from None
        except TimeoutError:
            raise self._silence() from None

    def _silence(self) -> TimeoutError:
        return TimeoutError(f"no message from {self.endpoint} for {self.timeout} s; is the node running?")

    def _deliver(self, message: TokenMessage | FrameMessage) -> Message:
        """Mark continuity as this reader sees it, which includes discards of the queue."""
        if isinstance(message, FrameMessage):
            number = message.header.session, message.header.seq
            session, last = self._frames.get(message.stream, number)
            self._frames[message.stream] = number
            lost = number[1] - last - 1 if number[0] == session else 0  # a new session is no loss
            return cast(Message, replace(message, lost=lost) if lost > 0 else message)
        tracker = self._delivered.setdefault(message.stream, StreamTracker())
        verdict = tracker.take_message(message.header)
        if verdict is None:  # the drain has dropped stale ones, so the stream has restarted with known numbers
            tracker.begin(message.header.session)
            verdict = tracker.take_message(message.header)
        if verdict is None:
            return cast(Message, message)
        return cast(Message, replace(message, lost=verdict.lost, decodable=verdict.decodable))


subscribe = Subscription  # for `for message in streamtok.subscribe(endpoint)`
