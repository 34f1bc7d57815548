"""Captures a step as a CUDA graph, replayed for each group; frames, masks and resets are data.

If one slot fills the device, every slot has its own graph, all in one memory pool, and only ready slots run. A model
too small for that has one graph over all of its slots.
"""

import contextlib
import gc
import threading
from dataclasses import fields, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from streamtok.engine.configuration import EngineError
from streamtok.model.stream import Step

if TYPE_CHECKING:
    from torch.cuda.graphs import _POOL_HANDLE

T = TypeVar("T")

CAPTURE_MODE = "thread_local"  # other threads may upload frames during a capture
WARM_UPS = 3  # steps before the capture, which may neither compile kernels nor set up libraries
_ONE_AT_A_TIME = threading.Lock()  # PyTorch captures on one stream for all threads
_FAILED: list[Any] = []  # graphs whose capture failed: the allocator of pinned memory may still refer to them


def format_gib(count: float) -> str:
    """Bytes as text, in GiB."""
    return f"{count / 2**30:.2f} GiB"


class GraphPool:
    """Device memory shared by the graphs of one model, which run one at a time and whose outputs are copied at once.

    It is allocated at its first use. It holds a graph itself: the allocator refuses a pool without any graph.
    """

    @cached_property
    def handle(self) -> "_POOL_HANDLE":
        """PyTorch's handle of the pool."""
        handle = torch.cuda.graph_pool_handle()
        self._anchor = torch.cuda.CUDAGraph()
        with _ONE_AT_A_TIME, torch.cuda.graph(self._anchor, pool=handle, capture_error_mode=CAPTURE_MODE):
            torch.zeros(1, device="cuda")
        return handle


class CapturedStep:
    """A step function over fixed buffers.

    `function(frames, active, keyframe)` -> (any structure of tensors, moved). A call copies its arguments into the
    buffers, replays, and returns the output buffers, which the next call overwrites.
    """

    def __init__(self, function: Step, frames: Tensor, pool: "_POOL_HANDLE | None" = None):
        slots, device = frames.shape[0], frames.device
        self.frames = torch.zeros_like(frames, memory_format=torch.contiguous_format)
        self.masks = torch.zeros(2, slots, dtype=torch.bool, device=device)
        self.graph = torch.cuda.CUDAGraph()
        self.pool = pool or torch.cuda.graph_pool_handle()
        with _ONE_AT_A_TIME:
            self.output = self._capture(function)

    def _capture(self, function: Step) -> tuple:
        before, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(before)
        try:
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):  # no slot is active, so nothing moves
                    function(self.frames, self.masks[0], self.masks[1])
            before.wait_stream(side)
            with torch.cuda.graph(self.graph, pool=self.pool, capture_error_mode=CAPTURE_MODE):
                return function(self.frames, self.masks[0], self.masks[1])
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError(_describe_shortage(error)) from error
        except RuntimeError as error:
            self._abandon(before)
            raise EngineError(
                f"the step could not be captured as a CUDA graph: {error}. Run it without: engine 'eager' "
                "(same tokens within the stated tolerance, slower), and report the message"
            ) from error

    def _abandon(self, before: torch.cuda.Stream) -> None:
        """Restore what PyTorch leaves changed after a failed capture: the current stream and the allocator.

        The allocator expects the capture to go on: it allows no other, and frees nothing that two streams have used.
        """
        torch.cuda.set_stream(before)
        self.graph.reset()
        _FAILED.append(self.graph)
        with contextlib.suppress(RuntimeError):  # if it failed before the capture began, or after it ended
            torch._C._cuda_endAllocateToPool(before.device_index, self.pool)
            torch._C._cuda_releasePool(before.device_index, self.pool)

    def __call__(self, frames: Tensor, active: Tensor | bool, keyframe: Tensor | bool) -> tuple:
        """frames (S, 3, G, H, W), active and keyframe (S,) bool, or one bool for all -> output, moved."""
        self.frames.copy_(frames, non_blocking=True)
        self.masks[0].copy_(active) if isinstance(active, Tensor) else self.masks[0].fill_(active)
        self.masks[1].copy_(keyframe) if isinstance(keyframe, Tensor) else self.masks[1].fill_(keyframe)
        self.graph.replay()
        return self.output


def free_dead_streams() -> None:
    """Free the GPU memory of unused streams: they are reference cycles, so it takes a garbage collection."""
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _describe_shortage(error: Exception) -> str:
    free, total = torch.cuda.mem_get_info()
    return (
        f"the step did not fit into the GPU's memory: {format_gib(torch.cuda.max_memory_allocated())} were in use at "
        f"most, {format_gib(free)} of {format_gib(total)} are free now ({error}). Lower the frame size, the number of "
        "slots or `context`, or use float16 or bfloat16"
    )


def check_room(needed: int, what: str) -> None:
    """EngineError before allocating if `needed` bytes are more than the GPU has free."""
    free, total = torch.cuda.mem_get_info()
    free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if needed > free:
        raise EngineError(
            f"{what} needs {format_gib(needed)}, {format_gib(free)} of the GPU's {format_gib(total)} are free; lower "
            "the number of slots, `context` or the frame size, or use float16 or bfloat16"
        )


def capture_step(step: Step) -> Step:
    """A `CompileStep` for any stream on a GPU: one graph over all of its slots, captured at the first step."""
    graphs: dict[tuple, CapturedStep] = {}

    def run(x: Tensor, active: Tensor, keyframe: Tensor) -> tuple:
        """x (S, 3, G, H, W), active and keyframe (S,) bool -> what `step` gives."""
        key = (tuple(x.shape), x.dtype)
        if key not in graphs:
            graphs[key] = CapturedStep(step, x)
        return copy_output(graphs[key](x, active, keyframe))

    return run


def copy_output(value: T) -> T:
    """A copy of a tensor, or of a tuple or dataclass of tensors, that no later step overwrites."""
    copied: Any = value
    if isinstance(value, Tensor):
        copied = value.clone()
    elif isinstance(value, tuple):
        copied = tuple(copy_output(item) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        copied = replace(value, **{item.name: copy_output(getattr(value, item.name)) for item in fields(value)})
    return copied
