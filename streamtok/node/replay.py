"""Encodes recorded drives through the same core as live streams.

A recording with tokens is cut into groups as its headers say: boundaries, keyframes, dropped and repeated frames. Any
other drive is cut by the ingest core's rules on frame ids and capture times. Neither reads a clock.
"""

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from streamtok.coding.library import coders_beside
from streamtok.drives.drive import Drive
from streamtok.drives.mcap_drive import McapDrive, TokenData
from streamtok.drives.message_drive import ReadOptions
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.model import Tokenizer
from streamtok.preprocessing.preprocessor import Preprocessor
from streamtok.recording.format import FRAMES
from streamtok.recording.parts import Parts
from streamtok.recording.reader import Recording, TokenReader
from streamtok.types import Frame, TokenGroup
from streamtok.wire.message import Info, TokenMessage

LONGEST_DELAY = 32  # messages by which a frame may come late, since a video decoder delays frames
NO_FRAMES = "its frames are not in the recording"
NO_START = "no keyframe to start from before it"


@dataclass(frozen=True)
class Replayed:
    """One group encoded again, its frames, and the recorded message that it repeats, if any."""

    group: TokenGroup
    frames: list[Frame]
    recorded: TokenMessage | None = None


@dataclass
class _Shelf:
    """One stream's frames and messages that were read but not used yet, in recorded order.

    `unbroken` says that every group since a keyframe was encoded again, so that our state is the recorded encoder's.
    """

    frames: deque[Frame] = field(default_factory=deque)
    messages: deque[TokenMessage] = field(default_factory=deque)
    unbroken: bool = False

    def put(self, frame: Frame) -> None:
        if self.frames and frame.frame_id <= self.frames[-1].frame_id:
            self.frames.clear()  # the camera's node was restarted
        self.frames.append(frame)

    def take(self, ids: list[int]) -> list[Frame] | None:
        """Remove and return the frames with these ids, and discard those before them; None if some are missing."""
        found = [frame for frame in self.frames if frame.frame_id in ids]
        while self.frames and self.frames[0].frame_id <= ids[-1]:
            self.frames.popleft()
        return found if len(found) == len(ids) else None

    def reaches(self, frame_id: int) -> bool:
        return bool(self.frames) and self.frames[-1].frame_id >= frame_id


class Replay(ABC):
    """Base of the replays: the drive that is read, the core that encodes it, and what could not be encoded.

    `skipped` counts recorded groups that were left out, by reason; `problems` has the details.
    """

    def __init__(self, drive: Drive, core: IngestCore) -> None:
        self.drive, self.core = drive, core
        self.skipped: Counter[str] = Counter()
        self.problems: list[str] = []

    @abstractmethod
    def __iter__(self) -> Iterator[Replayed]:
        """Yield the groups in the order in which they are encoded."""


