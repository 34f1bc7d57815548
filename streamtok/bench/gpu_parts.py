"""The parts of `gpu_check`: each gives (name, plain values) as it finds them, and prints a short table as it goes."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from streamtok.bench.timing import gpu_peak, kernel_ms, percentiles
from streamtok.config import PRESETS
from streamtok.model import Tokenizer, build

FULL_SIZE = "cosmos-dv4x8x8"
NEAR = 0.1  # by how much fused kernels may agree less with float32 than PyTorch's in the same precision
Entries = Iterator[tuple[str, Any]]


def say(*parts: object) -> None:
    """A line of the running report."""
    print(*parts, flush=True)


def attempt(function: Callable[[], Any]) -> dict[str, Any]:
    """What `function` gives, as a dict; an error is a result like any other, for it must not hide what comes next."""
    try:
        found = function()
    except Exception as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
    return found if isinstance(found, dict) else {"value": found}


def machine() -> Entries:
    """Versions, and the measured ceilings of the device."""
    from streamtok.engine.configuration import triton_version

    facts: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton_version(),
    }
    say(facts)
    yield from facts.items()
    peak = attempt(gpu_peak)
    say(peak)
    yield "peak", peak


def kernels() -> Entries:
    """Every kernel against its reference, in both half precisions."""
    from streamtok.bench.checks import FSQ_TOLERANCE, TOLERANCE, all_checks

    for dtype in (torch.bfloat16, torch.float16):
        for name, check in all_checks("cuda", dtype):
            begin = time.perf_counter()
            entry = attempt(check)
            entry["ok"] = entry.get("value", float("inf")) <= (FSQ_TOLERANCE if name == "fsq" else TOLERANCE[dtype])
            say(name, dtype, entry, f"{time.perf_counter() - begin:.1f} s")
            yield f"{name} {str(dtype).removeprefix('torch.')}", entry


Candidate = tuple[str, Callable[[], object], float]


def tune(deadline: float = float("inf")) -> Entries:
    """Milliseconds of the candidates for the heavy layers of the full-size encoder at 720p, bf16; none begins late."""
    for name, function, tflop in _candidates():
        if time.monotonic() > deadline:
            return
        entry = attempt(partial(kernel_ms, function))
        entry.pop("ok", None)  # a tile that does not fit is no failure
        if "value" in entry:
            entry["tflops"] = round(tflop / entry["value"] * 1000, 1)
        say(name, entry)
        yield name, entry


def _candidates() -> Iterator[Candidate]:
    from streamtok.bench.checks import Case
    from streamtok.engine.gpu.kernels import spatial, temporal

    new = Case("cuda", torch.bfloat16)
    yield from _attention(new)
    count = torch.tensor([5], device="cuda")
    for height, width, channels in ((90, 160, 512), (180, 320, 256)):
        x = new(1, channels, height, width).to(memory_format=torch.channels_last)
        weight, bias = new(channels, channels, 3, 3), new(channels)
        kept = weight.to(memory_format=torch.channels_last)
        shape, work = f"{channels}x{height}x{width}", 2 * height * width * channels**2 * 1e-12
        yield f"conv3x3 cudnn {shape}", lambda x=x, w=kept: F.conv2d(x, w, padding=1), 9 * work
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
        packed, ring = spatial.pack_weight(weight), new(1, 3, height, width, channels)
        taps, residual = new(3, channels, channels), x.clone(memory_format=torch.channels_last)
        for options in TILES:

            def spatial_conv(o=options, p=padded, k=packed, b=bias, r=ring) -> object:
                return spatial.conv3x3(p, k, b, r, count, o)

            def temporal_conv(o=options, r=ring, t=taps, b=bias, s=residual) -> object:
                return temporal.causal_conv(r, count, t, b, 1, residual=s, want_moments=True, options=o)

            name = "x".join(map(str, options.values()))
            yield f"conv3x3 fused {shape} {name}", spatial_conv, 9 * work
            yield f"causal_conv {shape} {name}", temporal_conv, 3 * work


TILES = [
    {"ROWS": 128, "COLUMNS": 256, "num_warps": 8, "num_stages": 4},
    {"ROWS": 128, "COLUMNS": 256, "num_warps": 8, "num_stages": 3},
    {"ROWS": 256, "COLUMNS": 128, "num_warps": 8, "num_stages": 4},
    {"ROWS": 128, "COLUMNS": 128, "num_warps": 4, "num_stages": 3},
    {"ROWS": 128, "COLUMNS": 128, "num_warps": 8, "num_stages": 3},
]


def _attention(new: Callable) -> Iterator[Candidate]:
    from streamtok.engine.gpu.kernels import attention, norm, ring_attention

    length, width = 14400, 512
    q, k, v = new(1, length, 3 * width).chunk(3, -1)
    work = 4 * length**2 * width * 1e-12
    yield "attention flash 64x32 s2", lambda: attention.flash(q, k, v), work
    yield "attention flash 64x64 s1", lambda: attention.flash(q, k, v, columns=64, stages=1), work
    for rows in (3600 // 128 * 128 + 128, 4224, 7296, 14464):
        yield f"attention strips {rows}", lambda rows=rows: attention.strips(q, k, v, rows=rows), work

    def by_parts() -> None:
        for part in q[0].split(1800):
            weights = (part @ k[0].T * width**-0.5).softmax(-1)
            weights @ v[0]

    yield "attention torch, parts of 1800", by_parts, work
    rings = [new(1, length, 32, width) for _ in range(2)]
    count = torch.tensor([40], device="cuda")
    yield "ring context 32", lambda: ring_attention.over_ring(q, k, v, rings[0], rings[1], count), 0.0
    for channels, size in ((256, (180, 320)), (512, (90, 160))):
        x, weight = new(1, channels, *size).to(memory_format=torch.channels_last), new(channels)
        known = norm.moments(x)
        yield f"norm moments {channels}", lambda x=x: norm.moments(x), 0.0
        yield f"norm apply {channels}", lambda x=x, w=weight, m=known: norm.norm_silu(x, w, w, known=m, edge=1), 0.0


def full_size(precision: str = "bfloat16") -> Tokenizer:
    """The full-size 4x8x8 tokenizer with seeded random weights, on the GPU."""
    torch.manual_seed(0)
    return build(PRESETS[FULL_SIZE]).cast(getattr(torch, precision), "cuda")


def step(size: tuple[int, int] = (720, 1280), precision: str = "bfloat16") -> Entries:
    """The full-size encoder step: plain and fused, eager and captured; the profile of the fused one."""
    from streamtok.engine.configuration import EngineConfiguration
    from streamtok.engine.gpu.fused import fuse_model
    from streamtok.engine.gpu.fused_streams import FusedStream
    from streamtok.engine.gpu.graph import free_dead_streams

    model, captured = full_size(precision), {}
    frames = torch.randint(0, 256, (1, 3, 4, *size), dtype=torch.uint8, device="cuda")
    entry = attempt(partial(_time_stream, model.stream(1, *size), frames, 6))
    say("plain eager", entry)
    yield "plain eager", entry
    for over_space in ("flash", "strips"):
        fused = fuse_model(model, over_space)
        for graph in (False, True):
            free_dead_streams()
            configuration = EngineConfiguration(
                device="cuda", precision=precision, graph=graph, kernels="fused", over_space=over_space
            )
            stream = FusedStream(fused, 1, size, 32, configuration)
            name = f"fused {over_space} {'graph' if graph else 'eager'}"
            entry = attempt(partial(_time_stream, stream, frames, 100 if graph else 6))
            say(name, entry)
            yield name, entry
        captured[over_space] = stream
    for over_space, stream in captured.items():  # last of all: what has been profiled once may run slower
        entry = attempt(partial(profile, partial(stream.step, frames)))
        entry.pop("ok", None)  # a machine whose counters cannot be read still passes
        yield f"profile {over_space}", entry


def _time_stream(stream: Any, frames: torch.Tensor, count: int) -> dict[str, Any]:
    from streamtok.bench.timing import time_calls

    torch.cuda.reset_peak_memory_stats()
    stream.step(frames[:, :, :1])
    times, _ = time_calls(lambda _: stream.step(frames), count, "cuda", warm_up=3)
    return percentiles(times) | {
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "state_gib": stream.nbytes / 2**30,
    }


def profile(function: Callable[[], object], calls: int = 3, rows: int = 30) -> list[dict[str, Any]]:
    """Milliseconds per call of each GPU kernel, the longest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    function()
    torch.cuda.synchronize()
    with record(activities=[ProfilerActivity.CUDA]) as run:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
    events = sorted(run.key_averages(), key=lambda event: -event.self_device_time_total)
    table = [
        {"kernel": event.key[:90], "ms": event.self_device_time_total / 1000 / calls, "calls": event.count / calls}
        for event in events[:rows]
    ]
    for row in table:
        say(f"{row['ms']:8.3f} ms {row['calls']:6.1f} calls  {row['kernel']}")
    say(f"{sum(event.self_device_time_total for event in events) / 1000 / calls:8.3f} ms in all")
    return table


