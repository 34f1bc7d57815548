"""Measures the time from the start of a node to its first token, with an empty cache and then with a filled one.

The node is a real `streamtok ingest`; the time ends when a reader in this process has the token.
"""

import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from streamtok.bench.options import BenchOptions
from streamtok.bench.process import ingest_arguments, name_for_child, run_program
from streamtok.model import Tokenizer

NEEDS = ("zmq", "msgspec", "msgpack", "pydantic", "yaml", "rich", "prometheus_client", "cv2")


def measure_start(tok: Tokenizer, options: BenchOptions) -> dict[str, Any]:
    """Measure milliseconds of a node's first and second start with this model and `engine="auto"`, and its engine.

    The node loads a copy of `tok` unless `options.model` names weights. Both starts share a streamtok cache that is
    empty at first; the file caches of Python and the system are warm. Raises RuntimeError if a start gives no token,
    or if a node cannot run here.
    """
    if lacking := list_missing():
        raise RuntimeError(f"no node can run here, for it lacks {', '.join(lacking)}")
    with tempfile.TemporaryDirectory(prefix="st-") as temporary:
        folder = Path(temporary)
        model = name_for_child(tok, options.model, folder)
        (first_ms, _), (second_ms, engine) = (_start_node(model, options, folder) for _ in range(2))
    return {
        "measured": "node",
        "missing": [],
        "weights": model if model == options.model else "copy",
        "engine": {key: engine[key] for key in ("precision", "kernels", "convolutions", "graph", "threads")},
        "first_ms": first_ms,
        "second_ms": second_ms,
    }


def list_missing() -> list[str]:
    """The packages that `streamtok ingest` needs but this machine lacks."""
    return [name for name in NEEDS if find_spec(name) is None]


def _start_node(model: str, options: BenchOptions, folder: Path) -> tuple[float, dict[str, Any]]:
    """Milliseconds until a reader has the node's first token, and its engine configuration."""
    from streamtok.wire.subscriber import subscribe

    socket, (height, width) = folder / "tokens", options.size
    arguments = ingest_arguments(model, "auto", options.device, socket)
    arguments += [f"--source=synthetic:{height}x{width}@{options.fps:g}?seed=0&frames=1"]
    arguments += [f"--threads={torch.get_num_threads()}"]
    begin = time.monotonic()
    with run_program("node", arguments, folder) as node:
        node.wait_for(socket)
        with subscribe(f"ipc://{socket}") as reader:
            while (message := reader.get(0.1)) is None:
                node.check_running()
            passed_ms = 1000 * (time.monotonic() - begin)
            return passed_ms, reader.info(message.stream).engine
