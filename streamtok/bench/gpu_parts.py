"""The parts of `gpu_check`: each returns plain values for one JSON, and prints a short table as it goes."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from streamtok.bench.timing import gpu_peak, kernel_ms, percentiles
from streamtok.config import PRESETS
from streamtok.model import Tokenizer, build

FULL_SIZE = "cosmos-dv4x8x8"


def say(*parts: object) -> None:
    """A line of the running report."""
    print(*parts, flush=True)


def machine() -> dict[str, Any]:
    """Versions, and the measured ceilings of the device."""
    from streamtok.engine.configuration import triton_version

    facts: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(), "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30,
        "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "triton": triton_version(), "peak": gpu_peak(),
    }  # fmt: skip
    say(facts)
    return facts


def kernels() -> dict[str, Any]:
    """Every kernel against its reference, in both half precisions. A failure is recorded, not raised."""
    from streamtok.bench.checks import FSQ_TOLERANCE, TOLERANCE, all_checks

    found: dict[str, Any] = {}
    for dtype in (torch.bfloat16, torch.float16):
        for name, check in all_checks("cuda", dtype):
            begin = time.perf_counter()
            limit = FSQ_TOLERANCE if name == "fsq" else TOLERANCE[dtype]
            entry = _try(check)
            entry["ok"] = entry.get("value", float("inf")) <= limit
            found[f"{name} {str(dtype).removeprefix('torch.')}"] = entry
            say(name, dtype, entry, f"{time.perf_counter() - begin:.1f} s")
    return found


def _try(function: Callable[[], float]) -> dict[str, Any]:
    try:
        return {"value": function()}
    except Exception as error:  # the report goes on: one broken kernel must not hide the others
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def tune(deadline: float = float("inf")) -> dict[str, Any]:
    """Milliseconds of the candidates for the heavy layers of the full-size encoder at 720p, bf16; none begins late."""
    from streamtok.bench.checks import Case
    from streamtok.engine.kernels import spatial, temporal

    new, found = Case("cuda", torch.bfloat16), {}

    def note(name: str, function: Callable[[], object], tflop: float) -> None:
        if time.monotonic() > deadline:
            return
        entry = _try(lambda: kernel_ms(function))
        if "value" in entry:
            entry["tflops"] = round(tflop / entry["value"] * 1000, 1)
        found[name] = entry
        say(name, entry)

    _tune_attention(new, note)
    count = torch.tensor([5], device="cuda")
    for height, width, channels in ((90, 160, 512), (180, 320, 256)):
        x = new(1, channels, height, width).to(memory_format=torch.channels_last)
        weight, bias = new(channels, channels, 3, 3), new(channels)
        kept = weight.to(memory_format=torch.channels_last)
        shape, work = f"{channels}x{height}x{width}", 2 * height * width * channels**2 * 1e-12
        note(f"conv3x3 cudnn {shape}", lambda x=x, w=kept: F.conv2d(x, w, padding=1), 9 * work)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
        packed, ring = spatial.pack_weight(weight), new(1, 3, height, width, channels)
        taps, residual = new(3, channels, channels), x.clone(memory_format=torch.channels_last)
        for options in TILES:

            def spatial_conv(o=options, p=padded, k=packed, b=bias, r=ring) -> object:
                return spatial.conv3x3(p, k, b, r, count, o)

            def temporal_conv(o=options, r=ring, t=taps, b=bias, s=residual) -> object:
                return temporal.causal_conv(r, count, t, b, 1, 1, s, True, o)

            name = "x".join(map(str, options.values()))
            note(f"conv3x3 fused {shape} {name}", spatial_conv, 9 * work)
            note(f"causal_conv {shape} {name}", temporal_conv, 3 * work)
    return found


TILES = [
    {"ROWS": 128, "COLUMNS": 256, "num_warps": 8, "num_stages": 4},
    {"ROWS": 128, "COLUMNS": 256, "num_warps": 8, "num_stages": 3},
    {"ROWS": 256, "COLUMNS": 128, "num_warps": 8, "num_stages": 4},
    {"ROWS": 128, "COLUMNS": 128, "num_warps": 4, "num_stages": 3},
    {"ROWS": 128, "COLUMNS": 128, "num_warps": 8, "num_stages": 3},
]


def _tune_attention(new: Callable, note: Callable) -> None:
    from streamtok.engine.kernels import attention, norm

    length, width = 14400, 512
    q, k, v = new(1, length, 3 * width).chunk(3, -1)
    work = 4 * length**2 * width * 1e-12
    note("attention flash 64x32 s2", lambda: attention.flash(q, k, v), work)
    note("attention flash 64x64 s1", lambda: attention.flash(q, k, v, columns=64, stages=1), work)
    for rows in (3600 // 128 * 128 + 128, 4224, 7296, 14464):
        note(f"attention strips {rows}", lambda rows=rows: attention.strips(q, k, v, rows=rows), work)

    def by_parts() -> None:
        for part in q[0].split(1800):
            weights = (part @ k[0].T * width**-0.5).softmax(-1)
            weights @ v[0]

    note("attention torch, parts of 1800", by_parts, work)
    rings = [new(1, length, 32, width) for _ in range(2)]
    count = torch.tensor([40], device="cuda")
    note(
        "ring context 32 (TFLOP/s is meaningless)", lambda: attention.over_ring(q, k, v, rings[0], rings[1], count), 0.0
    )
    for channels, size in ((256, (180, 320)), (512, (90, 160))):
        x, weight = new(1, channels, *size).to(memory_format=torch.channels_last), new(channels)
        known = norm.moments(x)
        note(f"norm moments {channels}", lambda x=x: norm.moments(x), 0.0)
        note(f"norm apply {channels}", lambda x=x, w=weight, m=known: norm.norm_silu(x, w, w, known=m, edge=1), 0.0)


def full_size(precision: str = "bfloat16") -> Tokenizer:
    """The full-size 4x8x8 tokenizer with seeded random weights, on the GPU."""
    torch.manual_seed(0)
    return build(PRESETS[FULL_SIZE]).cast(getattr(torch, precision), "cuda")


def step(size: tuple[int, int] = (720, 1280), precision: str = "bfloat16") -> dict[str, Any]:
    """The full-size encoder step: plain and fused, eager and captured; the profile of the fused one."""
    from streamtok.engine.configuration import EngineConfiguration
    from streamtok.engine.fused import fuse
    from streamtok.engine.streams import FusedStream

    model, found = full_size(precision), {}
    frames = torch.randint(0, 256, (1, 3, 4, *size), dtype=torch.uint8, device="cuda")
    plain = model.stream(1, *size)
    found["plain eager"] = _time_stream(plain, frames, 6)
    say("plain eager", found["plain eager"])
    del plain
    for over_space in ("flash", "strips"):
        fused = fuse(model, over_space)
        for graph in (False, True):
            configuration = EngineConfiguration(
                device="cuda", precision=precision, graph=graph, kernels="fused", over_space=over_space
            )
            stream = FusedStream(fused, 1, size, 32, configuration)
            name = f"fused {over_space} {'graph' if graph else 'eager'}"
            found[name] = _time_stream(stream, frames, 100 if graph else 6)
            say(name, found[name])
            if graph:
                found[f"profile {over_space}"] = profile(lambda s=stream: s.step(frames))
            del stream
            torch.cuda.empty_cache()
    return found


def _time_stream(stream: Any, frames: torch.Tensor, count: int) -> dict[str, Any]:
    from streamtok.bench.timing import call_times_ms

    torch.cuda.reset_peak_memory_stats()
    stream.step(frames[:, :, :1])
    times = call_times_ms(lambda: stream.step(frames), count, "cuda")
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


def agreement(size: tuple[int, int] = (256, 448), groups: int = 8) -> dict[str, Any]:
    """Tokens of every precision and engine against float32 run plainly on the GPU, on a moving synthetic scene."""
    from streamtok.engine.configuration import EngineConfiguration
    from streamtok.engine.fused import fuse
    from streamtok.engine.precision import moving_scene
    from streamtok.engine.streams import FusedStream

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wide, found = full_size("float32"), {}
    frames = moving_scene(size, 4 * groups).to("cuda")
    streams = {"float32": wide.stream(1, *size)}
    for precision in ("bfloat16", "float16"):
        model = wide.cast(getattr(torch, precision))
        streams[f"{precision} plain"] = model.stream(1, *size)
        for graph in (False, True):
            configuration = EngineConfiguration(device="cuda", precision=precision, graph=graph, kernels="fused")
            name = f"{precision} fused {'graph' if graph else 'eager'}"
            streams[name] = FusedStream(fuse(model), 1, size, 32, configuration)
    tokens: dict[str, list] = {name: [] for name in streams}
    for i in range(groups):
        for name, stream in streams.items():
            group = frames[:, :, 4 * i : 4 * i + 4]
            tokens[name].append(stream.step(group[:, :, :1] if i == 0 else group).indices)
    joined = {name: torch.cat(parts, 1) for name, parts in tokens.items()}
    for name, found_tokens in joined.items():
        found[name] = float((found_tokens == joined["float32"]).float().mean())
    for precision in ("bfloat16", "float16"):
        pair = joined[f"{precision} fused eager"], joined[f"{precision} fused graph"]
        found[f"{precision} graph equals eager"] = bool(torch.equal(*pair))
    say(found)
    return found