def agreement(size: tuple[int, int] = (256, 448), groups: int = 8) -> Entries:
    """Tokens of every precision and engine against float32 run plainly on the GPU, on a moving synthetic scene."""
    from streamtok.engine.configuration import EngineConfiguration
    from streamtok.engine.gpu.fused import fuse_model
    from streamtok.engine.gpu.fused_streams import FusedStream
    from streamtok.weights.golden import reference_clip

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wide, frames = full_size("float32"), reference_clip(4 * groups, *size).to("cuda")

    def tokens(stream: Any) -> torch.Tensor:
        parts = [frames[:, :, max(0, 4 * i - 3) : 4 * i + 1] for i in range(groups)]
        return torch.cat([stream.step(part).indices for part in parts], 1)

    wanted, kept = tokens(wide.stream(1, *size)), {}

    def share(name: str, precision: str, graph: bool | None) -> float:
        model, stream = wide.cast(getattr(torch, precision)), None
        if graph is not None:
            made = EngineConfiguration(device="cuda", precision=precision, graph=graph, kernels="fused")
            stream = FusedStream(fuse_model(model), 1, size, 32, made)
        kept[name] = tokens(stream or model.stream(1, *size))
        return float((kept[name] == wanted).float().mean())

    for precision in ("bfloat16", "float16"):
        for kind, graph in {"plain": None, "fused eager": False, "fused graph": True}.items():
            name = f"{precision} {kind}"
            entry = attempt(partial(share, name, precision, graph))
            if kind == "plain":
                plain = entry.get("value", 0.0)
            elif "value" in entry:
                entry["ok"] = entry["value"] > plain - NEAR
            say(name, entry)
            yield name, entry
        eager, captured = (kept.get(f"{precision} fused {kind}") for kind in ("eager", "graph"))
        same = eager is not None and captured is not None and torch.equal(eager, captured)
        say(precision, "graph equals eager:", same)
        yield f"{precision} graph equals eager", {"ok": same}
