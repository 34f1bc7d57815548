"""From the start of a process to its first token: on a machine that has stored nothing yet, then on one that has.

The process is a real `streamtok ingest`, its first token counts when a reader of this process has it.
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
    """Milliseconds of the first and the second start of a process with this model, `engine="auto"`, and what it was.

    Without a name of its own, or if that names no weights, the process loads a copy of `tok`. The two share a cache
    that is empty at first; files that Python and the system cache are warm. RuntimeError if one ends without a token,
    or where a node cannot run.
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
    """The packages that `streamtok ingest` needs and this machine lacks."""
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
