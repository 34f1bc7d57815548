"""Frames in, token groups out: what live ingest, replay and the tests share. No sockets, no waiting.

`IngestCore` owns one lane per camera (the group that is being filled), the encoders behind them, and the rules for
gaps, keyframes and drops. Whatever waits, fails or tells the time is outside and calls `feed`, `gap`, `flush`.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamtok.ingest.batch import MOST_BEHIND, Batch
from streamtok.ingest.lane import TAILS, Lane, Prepared, StreamOptions
from streamtok.ingest.preparing import Preparer, Preparing, preparing_for
from streamtok.ingest.token_grid import grids_of
from streamtok.model import NonFiniteError
from streamtok.preprocessing.preprocessor import fit_rectangles
from streamtok.types import TokenGroup

log = logging.getLogger("streamtok.ingest")

AFTER_KEYFRAME = 2  # groups: a stream that skips frames takes so many together with the keyframe after them


class IngestCore:
    """Turns frames of several cameras into token groups; the same object serves live streams, replay and tests.

    `tokenizer` is what `streamtok.load` returns and decides device, precision and determinism; `streams` maps stream
    names to their options. Each stream has its own encoder of one slot, so its tokens cannot depend on which other
    cameras were ready. The exception are the streams that one of `batches` lists: they have one frame size and share an
    encoder, a slot for each in the order given (None: a slot that stays idle). There a full group waits up to
    `batch_wait_ms` for those of the others (see `batch`), and comes out of `feed`, `settle` or `overdue`, whichever is
    called first. `timer` is read for that and to
    fill `encode_ns`; `preparing` follows from the tokenizer's device unless given.
    """

    def __init__(
        self,
        tokenizer: Any,
        streams: dict[str, StreamOptions],
        *,
        context: int | None = None,
        batches: Sequence[Sequence[str | None]] = (),
        batch_wait_ms: float = 0.0,
        timer: Callable[[], int] = time.perf_counter_ns,
        preparing: Preparing | None = None,
    ) -> None:
        if not streams:
            raise ValueError("no streams: give at least one name with its StreamOptions")
        self.tokenizer = tokenizer
        self.config = tokenizer.config
        self.group_frames = self.config.temporal_compression if self.config.video else 1
        self.context = context
        self.lanes = {name: Lane(name, options) for name, options in streams.items()}
        self._timer = timer
        self._preparing = preparing or preparing_for(tokenizer.device)
        self._preparers: dict[tuple[str, tuple[int, int]], Preparer] = {}
        self._wait_ns = round(batch_wait_ms * 1e6)
        shared = [name for names in batches for name in names if name is not None]
        if len(set(shared)) < len(shared):
            raise ValueError(f"batches are {[list(names) for names in batches]}, expected each stream in one at most")
        alone = [[name] for name in streams if name not in shared]
        self._batches = [
            Batch([None if name is None else self.lane(name) for name in names], tokenizer.stream, self._preparing)
            for names in (*batches, *alone)
        ]
        self._batch_of = {lane.name: batch for batch in self._batches for lane in batch.lanes}

    def lane(self, stream: str) -> Lane:
        """The bookkeeping of one stream, to read."""
        if stream not in self.lanes:
            raise ValueError(f"unknown stream {stream!r}; this core has {', '.join(self.lanes)}")
        return self.lanes[stream]

    def preprocessor(self, stream: str, source_size: tuple[int, int]) -> Preparer:
        """What turns pictures of `source_size` (height, width) into what this stream encodes."""
        key = stream, (source_size[0], source_size[1])
        if key not in self._preparers:
            options = self.lane(stream).options
            multiple = self.config.spatial_compression
            self._preparers[key] = self._preparing.preparer(key[1], options.size, options.fit, multiple)
        return self._preparers[key]

    def prepare(self, frame: Any) -> Prepared:
        """Convert and resize one `Frame`, on a GPU beside the network; may run on the capture thread of its stream."""
        height, width = frame.picture.shape[:2]
        planes = self.preprocessor(frame.stream, (height, width))(frame)
        return Prepared(frame.stream, frame.frame_id, frame.capture_ns, planes, (height, width))

    def open(self, stream: str, source_size: tuple[int, int]) -> tuple[int, int]:
        """Allocate what a stream needs before its first frame; returns the (H, W) that will be encoded."""
        size = self.preprocessor(stream, source_size).size
        self._allocate(stream, size)
        self.lane(stream).source_size = source_size[0], source_size[1]
        return size

    def warm_up(self, stream: str) -> None:
        """Run a stream's network once and forget it, so that the first frame does not pay for what is set up. Needs
        the size that is encoded: from the stream's options, or from `open`."""
        options = self.lane(stream).options
        if options.size is not None:
            size, _, _ = fit_rectangles(options.size, options.size, options.fit, self.config.spatial_compression)
            self._allocate(stream, size)
        self._batch_of[stream].warm_up()

    def _allocate(self, stream: str, size: tuple[int, int]) -> None:
        self._batch_of[stream].open(stream, size, self.group_frames, self.context, self.tokenizer.device)

    def batch(self, stream: str) -> list[str]:
        """The streams that share this one's step, itself included, in the order of their slots."""
        return [lane.name for lane in self._batch_of[self.lane(stream).name].lanes]

    def feed(self, frame: Any) -> list[TokenGroup]:
        """Take one `Frame` or `Prepared`; returns the groups that this completed, oldest first (at a gap even two)."""
        item = frame if isinstance(frame, Prepared) else self.prepare(frame)
        lane, batch = self.lane(item.stream), self._batch_of[item.stream]
        groups = self.settle(item.stream) + self._resize(lane, item) + self._notice_gap(lane, item)
        groups += self._start_epoch(lane, item)
        self._append(lane, item)
        if len(lane.frame_ids) == self._needed(lane):
            lane.full_ns = self._timer()
        return groups + (self._encode(batch.full) if batch.complete else [])

    def settle(self, stream: str) -> list[TokenGroup]:
        """Let a full group of this stream wait no longer, for its next frame is there: step its batch if it has one."""
        batch = self._batch_of[stream]
        return self._encode(batch.full) if self.waits(stream) else []

    def waits(self, stream: str) -> bool:
        """Whether a full group of this stream waits for those of its batch."""
        return self.lane(stream).full_ns is not None

    def overdue(self) -> list[TokenGroup]:
        """The groups of every batch in which a full one has waited as long as it may."""
        now = self._timer()
        return [group for batch in self._batches if self._due_ns(batch) <= now for group in self._encode(batch.full)]

    def patience(self) -> float:
        """Seconds until `overdue` has something to do; infinite while no full group waits."""
        return max(0.0, (min(map(self._due_ns, self._batches)) - self._timer()) / 1e9)

    def _due_ns(self, batch: Batch) -> float:
        return min((lane.full_ns + self._wait_ns for lane in batch.full if lane.full_ns is not None), default=math.inf)

    def choose(self, stream: str, waiting: Sequence[Any]) -> Sequence[Any]:
        """Which of the frames that wait for this stream, oldest first, to feed.

        Under `lossless`: all of them. Under `latest` some are skipped (a gap stands for them) once too many wait. Where
        a gap costs no context (it is bridged, or the model codes images), that is when a second whole group waits, and
        the newest group is left. Where it costs an epoch, it is when more than MOST_BEHIND groups wait, and so many of
        the newest are left that epochs last: the next keyframe's alone if the epoch that ends did last, for the encoder
        is nearly fast enough then, else with the AFTER_KEYFRAME groups that follow it.
        """
        lane, size = self.lane(stream), self.group_frames
        if lane.options.policy == "lossless":
            return waiting
        if lane.options.on_gap == "bridge" or not self.config.video:
            first = self._needed(lane) - len(lane.frame_ids) or size  # a full one is about to be stepped
            return waiting if len(waiting) < first + size else waiting[-first:]
        if len(waiting) <= MOST_BEHIND * size:
            return waiting
        lasted = lane.epoch_groups > 1 + AFTER_KEYFRAME
        return waiting[-1:] if lasted else waiting[-1 - AFTER_KEYFRAME * size :]

    @property
    def queue_frames(self) -> int:
        """How many frames of one stream are worth keeping until `choose` sees them."""
        return MOST_BEHIND * self.group_frames + 2

    def gap(self, stream: str, lost: int = 0) -> list[TokenGroup]:
        """Note that frames are missing before the next one, after a reconnect for example; `lost` of them, if known."""
        lane = self.lane(stream)
        lane.counts["gaps"] += 1
        lane.expected_id = None
        lane.log.add(self._timer(), "gap", {"gaps": 1, "lost": lost}, on_gap=lane.options.on_gap)
        groups = self._reset(lane) if lane.options.on_gap == "reset" else self.settle(stream)
        lane.drop(lost)  # after the reset: a group padded there ends before these frames
        return groups

    def restart(self, stream: str) -> list[TokenGroup]:
        """Note that the source was lost and is back: the next frame starts an epoch, whatever `on_gap` says.

        What was missed is told by its `frame_id`; without a jump there it still counts as a gap.
        """
        lane = self.lane(stream)
        groups = self._reset(lane)
        lane.restarted = True
        return groups

    def flush(self, stream: str, tail: str | None = None) -> list[TokenGroup]:
        """End a stream: its partial group is padded or dropped, as `tail` or else the options say.

        The next frame that is fed starts a new epoch.
        """
        lane = self.lane(stream)
        tail = tail or lane.options.tail
        if tail not in TAILS:
            raise ValueError(f"tail must be one of {', '.join(TAILS)}, got {tail!r}")
        groups, batch = self._reset(lane, pad=tail == "pad"), self._batch_of[stream]
        lane.ended = True
        groups += self._encode(batch.full) if batch.complete else []
        lane.log.finish()
        return groups

    def discard(self, stream: str) -> None:
        """End a stream without another step: what is pending counts as dropped, a full group too."""
        lane = self.lane(stream)
        lane.discard_pending()
        lane.fresh, lane.ended = True, True
        lane.log.finish()

    def request_keyframe(self, stream: str) -> None:
        """Start a new epoch at the next group boundary, of the whole batch."""
        for name in self.batch(stream):
            self.lane(name).requested = True

    def encode_recorded(
        self, stream: str, frames: Sequence[Any], *, keyframe: bool, epoch: int, dropped: int = 0, repeated: int = 0
    ) -> TokenGroup:
        """Encode one group exactly as a recorded header describes it, so that replay cuts the drive where live did.

        Raises ValueError if the frames do not make that group, `NonFiniteError` where `feed` would reset and go on.
        """
        lane = self.lane(stream)
        need = 1 if keyframe else self.group_frames
        if len(frames) + repeated != need or not frames:
            raise ValueError(
                f"a {'keyframe' if keyframe else 'group'} of {stream!r} needs {need} frames, got "
                f"{len(frames)} and {repeated} repeated; was it recorded with another model?"
            )
        if lane.frame_ids:
            raise ValueError(f"stream {stream!r} has a partial group from feed(); flush it before encode_recorded()")
        if not keyframe and lane.epoch != epoch:
            raise ValueError(
                f"stream {stream!r} is in epoch {lane.epoch}, the group is of epoch {epoch}: start at its keyframe"
            )
        for frame in frames:
            item = frame if isinstance(frame, Prepared) else self.prepare(frame)
            self._resize(lane, item)
            self._append(lane, item)
        lane.fresh, lane.epoch, lane.dropped = keyframe, epoch - keyframe, dropped
        groups, error = self._step([lane])
        if error is not None:
            raise error
        return groups[0]

    def _resize(self, lane: Lane, item: Prepared) -> list[TokenGroup]:
        if lane.source_size == item.source_size and lane.buffer is not None:
            return []
        groups = []
        if lane.source_size is not None and lane.source_size != item.source_size:
            lane.counts["resizes"] += 1
            log.warning("stream=%s event=resize was=%s now=%s", lane.name, lane.source_size, item.source_size)
            groups = self._reset(lane)
        self.open(lane.name, item.source_size)
        return groups

    def _notice_gap(self, lane: Lane, item: Prepared) -> list[TokenGroup]:
        """Compare with the number that should follow, also between groups; back in number or time is a restart."""
        restarted, lane.restarted = lane.restarted, False
        late = lane.last_capture_ns is not None and item.capture_ns <= lane.last_capture_ns
        behind = lane.expected_id is not None and item.frame_id < lane.expected_id
        taken = bool(lane.frame_ids) and item.frame_id <= lane.frame_ids[-1]  # also after a gap that was told
        if late or behind or taken:
            lane.counts["gaps"] += 1
            facts = {"frame_id": item.frame_id, "capture_ns": item.capture_ns}
            lane.log.add(self._timer(), "restart", {"restarts": 1}, **facts)
            return self._reset(lane)
        if lane.expected_id is not None and item.frame_id > lane.expected_id:
            return self.gap(lane.name, item.frame_id - lane.expected_id)
        lane.counts["gaps"] += restarted
        return []

    def _reset(self, lane: Lane, pad: bool | None = None) -> list[TokenGroup]:
        """End the epoch; what is pending becomes a padded group or is dropped (by policy unless `pad` says)."""
        groups = self.settle(lane.name)
        pad = lane.options.policy == "lossless" if pad is None else pad
        groups += self._encode([lane]) if pad and lane.frame_ids else []
        lane.discard_pending()
        lane.fresh, lane.last_capture_ns = True, None
        return groups

    def _start_epoch(self, lane: Lane, item: Prepared) -> list[TokenGroup]:
        """Start an epoch with this frame where one is due, and with the frame at which its batch has started one."""
        groups, batch = [], self._batch_of[lane.name]
        if batch.follows(lane, item.capture_ns):
            groups = self._reset(lane) if lane.frame_ids else []
        elif not lane.frame_ids and not lane.fresh and self._keyframe_due(lane, item):
            batch.start_epoch(item.capture_ns)
        else:
            return []
        lane.fresh = True
        return groups

    def _keyframe_due(self, lane: Lane, item: Prepared) -> bool:
        interval_ns = round(lane.options.keyframe_interval * 1e9)
        return lane.requested or 0 < interval_ns <= item.capture_ns - lane.keyframe_ns

    def _needed(self, lane: Lane) -> int:
        return 1 if lane.fresh else self.group_frames

    def _append(self, lane: Lane, item: Prepared) -> None:
        # Into the group's buffer as each frame arrives: only the network is left to do for a full group.
        item.planes.copy_to(lane.buffer[0, :, len(lane.frame_ids)])
        lane.ended = False
        lane.frame_ids.append(item.frame_id)
        lane.capture_ns.append(item.capture_ns)
        lane.expected_id, lane.last_capture_ns = item.frame_id + 1, item.capture_ns
        lane.counts["frames"] += 1

    def _encode(self, lanes: list[Lane]) -> list[TokenGroup]:
        """The groups of some lanes of one batch; a lane whose latent is not finite loses its frames and starts anew."""
        groups, error = self._step(lanes)
        for lane in lanes if error is not None else []:
            if lane.frame_ids:
                lane.counts["nonfinite"] += 1
                facts = {"frame_ids": lane.frame_ids, "action": "reset"}
                lane.log.add(self._timer(), "nonfinite", {"groups": 1}, logging.ERROR, **facts)
                lane.discard_pending()
                lane.fresh = True
        return groups

    def _step(self, lanes: list[Lane]) -> tuple[list[TokenGroup], NonFiniteError | None]:
        """Run the network on the pending frames; the bookkeeping of a lane moves on only if its latent is finite."""
        batch, error = self._batch_of[lanes[0].name], None
        for lane in lanes:
            count = len(lane.frame_ids)
            lane.buffer[:, :, count : self._needed(lane)] = lane.buffer[:, :, count - 1 : count]
        start = self._timer()
        try:
            out = batch.step(lanes)
        except NonFiniteError as raised:
            out, error = raised.out, raised
        grids = grids_of(out, self.config)
        encode_ns = self._timer() - start
        bad = [] if error is None else error.slots
        slots = [(batch.slots.index(lane), lane) for lane in lanes]
        return [self._finish(lane, grids[slot], encode_ns) for slot, lane in slots if slot not in bad], error

    def _finish(self, lane: Lane, tokens: np.ndarray, encode_ns: int) -> TokenGroup:
        repeated = self._needed(lane) - len(lane.frame_ids)
        keyframe = lane.fresh or not self.config.video  # a decoder of images may start anywhere
        lane.counts["keyframes"] += keyframe
        if lane.fresh:
            lane.epoch, lane.epoch_groups = lane.epoch + 1, 0
            lane.keyframe_ns, lane.requested = lane.capture_ns[0], False
        group = TokenGroup(
            stream=lane.name,
            tokens=tokens,
            keyframe=keyframe,
            epoch=lane.epoch,
            frame_ids=lane.frame_ids,
            capture_ns=lane.capture_ns,
            dropped=lane.dropped,
            repeated=repeated,
            encode_ns=encode_ns,
            image_size=lane.image_size,
        )
        lane.counts["groups"] += 1
        lane.epoch_groups += 1
        lane.counts["repeated"] += repeated
        lane.fresh, lane.dropped = False, 0
        lane.clear_pending()
        return group
