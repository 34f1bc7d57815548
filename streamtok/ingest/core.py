"""Turn frames into token groups: the core of live ingest, replay and tests. No sockets, no waiting.

`IngestCore` owns one `Lane` per camera, which judges its frames, and the encoders; it acts on a lane's verdicts.
Sources, clocks and failures are outside: callers use `feed`, `restart` and `flush`.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from streamtok.engine.optimized import describe_engine
from streamtok.event_log import EventLog
from streamtok.ingest.batch import Batch
from streamtok.ingest.lane import Lane, Reason, StreamOptions, Verdict
from streamtok.ingest.preparing import Preparer, Preparing, preparing_for
from streamtok.ingest.stream_options import TAILS
from streamtok.ingest.token_grid import make_stream_info
from streamtok.model import NonFiniteError, Tokenizer
from streamtok.model.frames import check_channels, picture_channels
from streamtok.preprocessing.preprocessor import Preprocessor, fit_rectangles
from streamtok.types import Frame, Prepared, StreamInfo, TokenGroup

log = logging.getLogger("streamtok.ingest")


class IngestCore:
    """Turns frames of several cameras into token groups; the same object serves live streams, replay and tests.

    `tokenizer` is what `streamtok.load` returns; it decides device, precision and determinism. `streams` maps stream
    names to their options. Each stream has its own encoder of one slot, so its tokens cannot depend on which other
    cameras were ready. The streams of one of `batches` have one frame size and share an encoder, with a slot for each
    in the order given (None: an idle slot). There a full group waits up to `batch_wait_ms` for those of the others
    (see `batch`), and comes out of the next `feed`, `settle` or `overdue`. `timer` (ns) measures that and `encode_ns`.
    `preparing` follows from the tokenizer's device unless given.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
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
        self.tokenizer, self.config, self.context = tokenizer, tokenizer.config, context
        self.group_frames = self.config.temporal_compression if self.config.video else 1
        self.lanes = {
            name: Lane(name, options, self.group_frames, self.config.video) for name, options in streams.items()
        }
        self._timer = timer
        self._logs = {name: EventLog(name, log) for name in streams}
        self._preparing = preparing or preparing_for(tokenizer.device)
        self._preparers: dict[str, Preparer] = {}
        self._wait_ns = round(batch_wait_ms * 1e6)
        shared = [name for names in batches for name in names if name is not None]
        if len(set(shared)) < len(shared):
            raise ValueError(f"batches are {[list(names) for names in batches]}, expected each stream in one at most")
        alone = [[name] for name in streams if name not in shared]
        self._batches = [
            Batch([None if name is None else self.lane(name) for name in names], tokenizer, context, self._preparing)
            for names in (*batches, *alone)
        ]
        self._batch_of = {lane.name: batch for batch in self._batches for lane in batch.lanes}

    def lane(self, stream: str) -> Lane:
        """The lane of one stream; ValueError for an unknown name."""
        if stream not in self.lanes:
            raise ValueError(f"unknown stream {stream!r}; this core has {', '.join(self.lanes)}")
        return self.lanes[stream]

    def batch(self, stream: str) -> list[str]:
        """The streams that share this one's step, itself included, in the order of their slots."""
        return [lane.name for lane in self._batch_of[self.lane(stream).name].lanes]

    def buffer(self, stream: str) -> Tensor:
        """The network's input for a stream's group, (C, G, H, W) uint8 on its device; read only."""
        return self._batch_of[stream].find_buffer(self.lane(stream))

    def preprocessor(self, stream: str, source_size: tuple[int, int]) -> Preparer:
        """The preparer of this stream for pictures of `source_size` (height, width); the latest one is cached.

        ValueError for a size that cannot be encoded, or that the stream's options do not allow.
        """
        preparer = self._preparers.get(stream)
        if preparer is None or preparer.source_size != source_size:
            options, multiple = self.lane(stream).options, self.config.spatial_compression
            options.check_pixels(stream, *source_size)
            channels = picture_channels(self.config.in_channels)
            resize = Preprocessor(source_size, options.size, options.fit, multiple, channels)
            preparer = self._preparers[stream] = self._preparing.preparer(resize)
        return preparer

    def prepare(self, frame: Frame) -> Prepared:
        """Convert and resize one frame, on a GPU in parallel to the network; may run on the stream's capture thread."""
        height, width, channels = frame.picture.shape
        check_channels(channels, self.config.in_channels)
        planes = self.preprocessor(frame.stream, (height, width))(frame)
        return Prepared(frame.stream, frame.frame_id, frame.capture_ns, planes, (height, width))

    def open(self, stream: str, source_size: tuple[int, int]) -> None:
        """Allocate a stream's encoder for pictures of `source_size` (height, width), before the first of them."""
        lane, preparer = self.lane(stream), self.preprocessor(stream, source_size)
        self._batch_of[stream].open(stream, preparer.size)
        was = lane.source_size
        if lane.open(source_size, preparer.size, preparer.rect):
            self._logs[stream].add(self._timer(), "resize", {"resizes": 1}, was=was, now=source_size)

    def warm_up(self, stream: str) -> None:
        """Run a stream's network once and reset it. Needs the size, from the stream's options or from `open`."""
        options, batch = self.lane(stream).options, self._batch_of[stream]
        if options.size is not None:
            size, _, _ = fit_rectangles(options.size, options.size, options.fit, self.config.spatial_compression)
            batch.open(stream, size)
        batch.warm_up()

    @cached_property
    def engine(self) -> dict[str, Any]:
        """The engine configuration in the form that is published and recorded."""
        return describe_engine(self.tokenizer).to_dict()

    def stream_info(self, stream: str) -> StreamInfo:
        """A stream's current description for subscribers. ValueError before its `open`."""
        engine, batch = self.engine, self.batch(stream)
        return make_stream_info(self.lane(stream), self.tokenizer, context=self.context, engine=engine, batch=batch)

    def feed(self, frame: Frame | Prepared, behind: int = 0) -> list[TokenGroup]:
        """Take one frame; returns the groups that it completed, oldest first (two are possible at a gap).

        `behind` is how many frames just before it were dropped because the encoder was behind.
        """
        item = frame if isinstance(frame, Prepared) else self.prepare(frame)
        lane, batch = self.lane(item.stream), self._batch_of[item.stream]
        groups = self.settle(item.stream)
        verdict = lane.judge(item.frame_id, item.capture_ns, item.source_size, batch.epoch_ns)
        groups += self._act_on(verdict, lane, item, behind)
        if lane.source_size != item.source_size:
            self.open(item.stream, item.source_size)
        if lane.leave_out(item.frame_id, item.capture_ns):
            return groups
        batch.put(lane, item.planes)
        if lane.append(item.frame_id, item.capture_ns):
            lane.full_ns = self._timer()
        return groups + (self._encode(batch.full) if batch.complete else [])

    def settle(self, stream: str) -> list[TokenGroup]:
        """Step the stream's batch now if a full group of the stream waits, because its next frame has come."""
        return self._encode(self._batch_of[stream].full) if self.waits(stream) else []

    def waits(self, stream: str) -> bool:
        """Whether a full group of this stream waits for the rest of its batch."""
        return self.lane(stream).full_ns is not None

    def overdue(self) -> list[TokenGroup]:
        """Step every batch in which a full group has waited for `batch_wait_ms`; returns the groups."""
        due = self._timer() - self._wait_ns
        return [group for batch in self._batches if batch.full_ns <= due for group in self._encode(batch.full)]

    def patience(self) -> float:
        """Seconds until `overdue` has a batch to step; infinite while no full group waits."""
        first = min(batch.full_ns for batch in self._batches)
        return max(0.0, (first + self._wait_ns - self._timer()) / 1e9)

    def restart(self, stream: str) -> list[TokenGroup]:
        """Note that the source was lost and is back: the next frame starts an epoch, whatever `on_gap` says.

        Its `frame_id` tells how many frames are missing; without a jump it still counts as a gap.
        """
        lane = self.lane(stream)
        lane.restart()
        return self._cut(lane, lane.options.policy == "lossless")

    def flush(self, stream: str, tail: str | None = None) -> list[TokenGroup]:
        """End a stream: pad or drop its partial group, by `tail` or else by the options; returns the last groups.

        A later frame starts a new epoch.
        """
        lane, batch = self.lane(stream), self._batch_of[stream]
        tail = tail or lane.options.tail
        if tail not in TAILS:
            raise ValueError(f"tail must be one of {', '.join(TAILS)}, got {tail!r}")
        groups = self._cut(lane, tail == "pad", "tail")
        lane.end()
        groups += self._encode(batch.full) if batch.complete else []
        self.finish_logs([stream])
        return groups

    def discard(self, stream: str) -> None:
        """End a stream without another step: pending frames count as dropped, also those of a full group."""
        lane = self.lane(stream)
        lane.cut("tail")
        lane.end()
        self.finish_logs([stream])

    def finish_logs(self, streams: Iterable[str] | None = None) -> None:
        """Log the events that are only counted so far, of these streams or of all."""
        for name in self._logs if streams is None else streams:
            self._logs[name].finish()
            self._batch_of[name].events.finish()

    def request_keyframe(self, stream: str) -> None:
        """Start a new epoch of the stream's whole batch at the next group boundary."""
        for name in self.batch(stream):
            self.lane(name).keyframes.requested = True

    def encode_recorded(
        self, stream: str, frames: Sequence[Frame], *, keyframe: bool, epoch: int, dropped: int = 0, repeated: int = 0
    ) -> TokenGroup:
        """Encode one group exactly as its recorded header describes it, so that replay has the same groups as live.

        Raises ValueError if the frames do not make that group, NonFiniteError where `feed` would reset and go on.
        """
        lane = self.lane(stream)
        lane.check_recorded(len(frames), keyframe=keyframe, epoch=epoch, repeated=repeated)
        for frame in frames:
            item = self.prepare(frame)
            if lane.source_size != item.source_size:
                self.open(stream, item.source_size)
            self._batch_of[stream].put(lane, item.planes)
            lane.append(item.frame_id, item.capture_ns)
        lane.follow(keyframe, epoch, dropped)
        groups, error = self._step([lane])
        if error is not None:
            raise error
        return groups[0]

    def _act_on(self, verdict: Verdict, lane: Lane, item: Prepared, behind: int) -> list[TokenGroup]:
        """Act on a verdict: end the epoch if the frame starts another, and count the frames missing before it."""
        if "restart" in verdict.because:
            facts = {"frame_id": item.frame_id, "capture_ns": item.capture_ns}
            self._logs[lane.name].add(self._timer(), "restart", {"restarts": 1}, **facts)
        elif verdict.lost:
            facts = {"gaps": 1, "lost": verdict.lost}
            self._logs[lane.name].add(self._timer(), "gap", facts, on_gap=lane.options.on_gap)
        if "keyframe" in verdict.because:
            self._batch_of[lane.name].epoch_ns = item.capture_ns  # the other lanes of the batch follow
        groups = self._cut(lane, lane.options.policy == "lossless") if verdict.because else []
        lane.drop(behind, "behind")  # numbers do not show these before the first frame, or at a restart
        lane.drop(max(0, verdict.lost - behind), "missed")
        return groups

    def _cut(self, lane: Lane, pad: bool, reason: Reason = "cut") -> list[TokenGroup]:
        """End the epoch; pending frames become a padded group, or are dropped for that reason."""
        groups = self.settle(lane.name)
        groups += self._encode([lane]) if pad and lane.frame_ids else []
        lane.cut(reason)
        return groups

    def _encode(self, lanes: list[Lane]) -> list[TokenGroup]:
        """Encode groups of lanes of one batch; a lane whose latent is not finite drops its frames and resets."""
        groups, error = self._step(lanes)
        for lane in lanes if error is not None else []:
            if lane.frame_ids:
                facts = {"frame_ids": lane.frame_ids, "action": "reset"}
                self._logs[lane.name].add(self._timer(), "nonfinite", {"groups": 1}, logging.ERROR, **facts)
                lane.reject()
        return groups

    def _step(self, lanes: list[Lane]) -> tuple[list[TokenGroup], NonFiniteError | None]:
        """Run the network on the pending frames; only lanes with a finite latent give a group and advance."""
        batch = self._batch_of[lanes[0].name]
        start = self._timer()
        grids, error = batch.step(lanes)
        encode_ns = self._timer() - start
        groups = [
            lane.finish(grid, encode_ns, self.stream_info(lane.name) if lane.fresh else None)
            for lane, grid in grids.items()
        ]
        return groups, error