class RecordedReplay(Replay):
    """Encodes the frames of a recording again, group by group as the recorded headers say.

    Iterating gives `Replayed` in recorded order. A group whose frames are missing is skipped, and so are those after it
    up to the next keyframe.
    """

    drive: McapDrive

    def __init__(self, recording: Recording, tokenizer: Tokenizer, streams: Iterable[str] | None = None) -> None:
        self.recording = recording
        self.streams = [name for name in (streams or recording.streams) if name in recording.cameras]
        if not self.streams:
            raise ValueError(
                f"{recording.paths[0]} has token streams {recording.streams} and cameras {recording.cameras}: none has "
                "both; record the frames too (ingest --record FILE), or replay the tokens alone with --recorded-tokens"
            )
        self.infos = recording.first_infos()
        for name in self.streams:
            tokenizer.check_fingerprint(self.infos[name].tokenizer, f"stream {name!r} was recorded with tokenizer")
        drive = McapDrive(Parts(recording.paths), ReadOptions({FRAMES + name: name for name in self.streams}))
        multiple = tokenizer.config.spatial_compression
        options = {name: recorded_options(self.infos[name], multiple) for name in self.streams}
        contexts = {self.infos[name].context for name in self.streams}
        if len(contexts) > 1:
            raise ValueError(f"the streams were encoded with different contexts {contexts}: replay one at a time")
        # Each stream steps in its own slot of as many slots as when it was recorded; the other slots stay idle.
        batches = [[name if other == name else None for other in self.infos[name].batch] for name in self.streams]
        shared = [slots for slots in batches if len(slots) > 1]
        super().__init__(drive, IngestCore(tokenizer, options, context=contexts.pop(), batches=shared))

    def __iter__(self) -> Iterator[Replayed]:
        shelves = {name: _Shelf() for name in self.streams}
        reader = TokenReader(self.recording.damaged, coders_beside(self.recording.paths[0]))
        for event in self.drive.frames_and_tokens(self.streams):
            if isinstance(event, TokenData):
                message = reader.read(event.topic, event.data)
                if message is None:
                    continue
                shelf = shelves[message.stream]
                shelf.messages.append(message)
            else:
                shelf = shelves[event.stream]
                shelf.put(event)
            yield from self._encode_ready(shelf, LONGEST_DELAY)
        for shelf in shelves.values():
            yield from self._encode_ready(shelf, 0)

    def _encode_ready(self, shelf: _Shelf, patience: int) -> Iterator[Replayed]:
        """Encode groups whose frames have come, or which have waited for them for more than `patience` messages."""
        while shelf.messages:
            ids = shelf.messages[0].header.frame_ids
            if not shelf.reaches(ids[-1]) and len(shelf.messages) <= patience:
                return
            replayed = self._encode(shelf.messages.popleft(), shelf.take(ids), shelf)
            if replayed is not None:
                yield replayed

    def _encode(self, message: TokenMessage, frames: list[Frame] | None, shelf: _Shelf) -> Replayed | None:
        header, stream = message.header, message.stream
        follows = header.keyframe or (shelf.unbroken and message.decodable)
        shelf.unbroken = False
        if frames is None or not follows:
            self._skip(message, NO_FRAMES if frames is None else NO_START)
            return None
        facts = {"epoch": header.epoch, "dropped": header.dropped, "repeated": header.repeated}
        self.core.lane(stream).budget.hold = header.hold if isinstance(header.hold, float) else 0.0
        try:
            group = self.core.encode_recorded(stream, frames, keyframe=header.keyframe, **facts)
        except ValueError as error:
            self._skip(message, f"it cannot be encoded: {error}")
            self.core.flush(stream, "drop")
            return None
        shelf.unbroken = True
        return Replayed(group, frames, message)

    def _skip(self, message: TokenMessage, reason: str) -> None:
        self.skipped[reason] += 1
        if len(self.problems) < 1000:
            ids = message.header.frame_ids
            self.problems.append(f"{message.stream} seq {message.header.seq} (frames {ids[0]} to {ids[-1]}): {reason}")


class DriveReplay(Replay):
    """Encodes the frames of a drive without tokens, as live ingest with policy `lossless` would."""

    def __iter__(self) -> Iterator[Replayed]:
        """Yield groups in the order in which they fill up, each with its frames."""
        pending: dict[str, list[Frame]] = {name: [] for name in self.core.lanes}
        for frame in self.drive.frames(list(self.core.lanes)):
            pending[frame.stream].append(frame)
            for group in self.core.feed(frame):
                yield self._with_frames(group, pending)
        for name in self.core.lanes:
            for group in self.core.flush(name):
                yield self._with_frames(group, pending)

    def _with_frames(self, group: TokenGroup, pending: dict[str, list[Frame]]) -> Replayed:
        waiting = pending[group.stream]
        used = [frame for frame in waiting if frame.frame_id <= group.frame_ids[-1]]
        pending[group.stream] = waiting[len(used) :]
        return Replayed(group, used)


def recorded_options(info: Info, multiple: int) -> StreamOptions:
    """The stream options that reproduce how a recorded stream's frames were prepared and encoded; else ValueError."""
    height, width = info.requested_size or info.image_size
    sized = StreamOptions("lossless", size=(height, width), fit=info.fit, hold=info.hold)
    if info.source_size is None:
        return sized
    source = info.source_size[0], info.source_size[1]
    for options in (sized,) if info.requested_size else (replace(sized, size=None), sized):
        made = Preprocessor(source, options.size, options.fit, multiple)
        if list(made.size) == list(info.image_size) and list(made.rect) == list(info.source_rect or made.rect):
            return options
    raise ValueError(
        f"stream {info.stream!r}: images of {source} became {info.image_size} (rectangle {info.source_rect}, fit "
        f"{info.fit!r}), which this version does not reproduce"
    )
