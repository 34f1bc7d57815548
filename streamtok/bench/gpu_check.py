"""Runs the parts of `gpu_check` one after the other and writes one JSON as they finish."""

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from streamtok.bench import gpu_parts, preparation
from streamtok.bench.measure import BenchOptions
from streamtok.config import PRESETS
from streamtok.model import build

ROOT = Path(__file__).resolve().parents[2]
MATRIX = (
    (
        "cosmos-dv4x8x8",
        BenchOptions((720, 1280), 1, "bfloat16", "cuda", groups=300, windows=(17, 33, 49), steady=2000, compare=False),
    ),
    ("cosmos-dv4x8x8", BenchOptions((720, 1280), 8, "bfloat16", "cuda", groups=40, windows=(), compare=False)),
    ("cosmos-dv4x8x8", BenchOptions((1088, 1920), 1, "bfloat16", "cuda", groups=60, windows=(17,), compare=False)),
    ("cosmos-dv4x8x8", BenchOptions((720, 1280), 1, "float16", "cuda", groups=100, windows=(), compare=False)),
    ("nano", BenchOptions((720, 1280), 1, "auto", "cuda", groups=300, windows=(17,))),
)


def compiled() -> dict[str, Any]:
    """What the kernels need on this machine's GPU; runs without one, for Hopper."""
    from streamtok.engine.offline import compile_all

    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    found = compile_all(10 * capability[0] + capability[1])
    for name, entry in found.items():
        gpu_parts.say(name, entry)
    return found


def tests() -> dict[str, Any]:
    """The engine's tests, which on this machine run their GPU forms too, in a process of their own."""
    import os

    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests/engine"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    gpu_parts.say(done.stdout[-1500:])
    return {"pytest": {"ok": done.returncode == 0, "tail": done.stdout[-6000:], "errors": done.stderr[-2000:]}}


def bench(deadline: float = float("inf")) -> dict[str, Any]:
    """The benchmark matrix, random weights, the most wanted first; what no longer fits the time is left out by name."""
    from streamtok.bench import measure
    from streamtok.bench.report import describe

    found: dict[str, Any] = {}
    for model, options in MATRIX:
        name = f"{model} {options.size[0]}x{options.size[1]} {options.precision} {options.cameras} cameras"
        if time.monotonic() > deadline:
            found[name] = {"skipped": "out of time"}
            continue
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.manual_seed(0)
        try:
            found[name] = measure.run(build(PRESETS[model]), options)
            gpu_parts.say(describe(found[name]))
        except (RuntimeError, ValueError) as error:  # out of memory, say: the other rows still count
            found[name] = {"ok": False, "error": str(error)[:1000]}
            gpu_parts.say(name, found[name])
    return found


def prepare() -> dict[str, Any]:
    """Frames prepared on the GPU against the CPU's bytes, and how long they take."""
    found = preparation.prepare()
    for name, entry in found.items():
        gpu_parts.say(name, entry)
    return found


def start() -> dict[str, Any]:
    """The start of a node of the full-size model at 720p to its first token; without pyzmq, of a process that loads it
    and takes a step."""
    from streamtok.bench.start import start as measure_start

    torch.manual_seed(0)
    found = measure_start(build(PRESETS[gpu_parts.FULL_SIZE]), (720, 1280), "cuda")
    gpu_parts.say(found)
    return {f"{gpu_parts.FULL_SIZE} 720x1280": found}


PARTS: dict[str, Callable[..., Any]] = {
    "machine": gpu_parts.machine,
    "compile": compiled,
    "kernels": gpu_parts.kernels,
    "agreement": gpu_parts.agreement,
    "prepare": prepare,
    "step": gpu_parts.step,
    "tests": tests,
    "bench": bench,
    "start": start,
    "tune": gpu_parts.tune,
}
WITHOUT_GPU = ("compile",)
TIMED = ("tune", "bench")  # parts that watch the deadline themselves


def run(parts: list[str], out: Path, deadline: float) -> dict[str, Any]:
    """Run the named parts until `deadline` (monotonic seconds); each entry is written as soon as it is there."""
    report: dict[str, Any] = {"schema": 1, "parts": {}, "seconds": {}, "failed": [], "skipped": []}
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        begin = time.monotonic()
        if begin > deadline:
            report["skipped"].append(part)
            continue
        gpu_parts.say(f"== {part}")
        try:
            report["parts"][part] = PARTS[part](deadline) if part in TIMED else PARTS[part]()
            if _failed(report["parts"][part]):
                report["failed"].append(part)
        except Exception:  # a part that fails is part of the report; the next one may still run
            report["failed"].append(part)
            report["parts"][part] = {"error": traceback.format_exc()[-3000:]}
            gpu_parts.say(report["parts"][part]["error"])
        report["seconds"][part] = round(time.monotonic() - begin, 1)
        out.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _failed(result: Any) -> bool:
    return any(isinstance(entry, dict) and entry.get("ok") is False for entry in result.values())
