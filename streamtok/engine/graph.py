"""A step as one CUDA graph: captured once, replayed per group; frames, masks and resets are data.

Where one slot fills the device every slot has a graph of its own, all in one memory pool, and only ready slots run. A
model too small for that has one graph over all of its slots.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger("streamtok.engine")

WARM_UPS = 3  # kernels are compiled and libraries set up before the capture, which allows neither


class EngineError(RuntimeError):
    """The engine cannot run as configured; the message says what it needed and what to lower."""


def gib(count: float) -> str:
    """Bytes as text, in GiB."""
    return f"{count / 2**30:.2f} GiB"


class CapturedStep:
    """A step function over fixed buffers.

    `function(frames, active, keyframe)` -> (any structure of tensors, moved). A call copies its arguments into the
    buffers, replays, and returns the output buffers, which the next call overwrites.
    """

    def __init__(self, function: Callable, frames: Tensor, pool: tuple | None = None):
        slots, device = frames.shape[0], frames.device
        self.frames = torch.zeros_like(frames, memory_format=torch.contiguous_format)
        self.masks = torch.zeros(2, slots, dtype=torch.bool, device=device)
        self.graph = torch.cuda.CUDAGraph()
        self.output = self._capture(function, pool)

    def _capture(self, function: Callable, pool: tuple | None) -> tuple:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):  # no slot is active, so nothing moves
                    function(self.frames, self.masks[0], self.masks[1])
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self.graph, pool=pool):
                return function(self.frames, self.masks[0], self.masks[1])
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError(_no_room(error)) from error
        except RuntimeError as error:
            raise EngineError(
                f"the step could not be captured as a CUDA graph: {error}. Run it without: engine 'eager' "
                "(same tokens within the stated tolerance, slower), and report the message"
            ) from error

    def __call__(self, frames: Tensor, active: Tensor | bool, keyframe: Tensor | bool) -> tuple:
        self.frames.copy_(frames, non_blocking=True)
        self.masks[0].copy_(active) if isinstance(active, Tensor) else self.masks[0].fill_(active)
        self.masks[1].copy_(keyframe) if isinstance(keyframe, Tensor) else self.masks[1].fill_(keyframe)
        self.graph.replay()
        return self.output


def _no_room(error: Exception) -> str:
    free, total = torch.cuda.mem_get_info()
    return (
        f"the step did not fit into the GPU's memory: {gib(torch.cuda.max_memory_allocated())} were in use at the most, "
        f"{gib(free)} of {gib(total)} are free now ({error}). Lower the frame size, the number of slots or `context`, or "
        "use float16 or bfloat16"
    )


def check_room(needed: int, what: str) -> None:
    """EngineError before allocating if `needed` bytes are more than the GPU has free."""
    free, total = torch.cuda.mem_get_info()
    free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if needed > free:
        raise EngineError(
            f"{what} needs {gib(needed)}, {gib(free)} of the GPU's {gib(total)} are free; lower the number of slots, "
            "`context` or the frame size, or use float16 or bfloat16"
        )
