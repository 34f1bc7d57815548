"""Rates, latencies and ratios of one model on one machine; every comparison is made in the same run.

`run` returns plain values in one schema (SCHEMA lists the sections) that `report` prints and plots.
"""

import gc
import resource
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from streamtok.bench.precisions import describe_trials, read_clip
from streamtok.bench.timing import percentiles, time_calls
from streamtok.engine.configuration import EngineConfiguration, EngineError, inspect_machine
from streamtok.engine.gpu.graph import free_dead_streams
from streamtok.engine.optimized import OptimizedTokenizer, apply_configuration, memory_needed
from streamtok.engine.precision import (
    GROUPS,
    cpu_has_int8,
    format_table,
    list_candidates,
    measure_kinds,
    pick_configuration,
    plan_precision,
    try_precisions,
)
from streamtok.model import Tokenizer
from streamtok.weights.golden import reference_clip

SCHEMA = 1
SECTIONS = (
    "start",
    "machine",
    "engine",
    "precisions",
    "latency",
    "shared_step",
    "decode",
    "stateless",
    "roofline",
    "stages",
    "steady",
    "end_to_end",
)


@dataclass(frozen=True)
class BenchOptions:
    """What to measure: frame size, cameras, precision ("auto" measures all), device, timed groups, frames of the
    stateless windows, steady-state groups (0: none), whether to measure from capture to subscriber, whether to compare
    the precision with float32, the source of the clip for that (None: a synthetic scene), whether to measure the start
    of a node, and the name or folder that the model was loaded by (None: the node loads a copy)."""

    size: tuple[int, int] = (256, 448)
    cameras: int = 1
    precision: str = "auto"
    device: str = "cpu"
    fps: float = 30.0
    groups: int = 50
    windows: tuple[int, ...] = (17, 33, 49)
    steady: int = 0
    end_to_end: bool = False
    compare: bool = True
    clip: str | None = None
    start: bool = False
    model: str | None = None


