"""Frames in, token groups out: what live ingest, replay and the tests share. No sockets, no clock.

`IngestCore` owns one lane per camera: the encoder state, the frames of the group that is being filled, and the rules
for gaps, keyframes and drops. Whatever waits, fails or tells the time is outside and calls `feed`, `gap`, `flush`.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from streamtok.engine.preparing import Planes, Preparer, Preparing, preparing_for

log = logging.getLogger("streamtok.ingest")

POLICIES = ("latest", "lossless")
ON_GAP = ("reset", "bridge")
TAILS = ("pad", "drop")
FITS = ("stretch", "crop", "pad")


@dataclass(frozen=True)
class TokenGroup:
    """What one group of frames of one stream became.

    `tokens` is the grid: (h, w) uint16, or uint32 above 65,536 codes, or (C, h, w) float16 for continuous models;
    residual quantizers add a leading axis. `frame_ids` and `capture_ns` have one entry per real frame, oldest first;
    `repeated` counts the frames added to fill the group, `dropped` the frames lost since this stream's previous
    group. `encode_ns` is a duration; `image_size` is the (H, W) that was encoded.
    """

    stream: str
    tokens: np.ndarray
    keyframe: bool
    epoch: int
    frame_ids: list[int]
    capture_ns: list[int]
    dropped: int
    repeated: int
    encode_ns: int
    image_size: tuple[int, int]


@dataclass(frozen=True)
class StreamOptions:
    """How one stream treats sizes, gaps and its end.

    `size` is the (H, W) to encode, None for the source's own padded to the grid; `keyframe_interval` is in seconds of
    capture time, 0 for never; `policy`, `on_gap`, `tail` and `fit` are among POLICIES, ON_GAP, TAILS and FITS.
    """

    policy: str = "latest"
    on_gap: str = "reset"
    tail: str = "pad"
    keyframe_interval: float = 10.0
    size: tuple[int, int] | None = None
    fit: str = "stretch"

    def __post_init__(self) -> None:
        allowed = {"policy": POLICIES, "on_gap": ON_GAP, "tail": TAILS, "fit": FITS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        if not self.keyframe_interval >= 0:
            raise ValueError(f"keyframe_interval must be seconds >= 0 (0 for never), got {self.keyframe_interval!r}")


@dataclass(frozen=True)
class Prepared:
    """A frame as the network takes it: `planes`, made from a `source_size` (height, width) picture."""

    stream: str
    frame_id: int
    capture_ns: int
    planes: Planes
    source_size: tuple[int, int]


@dataclass
class Lane:
    """One stream's place: its encoder state, the group being filled and its bookkeeping."""

    name: str
    options: StreamOptions
    counts: Counter = field(default_factory=Counter)
    encoder: Any = None
    cold: bool = True  # the encoder has not stepped yet
    buffer: Any = None  # Tensor (1, 3, G, H, W) uint8 on the encoder's device, once the size is known
    source_size: tuple[int, int] | None = None
    frame_ids: list[int] = field(default_factory=list)
    capture_ns: list[int] = field(default_factory=list)
    expected_id: int | None = None
    last_capture_ns: int | None = None
    fresh: bool = True  # the next group starts an epoch
    epoch: int = -1
    keyframe_ns: int = 0
    requested: bool = False
    restarted: bool = False
    dropped: int = 0

    @property
    def image_size(self) -> Any:
        """(H, W) that the encoder takes; None until the size of the source is known."""
        return None if self.buffer is None else tuple(self.buffer.shape[-2:])

    def discard_pending(self) -> None:
        self.drop(len(self.frame_ids))
        self.clear_pending()

    def clear_pending(self) -> None:
        self.frame_ids, self.capture_ns = [], []

    def drop(self, frames: int) -> None:
        self.dropped += frames
        self.counts["dropped"] += frames


