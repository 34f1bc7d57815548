"""Streams of one frame size that share a step of the network; most often one stream alone.

Where one slot fills the device (any CPU, and large models on a GPU) every stream steps alone. A model too small for
that steps all its cameras at once: with a fixed number of slots, whoever is ready, so that the tokens of one cannot
depend on the timing of the others. A full group waits a bounded time for the groups of the other cameras, and the
cameras start their epochs with frames of the same time, so that groups fill up together.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from streamtok.ingest.lane import Lane
from streamtok.ingest.preparing import Preparing

log = logging.getLogger("streamtok.ingest")

MOST_BEHIND = 3  # groups that a camera can be behind: one that is further behind leaves frames out


class Batch:
    """The encoder of some lanes, their frames in its input, and the epochs that they start together.

    `slots` are the lanes in the order of the encoder's slots; one that is None stays idle. `make_stream` is the
    tokenizer's `stream`; nothing is allocated before the frame size is known.
    """

    def __init__(self, slots: list[Lane | None], make_stream: Callable[..., Any], preparing: Preparing):
        self.slots, self.lanes = slots, [lane for lane in slots if lane is not None]
        self.size: tuple[int, int] | None = None
        self._epoch_ns: int | None = None  # when the latest epoch was due that lanes start together
        self._make_stream, self._preparing = make_stream, preparing
        self._encoder: Any = None
        self._buffer: Any = None
        self._cold = True  # the encoder has not stepped yet

    def open(self, name: str, size: tuple[int, int], frames: int, context: int | None, device: torch.device) -> None:
        """Allocate what groups of `frames` images of `size` (H, W) need; ValueError if others have another size."""
        if self.size == size:
            return
        if self.size is not None and len(self.lanes) > 1:
            others = ", ".join(lane.name for lane in self.lanes if lane.name != name)
            raise ValueError(
                f"stream {name!r} has frames of {size[0]}x{size[1]}, {others} of {self.size[0]}x{self.size[1]}, and "
                "they share a step: give all of them one `size`, or let each step alone (without batch_wait_ms)"
            )
        count, (height, width) = len(self.slots), size
        self._encoder = self._make_stream(slots=count, height=height, width=width, context=context or "model")
        self._buffer = torch.zeros(count, 3, frames, height, width, dtype=torch.uint8, device=device)
        self.size, self._cold = size, True
        for lane in self.lanes:
            slot = self.slots.index(lane)
            lane.buffer = self._buffer[slot : slot + 1]
        names = ",".join(lane.name for lane in self.lanes)
        log.info("streams=%s size=%dx%d state_bytes=%d", names, height, width, self._encoder.nbytes)

    @property
    def full(self) -> list[Lane]:
        """The lanes whose group waits to be stepped."""
        return [lane for lane in self.lanes if lane.full_ns is not None]

    @property
    def complete(self) -> bool:
        """Whether there is a full group and nobody to wait for."""
        return bool(self.full) and all(lane.full_ns is not None or lane.ended for lane in self.lanes)

    def start_epoch(self, capture_ns: int) -> None:
        """Note that one lane starts an epoch when it was due, with a frame of this time: the others follow."""
        self._epoch_ns = capture_ns

    def follows(self, lane: Lane, capture_ns: int) -> bool:
        """Whether a lane's next frame, of this time, is the one nearest to the start of the latest common epoch.

        A lane that was cut elsewhere since (it lost frames) is in step with the others from then on. An epoch further
        away than a lane can be behind is not for it: the lane was lost then, or has a clock of its own.
        """
        if self._epoch_ns is None or lane.last_capture_ns is None:
            return False
        between, behind = capture_ns - lane.last_capture_ns, self._epoch_ns - capture_ns
        near = abs(behind) <= MOST_BEHIND * self._buffer.shape[2] * between
        started = self._epoch_ns - lane.keyframe_ns <= between
        return near and not started and behind <= between // 2

    def warm_up(self) -> None:
        """Step once and forget it, so that the first frame does not pay for what is set up. ValueError before
        `open`."""
        if self.size is None:
            raise ValueError(
                f"stream {self.lanes[0].name!r} has no size yet: give it one, or open it with its source's"
            )
        if self._cold:
            self._step([True] * len(self.slots), [True] * len(self.slots))
            self._encoder.reset()

    def step(self, lanes: list[Lane]) -> Any:
        """Run the network on the groups of these lanes; the slots of the others stay as they are.

        Returns what the stream's step does, for all slots. Raises NonFiniteError as it does.
        """
        active = [lane is not None and lane in lanes for lane in self.slots]
        fresh = [lane is not None and lane in lanes and lane.fresh for lane in self.slots]
        self._encoder.reset([slot for slot, starts in enumerate(fresh) if starts])
        return self._step(active, fresh)

    def _step(self, active: list[bool], keyframe: list[bool]) -> Any:
        """The first step may capture a graph, which cameras must not disturb."""
        frames: Tensor = self._buffer
        if not self._cold:
            return self._encoder.step(frames, active, keyframe)
        with self._preparing.paused():
            out = self._encoder.step(frames, active, keyframe)
        self._cold = False
        return out