def run(tok: Tokenizer, options: BenchOptions, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measure `tok` as the options say. Returns {"schema", "model", "options", and the sections that were run}."""
    *_, report = growing(tok, options, say)
    return report


def growing(tok: Tokenizer, options: BenchOptions, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The report of `run` after each section."""
    report: dict[str, Any] = {"schema": SCHEMA, "model": tok.config.name, "options": asdict(options)}
    for name, section in sections(tok, options, say):
        report[name] = section
        yield report
        free_dead_streams()


def sections(tok: Tokenizer, options: BenchOptions, say: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    """The sections of `run`, by name, as they are measured."""
    machine = inspect_machine(tok.fingerprint, options.size, options.device)
    if options.start:  # before this process has any work, or memory of the device
        from streamtok.bench.start import start

        found = start(tok, options.size, options.device, options.fps, options.model)
        say(f"start to first token: {found['second_ms']:.0f} ms, the second on this machine")
        yield "start", found
    engine, compared = precisions(tok, machine, options, say)
    yield "precisions", compared
    fast = apply_configuration(tok, engine)
    yield "machine", describe_machine(options.device)
    yield "engine", engine.to_dict() | {"memory": memory_needed(fast, options.cameras, options.size)}
    step = latency(fast, options)
    say(f"latency: {step['p50_ms']:.2f} ms per group at the median")
    yield "latency", step
    if options.cameras > 1:
        yield "shared_step", shared_step(tok, engine, options)
    yield "decode", decode(fast, options, step)
    yield "stateless", stateless(tok, fast, options, step, say)
    yield "roofline", roofline(fast, options, step["p50_ms"])
    yield "stages", stages(fast, options)
    if options.steady:
        yield "steady", steady(fast, options)
    if options.end_to_end:
        from streamtok.bench.end_to_end import end_to_end

        found = end_to_end(tok, engine, options.size, options.cameras, options.fps, name=options.model)
        yield "end_to_end", found


def precisions(
    tok: Tokenizer,
    machine: EngineConfiguration,
    options: BenchOptions,
    say: Callable[[str], None],
    groups: int = GROUPS,
) -> tuple[EngineConfiguration, dict[str, Any]]:
    """The engine to measure, and what its precision and the others that were tried cost and change on one clip."""
    auto = options.precision == "auto"
    clip = read_clip(options.clip, options.size, 1 + (groups - 1) * tok.group)
    if not (auto or options.compare):
        return measure_kinds(tok, plan_precision(tok, machine, options.precision), clip, groups)[0], {}
    names = list_candidates(options.device) if auto else [options.precision]
    shown = ["int8"] if auto and options.device == "cpu" and cpu_has_int8() else []  # to compare: auto never takes it
    trials = try_precisions(tok, machine, [*names, *shown], clip, groups)
    engine = pick_configuration(tok, trials, names, clip) if auto else trials[options.precision].configuration
    for line in format_table(trials, engine.precision):
        say(line)
    agreement = {name: trial.agreement for name, trial in trials.items()}
    return replace(engine, agreement=agreement), describe_trials(tok, trials, clip, options.device)


def describe_machine(device: str) -> dict[str, Any]:
    """The device's name, versions and threads."""
    facts = inspect_machine("", (0, 0), device)
    return {
        "device": device,
        "name": facts.device_name,
        "torch": facts.torch_version,
        "triton": facts.triton_version,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda or "",
    }


def _clip(options: BenchOptions, groups: int, group: int) -> list[Tensor]:
    """Groups (cameras, 3, G, H, W) uint8 on the device, the same for every camera."""
    scene = reference_clip(groups * group, *options.size).to(options.device)
    return [part.expand(options.cameras, -1, -1, -1, -1).contiguous() for part in scene.split(group, 2)]


def latency(fast: OptimizedTokenizer, options: BenchOptions) -> dict[str, Any]:
    """Milliseconds per step of all cameras, frames on the device to tokens on the host, and what that is per second.

    `cpu_ms` is the processor time of a step over all threads: what it costs on a machine that has other work too.
    """
    stream = fast.stream(options.cameras, *options.size)
    groups = _clip(options, 4, fast.group)
    stream.step(groups[0], keyframe=[True] * options.cameras)
    for group in groups[1:]:
        stream.step(group)
    times, busy = time_calls(lambda i: _to_host(stream.step(groups[i % 4])), options.groups, options.device)
    found = percentiles(times)
    budget = 1000 * fast.group / options.fps
    return found | {
        "cameras": options.cameras,
        "cpu_ms": statistics.median(busy),
        "ms_per_camera": found["p50_ms"] / options.cameras,
        "frames_per_s": 1000 * fast.group * options.cameras / found["mean_ms"],
        "share_of_group_time": found["p50_ms"] / budget,
        "peak_bytes": torch.cuda.max_memory_allocated() if options.device == "cuda" else 0,
    }


def shared_step(tok: Tokenizer, engine: EngineConfiguration, options: BenchOptions) -> dict[str, Any]:
    """As `latency`, all cameras in one step of the network (`batch_wait_ms` of a rig); `kernels` says on which layers,
    since those of the CPU step one slot at a time."""
    kernels = "plain" if engine.kernels == "interleaved" else engine.kernels
    together = apply_configuration(tok, replace(engine, kernels=kernels, slots_per_step=options.cameras))
    try:
        return latency(together, options) | {"kernels": kernels}
    except (EngineError, torch.cuda.OutOfMemoryError) as error:
        return {"kernels": kernels, "error": str(error)}


def decode(fast: OptimizedTokenizer, options: BenchOptions, step: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of one camera's group from tokens to float frames, and the share of a group's time that a step of
    one camera (`step` is what `latency` found) and this take together."""
    encoder, grid = fast.stream(1, *options.size), fast.config.grid(*options.size)
    decoder = fast.decode_stream(1, *grid)
    groups = _clip(replace(options, cameras=1), 3, fast.group)
    outs = [encoder.step(group, keyframe=[i == 0]) for i, group in enumerate(groups)]
    codes = [out.latent if out.indices is None else out.indices for out in outs]
    decoder.step(codes[0], keyframe=[True])
    times, busy = time_calls(lambda i: decoder.step(codes[1 + i % 2]), max(4, options.groups // 2), options.device)
    found = percentiles(times)
    both = step["ms_per_camera"] + found["p50_ms"]
    return found | {
        "cpu_ms": statistics.median(busy),
        "share_with_encoding": both / (1000 * fast.group / options.fps),
    }


def _to_host(out: Any) -> Tensor:
    """Tokens as published: uint16 on the host (float16 latents of continuous models)."""
    return out.latent.half().cpu() if out.indices is None else out.indices.to(torch.uint16).cpu()


@contextmanager
def _attention_as_published() -> Iterator[None]:
    """On a GPU, attention over space as published code has it: two matrix products in the model's precision, the matrix
    held. What PyTorch would choose for this head size is slower, and a comparison with that would flatter us."""
    on_gpu, before = torch.cuda.is_initialized(), torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(on_gpu or before)
    try:
        with sdpa_kernel(SDPBackend.MATH) if on_gpu else nullcontext():
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


@_attention_as_published()
def stateless(
    tok: Tokenizer, fast: OptimizedTokenizer, options: BenchOptions, step: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """The same network as published code is used live: the whole window again for every group, eager, same precision.

    `step` is what `latency` found. Per window: milliseconds, the ratio to one camera's step and to an eager step, and
    the ratio of processor time. A window that does not fit into memory is named so.
    """
    model = tok.cast(fast.dtype, options.device)
    eager = model.stream(1, *options.size)
    groups = _clip(replace(options, cameras=1), 3, model.group)
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
        count = 1 + (window - 1) // model.group * model.group
        clip = reference_clip(count, *options.size).to(options.device)
        try:
            walls, busy = time_calls(lambda _, clip=clip: model.encode(clip), 3, options.device)  # type: ignore[misc]
        except torch.cuda.OutOfMemoryError:
            found["windows"][str(window)] = {"error": "does not fit into the device's memory"}
            continue
        entry = {"ms": min(walls), "cpu_ms": min(busy)}
        entry |= {"ratio": entry["ms"] / found["step_ms"], "ratio_eager": entry["ms"] / found["eager_step_ms"]}
        entry |= {"ratio_cpu": entry["cpu_ms"] / found["step_cpu_ms"]}
        found["windows"][str(window)] = entry
        say(f"stateless window of {window} frames: {entry['ms']:.1f} ms, {entry['ratio']:.1f} times a step")
    return found


def count_work(tok: Tokenizer, size: tuple[int, int]) -> dict[str, float]:
    """FLOPs of one group of one camera, and the least bytes that must move: weights, state read, new state written."""
    from streamtok.model import build
    from streamtok.model.costs import flop_counter
    from streamtok.model.state import Clock, StateSpec, flatten

    with torch.device("meta"):
        plain = build(tok.config)
        spec = StateSpec(1, tok.config.context, torch.float32, torch.device("meta"))
        state = plain.init_state(spec, *size)
        frames = torch.zeros(1, 3, tok.group, *size)
        with flop_counter() as counter, torch.no_grad():
            plain.encode_groups(frames, state, Clock(torch.ones(1, dtype=torch.long), tok.config.context))
    encoder = sum(parameter.numel() for parameter in plain.encoder.parameters())
    width = tok.dtype.itemsize
    # all of the state is read; of rings of keys and values one step is written, of convolutions' pasts the newer half
    moved = sum(
        tensor.numel() * (1 + (1 / spec.context if name.endswith((".key", ".value")) else 0.5))
        for name, tensor in flatten(state).items()
    )
    return {"flops": float(counter.get_total_flops()), "bytes": float(width * (encoder + moved) + frames.numel())}


def roofline(fast: OptimizedTokenizer, options: BenchOptions, step_ms: float) -> dict[str, Any]:
    """Counted work over this device's measured peaks: the least time a group could take, and the share reached."""
    work, peak = count_work(fast, options.size), measured_peak(fast.dtype, options.device)
    compute_ms = work["flops"] / peak["tflops"] / 1e9
    memory_ms = work["bytes"] / peak["terabytes_per_s"] / 1e9
    per_camera = step_ms / options.cameras
    return (
        work
        | peak
        | {
            "compute_ms": compute_ms,
            "memory_ms": memory_ms,
            "achieved_tflops": work["flops"] / per_camera / 1e9,
            "share_of_peak": compute_ms / per_camera,
            "share_of_roofline": max(compute_ms, memory_ms) / per_camera,
        }
    )


def measured_peak(dtype: torch.dtype, device: str) -> dict[str, float]:
    """TFLOP/s of a large product on random data and TB/s of a large copy (read and written), in this process."""
    if device == "cuda":
        from streamtok.bench.timing import gpu_peak

        return gpu_peak(dtype)
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    product = min(time_calls(lambda _: a @ b, 8, device)[0])
    source = torch.ones(32 << 20)
    target = torch.empty_like(source)
    copy = min(time_calls(lambda _: target.copy_(source), 5, device)[0])
    return {"tflops": 2 * 1024**3 / product / 1e9, "terabytes_per_s": 8 * source.numel() / copy / 1e9}


def stages(fast: OptimizedTokenizer, options: BenchOptions) -> dict[str, float]:
    """Median milliseconds of each stage of one camera's group, alone: prepare (4 frames), upload, encode, tokens."""
    from streamtok.preprocessing.preprocessor import Preprocessor

    stream, device = fast.stream(1, *options.size), options.device
    scene = reference_clip(fast.group, *options.size)
    big = max(options.size[0], 720), max(options.size[1], 1280)
    image = reference_clip(1, *big)[0, :, 0].permute(1, 2, 0).contiguous().numpy()
    prepare = Preprocessor(big, options.size)
    pinned = scene.pin_memory() if device == "cuda" else scene
    on_device = torch.empty(scene.shape, dtype=torch.uint8, device=device)
    out = stream.step(scene[:, :, :1].to(device))
    on_device.copy_(scene)
    parts: dict[str, Callable[[int], object]] = {
        f"prepare_{fast.group}_frames_from_{big[0]}x{big[1]}": lambda _: [prepare(image) for _ in range(fast.group)],
        "upload": lambda _: on_device.copy_(pinned, non_blocking=True),
        "encode": lambda _: stream.step(on_device),
        "tokens_to_host": lambda _: _to_host(out),
    }
    return {name: statistics.median(time_calls(part, 9, device)[0]) for name, part in parts.items()}


def steady(fast: OptimizedTokenizer, options: BenchOptions) -> dict[str, Any]:
    """`steady` groups in one epoch: median of the first and the last tenth, and memory before and after."""
    stream, count = fast.stream(1, *options.size), options.steady
    groups = _clip(replace(options, cameras=1), 4, fast.group)
    stream.step(groups[0], keyframe=[True])
    for i in range(20):
        stream.step(groups[i % 4])
    gc.collect()
    before = _memory(options.device)
    times, _ = time_calls(lambda i: stream.step(groups[i % 4]), count, options.device)
    tenth = max(1, count // 10)
    return {
        "groups": count,
        "first_p50_ms": statistics.median(times[:tenth]),
        "last_p50_ms": statistics.median(times[-tenth:]),
        "memory_before": before,
        "memory_after": _memory(options.device),
        **percentiles(times),
    }


def _memory(device: str) -> int:
    """Bytes in use: of the device's allocator, or of this process at its largest."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
