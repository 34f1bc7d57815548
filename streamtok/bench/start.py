"""From the start of a process to its first token: on a machine that has stored nothing yet, and once more after that.

The process is a real `streamtok ingest`, its first token counts when a reader of this process has it. Where a node
cannot run (no pyzmq, say), `first_step` stands for it: a process that loads the model and encodes one frame.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from streamtok.checkpoint import WEIGHTS, save
from streamtok.model import Tokenizer

NEEDS = ("zmq", "msgspec", "msgpack", "pydantic", "yaml", "rich", "prometheus_client", "cv2")
LIMIT_S = 600.0  # of one process; a first start measures every precision, and compiles on a GPU
STOP_S = 5.0
ROOT = Path(__file__).resolve().parents[2]


def start(
    tok: Tokenizer, size: tuple[int, int], device: str = "cpu", fps: float = 30.0, name: str | None = None
) -> dict[str, Any]:
    """Milliseconds of the first and the second start of a process with this model, `engine="auto"`, and what it was.

    `name` is what the model was loaded by; without one, or if it names no weights, the process loads a copy of `tok`.
    The two share a cache of their own, which is empty at first; files that Python and the system cache are warm.
    RuntimeError if a process ends without a token.
    """
    lacking = missing()
    run = _first_step if lacking else _node
    named = name if name is not None and has_weights(name) else None
    with tempfile.TemporaryDirectory(prefix="st-") as temporary:
        folder = Path(temporary)
        if named is None:
            save(tok, folder / "model")
        model = named or str(folder / "model")
        (first_ms, _), (second_ms, engine) = (run(model, size, device, fps, folder) for _ in range(2))
    return {
        "measured": "load" if lacking else "node", "missing": lacking, "weights": named or "copy",
        "engine": {key: engine[key] for key in ("precision", "kernels", "graph", "threads")},
        "first_ms": first_ms, "second_ms": second_ms,
    }  # fmt: skip


def missing() -> list[str]:
    """What keeps `streamtok ingest` from running here, by name."""
    lacking = [name for name in NEEDS if find_spec(name) is None]
    nodes = find_spec("streamtok.nodes")  # of a plain copy it is an alias that other processes do not have
    return lacking if nodes and nodes.name == "streamtok.nodes" else [*lacking, "an installed streamtok"]


def has_weights(name: str) -> bool:
    """Whether a process that loads this name reads weights, and does not make random ones."""
    return Path(name).exists() or (WEIGHTS / name).is_dir()


def _node(model: str, size: tuple[int, int], device: str, fps: float, folder: Path) -> tuple[float, dict[str, Any]]:
    from streamtok.wire.subscriber import subscribe

    socket = folder / "tokens"
    endpoint = f"ipc://{socket}"
    source = f"synthetic:{size[0]}x{size[1]}@{fps:g}?seed=0&frames=1"
    device = device if device == "cpu" else f"cuda:{torch.cuda.current_device()}"
    command = ["streamtok.cli", "ingest", "--source", source, "--model", model, "--engine", "auto", "--device", device,
               "--threads", str(torch.get_num_threads()), "--bind", endpoint, "--wait-subscribers", "1"]  # fmt: skip
    begin = time.monotonic()
    with _process(command, folder) as process:
        while not socket.exists():  # a reader that is there before its node retries later and later
            _check(process, folder)
            time.sleep(0.001)
        with subscribe(endpoint) as reader:
            while (message := reader.get(0.1)) is None:
                _check(process, folder)
            passed_ms = 1000 * (time.monotonic() - begin)
            return passed_ms, reader.info(message.stream).engine


def _first_step(
    model: str, size: tuple[int, int], device: str, fps: float, folder: Path
) -> tuple[float, dict[str, Any]]:
    values = (model, *size, device, torch.get_num_threads())
    begin = time.monotonic()
    with _process(["streamtok.bench.first_step", *map(str, values)], folder) as process:
        line = process.stdout.readline() if process.stdout else ""
        passed_ms = 1000 * (time.monotonic() - begin)
        if not line:
            process.wait()
            _check(process, folder)
        return passed_ms, json.loads(line)


@contextmanager
def _process(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`python -m COMMAND` with a cache in `folder`; it ends by itself, or with the block if that fails."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"STREAMTOK_CACHE": str(folder / "cache"), "PYTHONPATH": paths}
    module = [sys.executable, "-m", *command]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(module, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    limit = threading.Timer(LIMIT_S, process.kill)
    limit.start()
    try:
        yield process
        process.wait()
    finally:
        limit.cancel()
        process.terminate()  # does nothing to a process that has ended
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode:
        _check(process, folder)


def _check(process: subprocess.Popen[str], folder: Path) -> None:
    """RuntimeError with its last words if the process has ended."""
    if process.poll() is not None:
        words = (folder / "log").read_text().strip().splitlines()[-3:]
        raise RuntimeError(f"the start to measure ended with status {process.returncode}: {' / '.join(words)}")
