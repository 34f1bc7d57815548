"""Step the network for streams of one frame size, together as a batch; most often for one stream alone.

If one slot fills the device (any CPU, and large models on a GPU), every stream steps alone. A smaller model steps all
its cameras at once. The number of slots is fixed, whichever cameras are ready, so the tokens of one camera cannot
depend on the timing of the others. A full group waits a bounded time for the groups of the other cameras. The cameras
start their epochs with frames of the same time, so that groups fill up together.
"""

import logging
import math
import time

import numpy as np
import torch
from torch import Tensor

from streamtok.event_log import EventLog
from streamtok.ingest.lane import Lane
from streamtok.ingest.preparing import Preparing
from streamtok.ingest.token_grid import take_grids
from streamtok.model import Encoded, EncodeStream, NonFiniteError, Tokenizer
from streamtok.model.frames import match_channels, picture_channels
from streamtok.model.quantizer import FSQ
from streamtok.types import Planes

log = logging.getLogger("streamtok.ingest")


class Batch:
    """The encoder of some lanes, its input buffer, and the epochs that the lanes start together.

    `slots` are the lanes in the order of the encoder's slots; one that is None stays idle. `context` is the encoder's,
    None for the model's. Nothing is allocated before the frame size is known. `epoch_ns` is the capture time of the
    frame that started the latest common epoch, in the lane that was first.
    """

    def __init__(self, slots: list[Lane | None], tokenizer: Tokenizer, context: int | None, preparing: Preparing):
        self.slots, self.lanes = slots, [lane for lane in slots if lane is not None]
        self.size: tuple[int, int] | None = None
        self.epoch_ns: int | None = None
        self._tokenizer, self._context, self._preparing = tokenizer, context, preparing
        self._encoder: EncodeStream
        self._frames: Tensor  # (slots, C, G, H, W) uint8, C 3 for RGB and grey
        self._holds = False
        self._cold = True  # the encoder has not stepped yet
        self.events = EventLog(",".join(lane.name for lane in self.lanes), log, "streams")

    def open(self, name: str, size: tuple[int, int]) -> None:
        """Allocate encoder and buffer for images of `size` (H, W); ValueError if other lanes have another size."""
        if self.size == size:
            return
        if self.size is not None and len(self.lanes) > 1:
            others = ", ".join(lane.name for lane in self.lanes if lane.name != name)
            raise ValueError(
                f"stream {name!r} has frames of {size[0]}x{size[1]}, {others} of {self.size[0]}x{self.size[1]}, and "
                "they share a step: give all of them one `size`, or let each step alone (without batch_wait_ms)"
            )
        slots, frames, (height, width) = len(self.slots), self.lanes[0].group_frames, size
        self._encoder = self._tokenizer.stream(
            slots=slots, height=height, width=width, context=self._context or "model"
        )
        self._holds = any(lane.options.hold for lane in self.lanes)
        if self._holds:
            self._encoder.hold(0.0)  # allocates its state before the first step
        shape = slots, picture_channels(self._tokenizer.config.in_channels), frames, height, width
        self._frames = torch.zeros(shape, dtype=torch.uint8, device=self._tokenizer.device)
        self.size, self._cold = size, True
        facts = {"size": f"{height}x{width}", "state_bytes": self._encoder.nbytes}
        self.events.add(time.monotonic_ns(), "allocated", {"times": 1}, logging.INFO, **facts)

    def find_buffer(self, lane: Lane) -> Tensor:
        """The frames of a lane's group, (C, G, H, W) uint8 on the network's device."""
        return self._frames[self.slots.index(lane)]

    def put(self, lane: Lane, planes: Planes) -> None:
        """Copy a frame into its lane's group on arrival, so that a full group needs only the network's step."""
        planes.copy_to(self._frames[self.slots.index(lane), :, len(lane.frame_ids)])

    @property
    def full(self) -> list[Lane]:
        """The lanes with a full group that waits for its step."""
        return [lane for lane in self.lanes if lane.full_ns is not None]

    @property
    def complete(self) -> bool:
        """Whether a group is full and no lane that has not ended is missing."""
        return bool(self.full) and all(lane.full_ns is not None or lane.ended for lane in self.lanes)

    @property
    def full_ns(self) -> float:
        """Since when, in ns, the first of the full groups waits; infinite if there is none."""
        return min((lane.full_ns for lane in self.lanes if lane.full_ns is not None), default=math.inf)

    def warm_up(self) -> None:
        """Step once and reset, so that the first frame does not pay for the set-up. ValueError before `open`."""
        if self.size is None:
            raise ValueError(f"stream {self.lanes[0].name!r} has no size yet: give one, or open it with its source's")
        if self._cold:
            self._step([True] * len(self.slots), [True] * len(self.slots))
            self._encoder.reset()

    def step(self, lanes: list[Lane]) -> tuple[dict[Lane, np.ndarray], NonFiniteError | None]:
        """Run the network on the groups of these lanes; the slots of the others stay as they are.

        A partial group is padded with its last frame. Returns the token grid of each lane, of `grid_shape`, and an
        error or None. A lane whose latent is not finite has no grid, and the error names its slot.
        """
        stepped = {self.slots.index(lane): lane for lane in lanes}
        for slot, lane in stepped.items():
            frames, count = self._frames[slot], len(lane.frame_ids)
            frames[:, count : lane.needed] = frames[:, count - 1 : count]
            if self._holds:
                self._encoder.hold(lane.budget.hold, [slot])
        fresh = [slot for slot, lane in stepped.items() if lane.fresh]
        self._encoder.reset(fresh)
        slots, error = range(len(self.slots)), None
        try:
            out = self._step([slot in stepped for slot in slots], [slot in fresh for slot in slots])
        except NonFiniteError as raised:
            if not isinstance(raised.out, Encoded):
                raise
            out, error = raised.out, raised
        for slot, lane in stepped.items() if self._holds else ():
            margin = 0.0 if lane.fresh else lane.budget.hold
            lane.budget.note_cost(margin, self._measure_noise(out, slot) if margin else 0.0)
        grids, bad = take_grids(out, self._tokenizer.config), [] if error is None else error.slots
        return {lane: grids[slot] for slot, lane in stepped.items() if slot not in bad}, error

    def _measure_noise(self, out: Encoded, slot: int) -> float:
        """The cost of holding levels in a slot: the rise of the latent's quantization noise, dB."""
        quantizer = self._tokenizer.quantizer
        assert isinstance(quantizer, FSQ), type(quantizer)  # others hold nothing
        assert out.indices is not None
        return quantizer.measure_noise(out.latent[slot : slot + 1, :, 0], out.indices[slot])

    def _step(self, active: list[bool], keyframe: list[bool]) -> Encoded:
        """Step the encoder; the first step may capture a CUDA graph, so no camera may use the device meanwhile."""
        frames = match_channels(self._frames, self._tokenizer.config.in_channels)
        if not self._cold:
            return self._encoder.step(frames, active, keyframe)
        with self._preparing.paused():
            out = self._encoder.step(frames, active, keyframe)
        self._cold = False
        return out
