"""Measures the network as published code runs it live: stateless, with the whole window encoded again per group."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from streamtok.bench.clips import paint_groups
from streamtok.bench.options import BenchOptions
from streamtok.bench.timing import time_calls
from streamtok.model import Tokenizer
from streamtok.weights.golden import reference_clip


@contextmanager
def _attend_as_published() -> Iterator[None]:
    """On a GPU, compute spatial attention as published code does: two matrix products in the model's precision. What
    PyTorch would choose for this head size is slower, so comparing with it would flatter us."""
    on_gpu, before = torch.cuda.is_initialized(), torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(on_gpu or before)
    try:
        with sdpa_kernel(SDPBackend.MATH) if on_gpu else nullcontext():
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


@_attend_as_published()
def measure_stateless(
    tok: Tokenizer, dtype: torch.dtype, options: BenchOptions, step: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure milliseconds per window, eager and in `dtype`, and the ratios to a step.

    `step` is the result of `measure_latency`. `ratio` and `ratio_cpu` compare wall and CPU time with one camera's step,
    `ratio_eager` with an eager step. A window that does not fit into memory has an `error` instead.
    """
    model = tok.cast(dtype, options.device)
    eager = model.stream(1, *options.size)
    groups = paint_groups(options, 3, model.group)
    eager.step(groups[0], keyframe=[True])
    walls, busy = time_calls(lambda i: eager.step(groups[i % 3]), max(4, options.groups // 5), options.device)
    found: dict[str, Any] = {
        "step_ms": step["ms_per_camera"],
        "step_cpu_ms": step["cpu_ms"] / options.cameras,
        "eager_step_ms": statistics.median(walls),
        "eager_step_cpu_ms": statistics.median(busy),
        "windows": {},
    }
    for window in options.windows:
        entry = found["windows"][str(window)] = _measure_window(model, options, window, found)
        if "ms" in entry:
            say(f"stateless window of {window} frames: {entry['ms']:.1f} ms, {entry['ratio']:.1f} times a step")
    return found


def _measure_window(model: Tokenizer, options: BenchOptions, window: int, steps: dict[str, Any]) -> dict[str, Any]:
    """Measure one window of at most `window` frames (a keyframe and whole groups), and its ratios to the `steps`."""
    clip = reference_clip(1 + (window - 1) // model.group * model.group, *options.size).to(options.device)
    try:
        walls, busy = time_calls(lambda _: model.encode(clip), 3, options.device)
    except torch.cuda.OutOfMemoryError:
        return {"error": "does not fit into the device's memory"}
    ms, cpu_ms = min(walls), min(busy)
    return {
        "ms": ms,
        "cpu_ms": cpu_ms,
        "ratio": ms / steps["step_ms"],
        "ratio_eager": ms / steps["eager_step_ms"],
        "ratio_cpu": cpu_ms / steps["step_cpu_ms"],
    }
