"""Runs the parts of `gpu_check` one after the other, each in its own process, and writes their results to one JSON."""

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
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import parts
from benchmarks.gpu.parts import Entries, say
from benchmarks.gpu.preparation import check_preparation
from benchmarks.gpu.tuning import time_candidates
from streamtok.bench.measure import grow_report
from streamtok.bench.nodes import measure_start
from streamtok.bench.options import BenchOptions
from streamtok.bench.tables import format_benchmark
from streamtok.config import PRESETS
from streamtok.engine.configuration import OVER_SPACE, cache_folder
from streamtok.model import build

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "benchmarks.gpu.check")
HD = BenchOptions((720, 1280), 1, "bfloat16", "cuda", windows=(), compare=False)
MATRIX = (
    (parts.FULL_SIZE, replace(HD, groups=300, windows=(17, 33, 49), steady=2000)),
    (parts.FULL_SIZE, replace(HD, cameras=8, groups=40)),
    (parts.FULL_SIZE, replace(HD, size=(1088, 1920), groups=60, windows=(17,))),
    (parts.FULL_SIZE, replace(HD, precision="float16", groups=100)),
    ("nano", replace(HD, precision="auto", groups=300, windows=(17,), compare=True)),
)

TESTED = (  # below tests/, those that use a GPU
    *(f"engine/test_{name}.py" for name in ("gpu", "kernels", "fused", "preprocess_kernel", "engine")),
    *("ingest/test_preparing.py", "ingest/test_batch.py"),
)


def compile_kernels() -> Entries:
    """Compile a full-size step's kernels and report their resources, for this machine's GPU, or else for Hopper."""
    from benchmarks.gpu.builds import compile_step_kernels

    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    for over_space in OVER_SPACE:
        step = (parts.FULL_SIZE, HD.size, HD.precision, over_space, 1, 10 * major + minor)
        for name, resources in compile_step_kernels(*step):
            yield f"{over_space} {name}", resources


def run_tests() -> Entries:
    """Run the tests that use a GPU."""
    files = [str(ROOT / "tests" / name) for name in TESTED]
    command = [sys.executable, "-m", "pytest", "-vv", "-m", "not slow", "-p", "no:cacheprovider", *files]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            if "PASSED" not in line and "SKIPPED" not in line:
                say(line.rstrip())
            if "FAILED" in line or "ERROR" in line:
                yield "pytest", {"ok": False, "tail": "".join(lines)[-6000:]}
    yield "pytest", {"ok": process.returncode == 0, "tail": "".join(lines)[-6000:]}


def run_bench_row(row: int) -> Entries:
    """Run one row of the benchmark matrix, with random weights."""
    model, options = MATRIX[row]
    name = f"{model} {options.size[0]}x{options.size[1]} {options.precision} {options.cameras} cameras"
    torch.manual_seed(0)
    for report in grow_report(build(PRESETS[model]), options, say):
        yield name, report
    say(format_benchmark(report))


def time_start() -> Entries:
    """Measure a node's start to its first token, with the full-size model at 720p."""
    torch.manual_seed(0)
    yield f"{parts.FULL_SIZE} 720x1280", measure_start(build(PRESETS[parts.FULL_SIZE]), HD)


PARTS: dict[str, tuple[Callable[..., Entries], float]] = {  # each with its time limit in s, far more than it needs
    "machine": (parts.report_machine, 90),
    "compile": (compile_kernels, 300),
    "kernels": (parts.check_kernels, 180),
    "agreement": (parts.measure_agreement, 150),
    "prepare": (check_preparation, 150),
    "step": (parts.time_step, 150),
    "tests": (run_tests, 240),
    **{f"bench{row}": (partial(run_bench_row, row), 150) for row in range(len(MATRIX))},
    "start": (time_start, 200),
    "tune": (time_candidates, 240),
}
GROUPS = {"bench": [f"bench{row}" for row in range(len(MATRIX))]}  # the rows of the matrix, the most important first
WITHOUT_GPU = ("compile",)
SHORTEST = 10.0  # a part is skipped if fewer seconds are left


def run_parts(names: list[str], out: Path, deadline: float) -> dict[str, Any]:
    """Run the named parts until `deadline` (monotonic s), each in its own process; returns the report.

    A part that fails, crashes, hangs or breaks the device for its process does not affect others. Entries are written
    to `out` as they come.
    """
    report: dict[str, Any] = {"schema": 2, "parts": {}, "seconds": {}, "failed": [], "skipped": []}
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in itertools.chain.from_iterable(GROUPS.get(name, [name]) for name in names):
        begin, found = time.monotonic(), {}
        limit = min(PARTS[part][1], deadline - begin)
        if limit < SHORTEST:
            report["skipped"].append(part)
            continue
        say(f"== {part}")
        for found in run_apart(part, limit):
            report["seconds"][part] = round(time.monotonic() - begin, 1)
            if found != report["parts"].get(part):
                report["parts"][part] = found
                out.write_text(json.dumps(report, indent=1) + "\n")
        if any(isinstance(entry, dict) and entry.get("ok") is False for entry in found.values()):
            report["failed"].append(part)
            say(f"== {part} failed")
    out.write_text(json.dumps(report, indent=1) + "\n")
    return report


def run_apart(part: str, limit: float, command: Sequence[str] = COMMAND) -> Iterator[dict[str, Any]]:
    """Run one part for up to `limit` seconds; yields its entries by name, again and again as they grow.

    "ended" among the last entries says how the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        path, until = Path(folder) / "entries.json", time.monotonic() + limit
        with _start_process([*command, part, str(path), str(limit)]) as process:
            while (status := process.poll()) is None and time.monotonic() < until:
                time.sleep(0.2)
                yield _read_entries(path)
        found = _read_entries(path)
    if status != 0:
        error = f"stopped after {limit:.0f} s" if status is None else f"ended with status {status}"
        found |= {"ended": {"ok": False, "error": error}}
    yield found


@contextmanager
def _start_process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in this checkout; at the end of the block it is killed, with all its children."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.setdefault("TRITON_CACHE_DIR", str(cache_folder() / "compiled/triton"))  # one for all parts
    with subprocess.Popen(command, cwd=ROOT, env=environment, process_group=0) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _read_entries(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def run_part(part: str, path: str, seconds: str) -> int:
    """Run one part in this process, and keep its entries so far in the JSON file `path`; returns 0."""
    faulthandler.enable()
    function, deadline = PARTS[part][0], time.monotonic() + 0.8 * float(seconds)
    found: dict[str, Any] = {}
    try:
        for name, entry in function(deadline) if part == "tune" else function():
            found[name] = entry
            _write_entries(found, Path(path))
            if part not in GROUPS["bench"]:  # those print tables instead
                say(name, entry)
    except Exception:
        found["error"] = {"ok": False, "error": traceback.format_exc()[-3000:]}
        say(found["error"]["error"])
        _write_entries(found, Path(path))
    return 0


def _write_entries(found: dict[str, Any], path: Path) -> None:
    complete = path.with_suffix(".new")
    complete.write_text(json.dumps(found))
    complete.replace(path)


if __name__ == "__main__":
    sys.exit(run_part(*sys.argv[1:]))
