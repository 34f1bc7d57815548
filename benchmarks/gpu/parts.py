"""The parts of `gpu_check`: each yields (name, plain values) as it measures them."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from streamtok.bench.clips import encode_by_steps
from streamtok.bench.roofline import measure_peak
from streamtok.bench.timing import percentiles, time_calls
from streamtok.config import PRESETS
from streamtok.engine.configuration import EngineConfiguration, triton_version
from streamtok.engine.gpu.graph import free_dead_streams
from streamtok.model import EncodeStream, Tokenizer, build
from streamtok.weights.golden import reference_clip

FULL_SIZE = "cosmos-dv4x8x8"
HD_SIZE = 720, 1280
PROFILED_CALLS, PROFILED_ROWS = 3, 30
NEAR = 0.1  # how much less fused kernels may agree with float32 than PyTorch's in the same precision
Entries = Iterator[tuple[str, Any]]


def say(*parts: object) -> None:
    """Print a line of progress."""
    print(*parts, flush=True)


def attempt(function: Callable[[], Any]) -> dict[str, Any]:
    """The result of `function` as a dict; an error becomes a result, so that later measurements still run."""
    try:
        found = function()
    except Exception as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
    return found if isinstance(found, dict) else {"value": found}


def report_machine() -> Entries:
    """Report versions, and the measured peaks of the device."""
    facts: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton_version(),
    }
    yield from facts.items()
    yield "peak", attempt(partial(measure_peak, torch.bfloat16, "cuda"))


def check_kernels() -> Entries:
    """Check every kernel against its reference, in both half precisions."""
    from benchmarks.gpu.kernels import FSQ_TOLERANCE, TOLERANCE, all_checks

    for dtype in (torch.bfloat16, torch.float16):
        for name, check in all_checks("cuda", dtype):
            begin = time.perf_counter()
            entry = attempt(check)
            entry["ok"] = entry.get("value", float("inf")) <= (FSQ_TOLERANCE if name == "fsq" else TOLERANCE[dtype])
            entry["seconds"] = round(time.perf_counter() - begin, 1)
            yield f"{name} {str(dtype).removeprefix('torch.')}", entry


def build_full_size(precision: str) -> Tokenizer:
    """Build the full-size 4x8x8 tokenizer with seeded random weights, on the GPU."""
    torch.manual_seed(0)
    return build(PRESETS[FULL_SIZE]).cast(getattr(torch, precision), "cuda")


def open_fused(
    model: Tokenizer, size: tuple[int, int], precision: str, graph: bool, over_space: str = "flash"
) -> EncodeStream:
    """Open a stream of one slot on fused kernels, captured in a CUDA graph if `graph`."""
    from streamtok.engine.gpu.fused import fuse_model
    from streamtok.engine.gpu.fused_streams import FusedStream

    configuration = EngineConfiguration("cuda", "", precision, graph=graph, kernels="fused", over_space=over_space)
    return FusedStream(fuse_model(model, over_space), 1, size, 32, configuration)


def time_step() -> Entries:
    """Time the full-size encoder step in bfloat16 at 720p: plain and fused, eager and captured; profile the fused."""
    model, captured = build_full_size("bfloat16"), {}
    frames = torch.randint(0, 256, (1, 3, 4, *HD_SIZE), dtype=torch.uint8, device="cuda")
    yield "plain eager", attempt(partial(_time_stream, model.stream(1, *HD_SIZE), frames, 6))
    for over_space in ("flash", "strips"):
        for graph in (False, True):
            free_dead_streams()
            captured[over_space] = stream = open_fused(model, HD_SIZE, "bfloat16", graph, over_space)
            name = f"fused {over_space} {'graph' if graph else 'eager'}"
            yield name, attempt(partial(_time_stream, stream, frames, 100 if graph else 6))
    for over_space, stream in captured.items():  # last, since profiling may slow down later runs
        entry = attempt(partial(profile_kernels, partial(stream.step, frames)))
        entry.pop("ok", None)  # a machine whose counters cannot be read passes all the same
        yield f"profile {over_space}", entry


def _time_stream(stream: EncodeStream, frames: Tensor, count: int) -> dict[str, Any]:
    """Measure milliseconds and memory of `count` steps of one group, uint8 (1, 3, G, H, W) on the GPU."""
    torch.cuda.reset_peak_memory_stats()
    stream.step(frames[:, :, :1])
    times, _ = time_calls(lambda _: stream.step(frames), count, "cuda", warm_up=3)
    return percentiles(times) | {
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "state_gib": stream.nbytes / 2**30,
    }


def profile_kernels(function: Callable[[], object]) -> list[dict[str, Any]]:
    """Milliseconds per call of the GPU kernels that take longest, the longest first."""
    function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as run:
        for _ in range(PROFILED_CALLS):
            function()
        torch.cuda.synchronize()
    events = sorted(run.key_averages(), key=lambda event: -event.self_device_time_total)
    table = [
        {
            "kernel": event.key[:90],
            "ms": event.self_device_time_total / 1000 / PROFILED_CALLS,
            "calls": event.count / PROFILED_CALLS,
        }
        for event in events[:PROFILED_ROWS]
    ]
    for row in table:
        say(f"{row['ms']:8.3f} ms {row['calls']:6.1f} calls  {row['kernel']}")
    say(f"{sum(event.self_device_time_total for event in events) / 1000 / PROFILED_CALLS:8.3f} ms in all")
    return table


def measure_agreement() -> Entries:
    """Compare the tokens of every precision and engine with plain float32 on the GPU, on a moving synthetic scene."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wide = build_full_size("float32")
    clip = reference_clip(1 + 7 * wide.group, 256, 448).to("cuda")
    wanted = encode_by_steps(wide.stream(1, 256, 448), clip)[1]
    for precision in ("bfloat16", "float16"):
        yield from _compare_precision(wide.cast(getattr(torch, precision)), precision, clip, wanted)


def _compare_precision(model: Tokenizer, precision: str, clip: Tensor, wanted: Tensor) -> Entries:
    """The shares of a clip's tokens (1, T', h, w) that are as wanted: plain, fused, and fused in a graph."""
    size = (clip.shape[-2], clip.shape[-1])
    kinds: dict[str, Callable[[], EncodeStream]] = {
        "plain": partial(model.stream, 1, *size),
        "fused eager": partial(open_fused, model, size, precision, False),
        "fused graph": partial(open_fused, model, size, precision, True),
    }
    found: dict[str, Tensor] = {}

    def share_equal(kind: str) -> float:
        found[kind] = encode_by_steps(kinds[kind](), clip)[1]
        return float((found[kind] == wanted).float().mean())

    plain = 0.0
    for kind in kinds:
        entry = attempt(partial(share_equal, kind))
        if kind == "plain":
            plain = entry.get("value", 0.0)
        elif "value" in entry:
            entry["ok"] = entry["value"] > plain - NEAR
        yield f"{precision} {kind}", entry
    eager, graph = found.get("fused eager"), found.get("fused graph")
    same = eager is not None and graph is not None and torch.equal(eager, graph)
    yield f"{precision} graph equals eager", {"ok": same}
