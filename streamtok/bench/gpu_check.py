"""Runs the parts of `gpu_check` one after the other, each in a process of its own, and writes one JSON as they go."""

import contextlib
import faulthandler
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from streamtok.bench import gpu_parts, preparation
from streamtok.bench.gpu_parts import Entries
from streamtok.bench.measure import BenchOptions
from streamtok.config import PRESETS
from streamtok.engine.configuration import cache_folder
from streamtok.model import build

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "streamtok.bench.gpu_check")
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


TESTED = ("gpu", "kernels", "fused", "preprocess_kernel", "preparing", "batch", "engine")  # the others need no GPU


def compiled() -> Entries:
    """What the kernels need on this machine's GPU; runs without one, for Hopper."""
    from streamtok.engine.gpu.kernel_builds import compile_all

    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    for name, entry in compile_all(10 * capability[0] + capability[1]).items():
        gpu_parts.say(name, entry)
        yield name, entry


def tests() -> Entries:
    """The engine's tests that run on a GPU where there is one."""
    files = [str(ROOT / f"tests/engine/test_{name}.py") for name in TESTED]
    command = [sys.executable, "-m", "pytest", "-vv", "-m", "not slow", "-p", "no:cacheprovider", *files]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            passed = "PASSED" in line or "SKIPPED" in line
            if not passed:
                gpu_parts.say(line.rstrip())
            if "FAILED" in line or "ERROR" in line:
                yield "pytest", {"ok": False, "tail": "".join(lines)[-6000:]}
    yield "pytest", {"ok": process.returncode == 0, "tail": "".join(lines)[-6000:]}


def bench(row: int) -> Entries:
    """One row of the benchmark matrix, random weights."""
    from streamtok.bench import measure
    from streamtok.bench.report import describe

    model, options = MATRIX[row]
    name = f"{model} {options.size[0]}x{options.size[1]} {options.precision} {options.cameras} cameras"
    torch.manual_seed(0)
    for report in measure.growing(build(PRESETS[model]), options, gpu_parts.say):
        yield name, report
    gpu_parts.say(describe(report))


def prepare() -> Entries:
    """Frames prepared on the GPU against the CPU's bytes, and how long they take."""
    for name, entry in preparation.prepare():
        gpu_parts.say(name, entry)
        yield name, entry


def start() -> Entries:
    """The start of a node of the full-size model at 720p to its first token; without pyzmq, of a process that loads it
    and takes a step."""
    from streamtok.bench.start import start as measure_start

    torch.manual_seed(0)
    found = measure_start(build(PRESETS[gpu_parts.FULL_SIZE]), (720, 1280), "cuda")
    gpu_parts.say(found)
    yield f"{gpu_parts.FULL_SIZE} 720x1280", found


PARTS: dict[str, tuple[Callable[..., Entries], float]] = {  # with the seconds that one may take, far more than it needs
    "machine": (gpu_parts.machine, 90),
    "compile": (compiled, 300),
    "kernels": (gpu_parts.kernels, 180),
    "agreement": (gpu_parts.agreement, 150),
    "prepare": (prepare, 150),
    "step": (gpu_parts.step, 150),
    "tests": (tests, 240),
    **{f"bench{row}": (partial(bench, row), 150) for row in range(len(MATRIX))},
    "start": (start, 200),
    "tune": (gpu_parts.tune, 240),
}
GROUPS = {"bench": [f"bench{row}" for row in range(len(MATRIX))]}  # the rows of the matrix, the most wanted first
WITHOUT_GPU = ("compile",)
SHORTEST = 10.0  # seconds below which no part is begun


def run(parts: list[str], out: Path, deadline: float) -> dict[str, Any]:
    """Run the named parts until `deadline` (monotonic seconds), each in a process of its own: one that fails, crashes,
    spoils the device for its process or hangs costs no other. Entries are written to `out` as they come."""
    report: dict[str, Any] = {"schema": 2, "parts": {}, "seconds": {}, "failed": [], "skipped": []}
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in itertools.chain.from_iterable(GROUPS.get(name, [name]) for name in parts):
        begin, found = time.monotonic(), {}
        limit = min(PARTS[part][1], deadline - begin)
        if limit < SHORTEST:
            report["skipped"].append(part)
            continue
        gpu_parts.say(f"== {part}")
        for found in apart(part, limit):
            report["seconds"][part] = round(time.monotonic() - begin, 1)
            if found != report["parts"].get(part):
                report["parts"][part] = found
                out.write_text(json.dumps(report, indent=1) + "\n")
        if any(isinstance(entry, dict) and entry.get("ok") is False for entry in found.values()):
            report["failed"].append(part)
            gpu_parts.say(f"== {part} failed")
    out.write_text(json.dumps(report, indent=1) + "\n")
    return report


def apart(part: str, limit: float, command: Sequence[str] = COMMAND) -> Iterator[dict[str, Any]]:
    """The entries of one part by name, again and again as they get more; "ended" among the last says what went wrong
    with the process, which has `limit` seconds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.setdefault("TRITON_CACHE_DIR", str(cache_folder() / "compiled/triton"))  # one for all parts
    until, ended = time.monotonic() + limit, ""
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        path = Path(folder) / "entries.json"
        arguments = [*command, part, str(path), str(limit)]
        with subprocess.Popen(arguments, cwd=ROOT, env=environment, process_group=0) as process:
            try:
                while process.poll() is None and time.monotonic() < until:
                    time.sleep(0.2)
                    yield _entries(path)
                if process.poll() is None:
                    ended = f"stopped after {limit:.0f} s"
                elif process.returncode:
                    ended = f"ended with status {process.returncode}"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it has started too
        yield _entries(path) | ({"ended": {"ok": False, "error": ended}} if ended else {})


def _entries(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def work(part: str, path: str, seconds: str) -> int:
    """One part, here, with what it has found so far in a file of JSON."""
    faulthandler.enable()
    function, deadline = PARTS[part][0], time.monotonic() + 0.8 * float(seconds)
    found: dict[str, Any] = {}
    try:
        for name, entry in function(deadline) if part == "tune" else function():
            found[name] = entry
            _write(found, Path(path))
    except Exception:
        found["error"] = {"ok": False, "error": traceback.format_exc()[-3000:]}
        gpu_parts.say(found["error"]["error"])
        _write(found, Path(path))
    return 0


def _write(found: dict[str, Any], path: Path) -> None:
    whole = path.with_suffix(".new")
    whole.write_text(json.dumps(found))
    whole.replace(path)


if __name__ == "__main__":
    sys.exit(work(*sys.argv[1:]))
