"""The bookkeeping of one stream: gaps, epochs, and the group that is being filled. No pixels, no clock.

A lane is a state machine that `IngestCore` drives. `judge` takes a frame's number, time and size and decides whether it
starts an epoch. `append` adds it to the group that is being filled, and `finish` makes a `TokenGroup` of that.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from streamtok.ingest.budget import StreamBudget
from streamtok.ingest.keyframes import KeyframeSchedule
from streamtok.ingest.stream_options import StreamOptions
from streamtok.preprocessing.preprocessor import Rectangle
from streamtok.types import StreamInfo, TokenGroup

MOST_BEHIND = 3  # groups of backlog; with more, a stream drops frames
AFTER_KEYFRAME = 2  # groups that a stream keeps together with the keyframe after dropped frames
Because = Literal["resize", "restart", "gap", "batch", "keyframe"]
Reason = Literal["missed", "behind", "cut", "nonfinite", "tail", "budget"]
"""Why a frame is in no group: it never came from the camera, the encoder was behind, its epoch ended before its group
was full, its latent was not finite, its stream ended, or a bitrate had to be kept."""


@dataclass(frozen=True)
class Verdict:
    """The role of a frame: `because` says why an epoch starts with it, empty if it continues the epoch.

    `lost` is how many frames are missing just before it.
    """

    because: tuple[Because, ...] = ()
    lost: int = 0


@dataclass(eq=False)
class Lane:
    """The state of one stream. Groups have `group_frames` frames; a keyframe has one.

    `counts` has frames, groups, keyframes, dropped, gaps, nonfinite, repeated and resizes; `reasons` splits dropped.
    Every frame from the first on is in a group, pending in `frame_ids`, or dropped for one reason. Times are in ns.
    `budget` is the rate control: the margin for holding levels in the next group, and the frames to drop. `keyframes`
    decides when an epoch starts without a loss.
    """

    name: str
    options: StreamOptions
    group_frames: int
    video: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    source_size: tuple[int, int] | None = None
    image_size: tuple[int, int] | None = None  # the encoded (H, W), once the source's size is known
    source_rect: Rectangle = (0, 0, 0, 0)  # where the picture lies in the encoded image
    info: StreamInfo | None = None  # of the current epoch
    frame_rate: float | None = None  # the source's, which subscribers are told
    frame_ids: list[int] = field(default_factory=list)
    capture_ns: list[int] = field(default_factory=list)
    fresh: bool = True  # the next group starts an epoch
    epoch: int = -1
    dropped: int = 0  # since the last group
    full_ns: int | None = None  # since when a full group waits for its step
    ended: bool = False  # no more frames are expected
    _expected_id: int | None = None
    _last_capture_ns: int | None = None  # None after a cut, since a source that is back may have another clock
    _epoch_groups: int = 0
    _source_was_lost: bool = False

    def __post_init__(self) -> None:
        self.budget = StreamBudget(self.options.hold, self.options.bitrate)
        self.keyframes = KeyframeSchedule(self.options)

    @property
    def needed(self) -> int:
        """The number of frames in the current group once it is full."""
        return 1 if self.fresh else self.group_frames

    @property
    def most_waiting(self) -> int:
        """The number of frames worth queueing until `room_for` is called."""
        return MOST_BEHIND * self.group_frames + 2

    def room_for(self, waiting: int) -> int:
        """How many of the newest frames to encode if `waiting` of them wait; the others are dropped.

        `lossless` keeps all. `latest` drops frames, which leaves a gap, once the backlog is too long. If a gap costs
        no context (`bridge`, or an image model), that is when a second whole group waits; the newest group is kept. If
        a gap costs an epoch, it is when more than MOST_BEHIND groups wait. Then a keyframe and AFTER_KEYFRAME groups
        are kept, so that epochs do not get too short. Only one frame, the keyframe, is kept if the epoch that ends was
        longer than that: the encoder is nearly fast enough.
        """
        size = self.group_frames
        if self.options.policy == "lossless":
            return waiting
        if self.options.on_gap == "bridge" or not self.video:
            first = self.needed - len(self.frame_ids) or size  # a full one is about to be stepped
            return waiting if waiting < first + size else first
        if waiting <= MOST_BEHIND * size:
            return waiting
        return 1 if self._epoch_groups > 1 + AFTER_KEYFRAME else 1 + AFTER_KEYFRAME * size

    def judge(
        self, frame_id: int, capture_ns: int, source_size: tuple[int, int], batch_ns: int | None = None
    ) -> Verdict:
        """Judge the next frame, and count a gap before it. The caller acts on the verdict, then calls `append`.

        `batch_ns` is the capture time at which the lanes of its batch began their latest common epoch.
        """
        resized = self.source_size not in (None, source_size)
        back, lost = self._steps_back(frame_id, capture_ns, resized), 0
        if not back and self._expected_id is not None:
            lost = frame_id - self._expected_id
        self.counts["gaps"] += bool(back or lost or self._source_was_lost)
        self._source_was_lost = False

        because: tuple[Because, ...] = ("resize",) if resized else ()
        if back or (lost and self.options.on_gap == "reset"):
            because += ("restart" if back else "gap",)
        if because:
            return Verdict(because, lost)
        if batch_ns is not None and self._last_capture_ns is not None:
            step_ns, most = capture_ns - self._last_capture_ns, MOST_BEHIND * self.group_frames
            if self.keyframes.joins(batch_ns, capture_ns, step_ns, most):
                return Verdict(("batch",), lost)
        if not self.frame_ids and not self.fresh and self.keyframes.is_due(capture_ns):
            return Verdict(("keyframe",), lost)
        return Verdict((), lost)

    def append(self, frame_id: int, capture_ns: int) -> bool:
        """Add a frame to the group; True if it is full now."""
        self.frame_ids.append(frame_id)
        self.capture_ns.append(capture_ns)
        self._advance_to(frame_id, capture_ns)
        self.ended = False
        self.counts["frames"] += 1
        return len(self.frame_ids) == self.needed

    def finish(self, tokens: np.ndarray, encode_ns: int, info: StreamInfo | None = None) -> TokenGroup:
        """Make a group of the pending frames with `tokens`, of the shape in `info`, which is given for a new epoch."""
        repeated, keyframe = self.needed - len(self.frame_ids), self.fresh or not self.video
        if self.fresh:
            self.epoch, self._epoch_groups, self.info = self.epoch + 1, 0, info
            self.keyframes.begin(self.capture_ns[0])
        assert self.image_size is not None  # frames are appended to lanes that are open
        group = TokenGroup(
            stream=self.name,
            tokens=tokens,
            keyframe=keyframe,  # a decoder of images may start anywhere
            epoch=self.epoch,
            frame_ids=self.frame_ids,
            capture_ns=self.capture_ns,
            dropped=self.dropped,
            repeated=repeated,
            encode_ns=encode_ns,
            image_size=self.image_size,
            hold=0.0 if keyframe else self.budget.hold,
            info=self.info,
        )
        self.keyframes.note(tokens, keyframe)
        self.counts["groups"] += 1
        self.counts["keyframes"] += keyframe
        self.counts["repeated"] += repeated
        self._epoch_groups += 1
        self.fresh, self.dropped = False, 0
        self._clear()
        return group

    def leave_out(self, frame_id: int, capture_ns: int) -> bool:
        """Drop the next frame if that is needed to keep the bitrate; True if so. Never the first of an epoch."""
        if self.fresh or not self.budget.leaves_out():
            return False
        self._advance_to(frame_id, capture_ns)
        self.drop(1, "budget")
        return True

    def note_sent(self, group: TokenGroup, nbytes: int) -> None:
        """Tell the rate control that a group became a message of `nbytes`."""
        self.budget.note(nbytes, group.capture_ns[-1])

    def cut(self, reason: Reason = "cut") -> None:
        """End the epoch: pending frames are dropped, the next frame starts another."""
        self.drop(len(self.frame_ids), reason)
        self._clear()
        self.fresh, self._last_capture_ns = True, None

    def reject(self) -> None:
        """Drop the pending group, whose latent was not finite; the next frame starts an epoch."""
        self.counts["nonfinite"] += 1
        self.drop(len(self.frame_ids), "nonfinite")
        self._clear()
        self.fresh = True

    def retract(self, group: TokenGroup) -> None:
        """Count the newest group as dropped, as it came out too late to be sent; the next frame starts an epoch."""
        self.counts.subtract({"groups": 1, "keyframes": group.keyframe, "repeated": group.repeated})
        self.dropped += group.dropped
        self.drop(len(group.frame_ids), "behind")
        self.cut()

    def drop(self, frames: int, reason: Reason) -> None:
        """Count frames that are in no group."""
        self.dropped += frames
        self.counts["dropped"] += frames
        if frames:
            self.reasons[reason] += frames

    def open(self, source_size: tuple[int, int], image_size: tuple[int, int], source_rect: Rectangle) -> bool:
        """Set the sizes (height, width) and the rectangle of the picture in the image; True if the source's changed."""
        resized = self.source_size not in (None, source_size)
        self.counts["resizes"] += resized
        self.source_size, self.image_size, self.source_rect = source_size, image_size, source_rect
        return resized

    def restart(self) -> None:
        """Note that the source was lost and is back: the next frame counts as a gap, even without a jump in numbers."""
        self._source_was_lost = True

    def end(self) -> None:
        """Note that no more frames are expected."""
        self.ended = True
        self.budget.end()

    def check_recorded(self, frames: int, *, keyframe: bool, epoch: int, repeated: int) -> None:
        """Raise ValueError unless `frames` frames, given to an empty lane, make the group that a header describes."""
        need = 1 if keyframe else self.group_frames
        if frames + repeated != need or not frames:
            raise ValueError(
                f"a {'keyframe' if keyframe else 'group'} of {self.name!r} needs {need} frames, got "
                f"{frames} and {repeated} repeated; was it recorded with another model?"
            )
        if self.frame_ids:
            raise ValueError(f"stream {self.name!r} has a partial group from feed(); flush it before encode_recorded()")
        if not keyframe and self.epoch != epoch:
            raise ValueError(
                f"stream {self.name!r} is in epoch {self.epoch}, the group is of epoch {epoch}: start at its keyframe"
            )

    def follow(self, keyframe: bool, epoch: int, dropped: int) -> None:
        """Set the state of the pending frames from a recorded header."""
        self.fresh, self.epoch, self.dropped = keyframe, epoch - keyframe, dropped

    def _advance_to(self, frame_id: int, capture_ns: int) -> None:
        self._expected_id, self._last_capture_ns = frame_id + 1, capture_ns

    def _clear(self) -> None:
        self.frame_ids, self.capture_ns, self.full_ns = [], [], None

    def _steps_back(self, frame_id: int, capture_ns: int, resized: bool) -> bool:
        """Whether the frame's number or time does not rise; pictures of a new size may have any time."""
        if self._expected_id is not None and frame_id < self._expected_id:
            return True
        if resized:
            return False
        return self._last_capture_ns is not None and capture_ns <= self._last_capture_ns
