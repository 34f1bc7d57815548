"""Measures rates, latencies and ratios of one model on one machine; what is compared is measured in the same run.

`measure_model` returns plain values in one schema (`_measure_sections` has its parts), which `tables` prints and plots.
"""

import gc
import resource
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from streamtok.bench.clips import paint_groups
from streamtok.bench.nodes import list_missing, measure_end_to_end, measure_start
from streamtok.bench.options import BenchOptions
from streamtok.bench.precisions import compare_precisions
from streamtok.bench.roofline import measure_roofline
from streamtok.bench.stateless import measure_stateless
from streamtok.bench.timing import percentiles, time_calls
from streamtok.engine.configuration import EngineConfiguration, EngineError, inspect_machine
from streamtok.engine.gpu.graph import free_dead_streams
from streamtok.engine.optimized import apply_configuration, memory_needed
from streamtok.model import Encoded, Tokenizer
from streamtok.preprocessing.preprocessor import Preprocessor
from streamtok.weights.golden import reference_clip

SCHEMA = 1
CAPACITY_SIZES, CAPACITY_GROUPS = ((128, 224), (256, 448)), 4


def measure_model(
    tok: Tokenizer, options: BenchOptions, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measure `tok`, with progress to `say`; returns {"schema", "model", "options", and the sections that were run}."""
    *_, report = grow_report(tok, options, say)
    return report


def grow_report(tok: Tokenizer, options: BenchOptions, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Yield the report of `measure_model` after each section."""
    report: dict[str, Any] = {"schema": SCHEMA, "model": tok.config.name, "options": asdict(options)}
    for name, section in _measure_sections(tok, options, say):
        report[name] = section
        yield report
        free_dead_streams()


def _measure_sections(tok: Tokenizer, options: BenchOptions, say: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    """Measure and yield the sections of a report, each with its name."""
    machine = inspect_machine(tok.fingerprint, options.size, options.device)
    lacking = list_missing() if options.start else []
    if lacking:
        say(f"start not measured: no node can run here, for it lacks {', '.join(lacking)}")
    elif options.start:  # first, while this process uses neither the CPU nor device memory
        found = measure_start(tok, options)
        say(f"start to first token: {found['second_ms']:.0f} ms, the second on this machine")
        yield "start", found
    engine, compared = compare_precisions(tok, machine, options, say)
    yield "precisions", compared
    fast = apply_configuration(tok, engine)
    yield "machine", describe_machine(options.device)
    yield "engine", engine.to_dict() | {"memory": memory_needed(fast, options.cameras, options.size)}
    step = measure_latency(fast, options)
    say(f"latency: {step['p50_ms']:.2f} ms per group at the median")
    yield "latency", step
    if options.cameras > 1:
        yield "shared_step", measure_shared_step(tok, engine, options)
    yield "decode", measure_decode(fast, options, step)
    yield "stateless", measure_stateless(tok, fast.dtype, options, step, say)
    yield "roofline", measure_roofline(fast, options, step["p50_ms"])
    yield "stages", measure_stages(fast, options)
    if options.steady:
        yield "steady", measure_steady(fast, options)
    if options.end_to_end:
        yield "end_to_end", measure_end_to_end(tok, engine, options)


def describe_machine(device: str) -> dict[str, Any]:
    """The device's name, library versions and PyTorch's threads."""
    facts = inspect_machine("", (0, 0), device)
    return {
        "device": device,
        "name": facts.device_name,
        "torch": facts.torch_version,
        "triton": facts.triton_version,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda or "",
    }


def measure_latency(fast: Tokenizer, options: BenchOptions) -> dict[str, Any]:
    """Measure milliseconds per step of all cameras, from frames on the device to tokens on the host, and frames/s.

    `cpu_ms` is a step's CPU time summed over all threads: its cost on a machine that has other work too.
    """
    stream = fast.stream(options.cameras, *options.size)
    groups = paint_groups(options, 4, fast.group, options.cameras)
    stream.step(groups[0], keyframe=[True] * options.cameras)
    for group in groups[1:]:
        stream.step(group)
    times, busy = time_calls(lambda i: _copy_to_host(stream.step(groups[i % 4])), options.groups, options.device)
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


def measure_shared_step(tok: Tokenizer, engine: EngineConfiguration, options: BenchOptions) -> dict[str, Any]:
    """Measure as `measure_latency` does, with all cameras in one step of the network (`batch_wait_ms` of a rig).

    `kernels` in the result names the layers: PyTorch's replace the CPU engine's, which step one slot at a time.
    """
    kernels = "plain" if engine.kernels == "interleaved" else engine.kernels
    together = apply_configuration(tok, replace(engine, kernels=kernels, slots_per_step=options.cameras))
    try:
        return measure_latency(together, options) | {"kernels": kernels}
    except (EngineError, torch.cuda.OutOfMemoryError) as error:
        return {"kernels": kernels, "error": str(error)}


def measure_decode(fast: Tokenizer, options: BenchOptions, step: dict[str, Any]) -> dict[str, Any]:
    """Measure milliseconds of one camera's group from tokens to float frames.

    `share_with_encoding` is the share of a group's time that decoding and one camera's step take together; `step` is
    the result of `measure_latency`.
    """
    encoder, grid = fast.stream(1, *options.size), fast.config.grid(*options.size)
    decoder = fast.decode_stream(1, *grid)
    groups = paint_groups(options, 3, fast.group)
    outs = [encoder.step(group, keyframe=[i == 0]) for i, group in enumerate(groups)]
    codes = [out.tokens for out in outs]
    decoder.step(codes[0], keyframe=[True])
    times, busy = time_calls(lambda i: decoder.step(codes[1 + i % 2]), max(4, options.groups // 2), options.device)
    found = percentiles(times)
    both = step["ms_per_camera"] + found["p50_ms"]
    return found | {"cpu_ms": statistics.median(busy), "share_with_encoding": both / (1000 * fast.group / options.fps)}


def _copy_to_host(out: Encoded) -> Tensor:
    """The tokens as published, on the host: uint16 (S, T, h, w), or float16 (S, C, T, h, w) of continuous models."""
    return out.tokens.to(torch.float16 if out.indices is None else torch.uint16).cpu()


def measure_stages(fast: Tokenizer, options: BenchOptions) -> dict[str, float]:
    """Measure the median milliseconds of each stage of one camera's group alone: prepare, upload, encode, copy back."""
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
        "tokens_to_host": lambda _: _copy_to_host(out),
    }
    return {name: statistics.median(time_calls(part, 9, device)[0]) for name, part in parts.items()}


def measure_steady(fast: Tokenizer, options: BenchOptions) -> dict[str, Any]:
    """Measure `options.steady` groups of one epoch: medians of the first and last tenth, memory before and after."""
    stream, count = fast.stream(1, *options.size), options.steady
    groups = paint_groups(options, 4, fast.group)
    stream.step(groups[0], keyframe=[True])
    for i in range(20):
        stream.step(groups[i % 4])
    gc.collect()
    before = _read_memory(options.device)
    times, _ = time_calls(lambda i: stream.step(groups[i % 4]), count, options.device)
    tenth = max(1, count // 10)
    return {
        "groups": count,
        "first_p50_ms": statistics.median(times[:tenth]),
        "last_p50_ms": statistics.median(times[-tenth:]),
        "memory_before": before,
        "memory_after": _read_memory(options.device),
        **percentiles(times),
    }


def _read_memory(device: str) -> int:
    """Bytes in use by the GPU allocator, or on a CPU the peak resident size of this process."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Capacity:
    """How many cameras a machine can encode, decode, or do both with, in real time."""

    encoded: float
    decoded: float
    both: float


def count_cameras(latency: dict[str, Any], decode: dict[str, Any]) -> Capacity:
    """The capacity that the results of `measure_latency` and `measure_decode` show."""
    encoding, both = latency["share_of_group_time"] / latency["cameras"], decode["share_with_encoding"]
    return Capacity(1 / encoding, 1 / (both - encoding), 1 / both)


def measure_capacities(fast: Tokenizer) -> Iterator[tuple[BenchOptions, Capacity]]:
    """Yield, for each of CAPACITY_SIZES, the options of a run with one camera per step, as in a node, and the capacity.

    It takes a few seconds on a processor that is fast enough.
    """
    for size in CAPACITY_SIZES:
        options = BenchOptions(size=size, device=fast.device.type, groups=CAPACITY_GROUPS)
        step = measure_latency(fast, options)
        yield options, count_cameras(step, measure_decode(fast, options, step))