class IngestCore:
    """Turns frames of several cameras into token groups; the same object serves live streams, replay and tests.

    `tokenizer` is what `streamtok.load` returns and decides device, precision and determinism; `streams` maps stream
    names to their options. Each stream has an encoder of one slot, so its tokens cannot depend on which other cameras
    were ready. `timer` is only read to fill `encode_ns`; `preparing` follows from the tokenizer's device unless given.
    """

    def __init__(
        self,
        tokenizer: Any,
        streams: dict[str, StreamOptions],
        *,
        context: int | None = None,
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
        self._preparing = preparing or preparing_for(device_of(tokenizer))
        self._preparers: dict[tuple[str, tuple[int, int]], Preparer] = {}

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
        lane = self.lane(stream)
        size = self.preprocessor(stream, source_size).size
        lane.source_size = source_size[0], source_size[1]
        if lane.image_size != size:
            height, width = size
            lane.encoder = self.tokenizer.stream(slots=1, height=height, width=width, context=self.context)
            lane.cold = True
            shape = 1, 3, self.group_frames, height, width
            lane.buffer = torch.zeros(shape, dtype=torch.uint8, device=device_of(self.tokenizer))
            log.info("stream=%s size=%dx%d state_bytes=%d", stream, height, width, lane.encoder.nbytes)
        return size

    def warm_up(self, stream: str) -> None:
        """Run an opened stream's network once and forget it, so that the first frame does not pay for what is set
        up."""
        lane = self.lane(stream)
        self._run(lane, lane.buffer[:, :, :1])
        lane.encoder.reset()

    def feed(self, frame: Any) -> list[TokenGroup]:
        """Take one `Frame` or `Prepared`; returns the groups that this completed, oldest first (at a gap even two)."""
        item = frame if isinstance(frame, Prepared) else self.prepare(frame)
        lane = self.lane(item.stream)
        groups = self._resize(lane, item) + self._notice_gap(lane, item)
        if not lane.frame_ids and self._keyframe_due(lane, item):
            lane.fresh = True
        self._append(lane, item)
        if len(lane.frame_ids) == self._needed(lane):
            groups += self._encode(lane)
        return groups

    def choose(self, stream: str, waiting: Sequence[Any]) -> Sequence[Any]:
        """Which of the frames that wait for this stream, oldest first, to feed.

        Under `latest`, once a second whole group is waiting: the newest whole group (a gap stands for the others).
        Under `lossless`: all of them.
        """
        lane = self.lane(stream)
        first = self._needed(lane) - len(lane.frame_ids)
        if lane.options.policy == "lossless" or len(waiting) < first + self.group_frames:
            return waiting
        keep = first if lane.options.on_gap == "bridge" else 1
        return waiting[-keep:]

    def gap(self, stream: str, lost: int = 0) -> list[TokenGroup]:
        """Note that frames are missing before the next one, after a reconnect for example; `lost` of them, if known."""
        lane = self.lane(stream)
        lane.counts["gaps"] += 1
        lane.expected_id = None
        log.warning("stream=%s event=gap lost=%d on_gap=%s", stream, lost, lane.options.on_gap)
        groups = self._reset(lane) if lane.options.on_gap == "reset" else []
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
        return self._reset(lane, pad=tail == "pad")

    def request_keyframe(self, stream: str) -> None:
        """Start a new epoch at the next group boundary."""
        self.lane(stream).requested = True

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
        return self._step(lane)

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
        back = lane.expected_id is not None and item.frame_id < lane.expected_id
        if late or back:
            lane.counts["gaps"] += 1
            log.warning("stream=%s event=restart frame_id=%d capture_ns=%d", lane.name, item.frame_id, item.capture_ns)
            return self._reset(lane)
        if lane.expected_id is not None and item.frame_id > lane.expected_id:
            return self.gap(lane.name, item.frame_id - lane.expected_id)
        lane.counts["gaps"] += restarted
        return []

    def _reset(self, lane: Lane, pad: bool | None = None) -> list[TokenGroup]:
        """End the epoch; what is pending becomes a padded group or is dropped (by policy unless `pad` says)."""
        pad = lane.options.policy == "lossless" if pad is None else pad
        groups = self._encode(lane) if pad and lane.frame_ids else []
        lane.discard_pending()
        lane.fresh, lane.last_capture_ns = True, None
        return groups

    def _keyframe_due(self, lane: Lane, item: Prepared) -> bool:
        interval_ns = round(lane.options.keyframe_interval * 1e9)
        return lane.requested or 0 < interval_ns <= item.capture_ns - lane.keyframe_ns

    def _needed(self, lane: Lane) -> int:
        return 1 if lane.fresh else self.group_frames

    def _append(self, lane: Lane, item: Prepared) -> None:
        # Into the group's buffer as each frame arrives: only the network is left to do for a full group.
        item.planes.copy_to(lane.buffer[0, :, len(lane.frame_ids)])
        lane.frame_ids.append(item.frame_id)
        lane.capture_ns.append(item.capture_ns)
        lane.expected_id, lane.last_capture_ns = item.frame_id + 1, item.capture_ns
        lane.counts["frames"] += 1

    def _encode(self, lane: Lane) -> list[TokenGroup]:
        from streamtok import NonFiniteError

        try:
            return [self._step(lane)]
        except NonFiniteError:
            lane.counts["nonfinite"] += 1
            log.error("stream=%s event=nonfinite frame_ids=%s action=reset", lane.name, lane.frame_ids)
            lane.discard_pending()
            lane.fresh = True
            return []

    def _run(self, lane: Lane, frames: torch.Tensor) -> Any:
        """A step of a lane's encoder; the first one may capture a graph, which cameras must not disturb."""
        if not lane.cold:
            return lane.encoder.step(frames)
        with self._preparing.paused():
            out = lane.encoder.step(frames)
        lane.cold = False
        return out

    def _step(self, lane: Lane) -> TokenGroup:
        """Run the network on the pending frames; the bookkeeping moves on only if it succeeds."""
        need, count = self._needed(lane), len(lane.frame_ids)
        lane.buffer[:, :, count:need] = lane.buffer[:, :, count - 1 : count]
        start = self._timer()
        if lane.fresh:
            lane.encoder.reset()
        out = self._run(lane, lane.buffer[:, :, :need])
        tokens = grid_of(out, self.config)
        encode_ns = self._timer() - start
        keyframe = lane.fresh or not self.config.video  # a decoder of images may start anywhere
        lane.counts["keyframes"] += keyframe
        if lane.fresh:
            lane.epoch += 1
            lane.keyframe_ns, lane.requested = lane.capture_ns[0], False
        group = TokenGroup(
            stream=lane.name,
            tokens=tokens,
            keyframe=keyframe,
            epoch=lane.epoch,
            frame_ids=lane.frame_ids,
            capture_ns=lane.capture_ns,
            dropped=lane.dropped,
            repeated=need - count,
            encode_ns=encode_ns,
            image_size=lane.image_size,
        )
        lane.counts["groups"] += 1
        lane.counts["repeated"] += need - count
        lane.fresh, lane.dropped = False, 0
        lane.clear_pending()
        return group


def dtype_of(config: Any) -> Any:
    """The type that a model's tokens are sent in: "uint16", "uint32" (above 65,536 codes) or "float16" (continuous)."""
    if not config.discrete:
        return "float16"
    return "uint16" if config.codebook_size <= 65536 else "uint32"


def levels_of(config: Any) -> list[int]:
    """Factors of the codebook, as headers carry them; empty for continuous models."""
    if not config.discrete:
        return []
    return list(config.levels) if config.quantizer in ("fsq", "residual_fsq") else [config.codebook_size]


def grid_shape(config: Any, height: int, width: int) -> tuple[int, ...]:
    """Shape of one group's tokens for (height, width) images: (h, w), (Q, h, w) or (C, h, w)."""
    grid = tuple(config.grid(height, width))
    if not config.discrete:
        return config.latent_channels, *grid
    return (config.num_quantizers, *grid) if config.quantizer == "residual_fsq" else grid


def grid_of(out: Any, config: Any) -> np.ndarray:
    """The token grid of a one-slot step's output, in the shape of `grid_shape` and the type of `dtype_of`."""
    if not config.discrete:
        return out.latent[0, :, 0].to(torch.float16).cpu().numpy()
    return out.indices[0].select(-3, 0).cpu().numpy().astype(dtype_of(config))


def device_of(module: torch.nn.Module) -> torch.device:
    """The device that a module's first parameter is on."""
    return next(module.parameters()).device
