"""From the start of a process to its first token: on a machine that has stored nothing yet, and once more after that.

The process is a real `streamtok ingest`, its first token counts when a reader of this process has it. Where a node
cannot run (no pyzmq, say), `first_step` stands for it: a process that loads the model and encodes one frame.
"""

import json
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from streamtok.bench.process import child, device_name, model_for_child
from streamtok.model import Tokenizer

NEEDS = ("zmq", "msgspec", "msgpack", "pydantic", "yaml", "rich", "prometheus_client", "cv2")


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
    with tempfile.TemporaryDirectory(prefix="st-") as temporary:
        folder = Path(temporary)
        model = model_for_child(tok, name, folder)
        (first_ms, _), (second_ms, engine) = (run(model, size, device, fps, folder) for _ in range(2))
    return {
        "measured": "load" if lacking else "node",
        "missing": lacking,
        "weights": model if model == name else "copy",
        "engine": {key: engine[key] for key in ("precision", "kernels", "graph", "threads")},
        "first_ms": first_ms,
        "second_ms": second_ms,
    }


def missing() -> list[str]:
    """What keeps `streamtok ingest` from running here, by name."""
    return [name for name in NEEDS if find_spec(name) is None]


def _node(model: str, size: tuple[int, int], device: str, fps: float, folder: Path) -> tuple[float, dict[str, Any]]:
    from streamtok.wire.subscriber import subscribe

    socket = folder / "tokens"
    endpoint = f"ipc://{socket}"
    source = f"synthetic:{size[0]}x{size[1]}@{fps:g}?seed=0&frames=1"
    command = [
        "ingest",
        "--source",
        source,
        "--model",
        model,
        "--engine",
        "auto",
        "--device",
        device_name(device),
        "--threads",
        str(torch.get_num_threads()),
        "--bind",
        endpoint,
        "--wait-subscribers",
        "1",
    ]
    begin = time.monotonic()
    with child(["streamtok.cli", *command], folder) as process:
        process.wait_for(socket)
        with subscribe(endpoint) as reader:
            while (message := reader.get(0.1)) is None:
                process.check()
            passed_ms = 1000 * (time.monotonic() - begin)
            return passed_ms, reader.info(message.stream).engine


def _first_step(
    model: str, size: tuple[int, int], device: str, fps: float, folder: Path
) -> tuple[float, dict[str, Any]]:
    values = (model, *size, device, torch.get_num_threads())
    begin = time.monotonic()
    with child(["streamtok.bench.first_step", *map(str, values)], folder) as process:
        line = process.line()
        return 1000 * (time.monotonic() - begin), json.loads(line)
