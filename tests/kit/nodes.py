"""Cameras, nodes and readers for tests of a node, with the tiny models of `tests.kit.models`."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.commands.ingest import make_node
from streamtok.io.base import Source
from streamtok.io.cameras.played_device import MachineClock
from streamtok.model import Tokenizer
from streamtok.node.ingest import IngestNode
from streamtok.settings.rig import RigSettings, load_rig
from streamtok.types import Frame
from streamtok.wire.message import TokenMessage
from streamtok.wire.subscriber import subscribe
from tests.kit.pictures import SIZE

TWO_CAMERAS = [
    {"name": "front", "source": "synthetic:48x64@30?seed=1&frames=45"},
    {"name": "rear", "source": "synthetic:40x56@20?seed=2&frames=30"},
]


class SteppedClock(MachineClock):
    """Moves on only when it is waited for: the camera is never late, however busy the machine is."""

    def __init__(self) -> None:
        self.time_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        return self.time_ns

    def wait_until(self, due_ns: int) -> None:
        self.time_ns = max(self.time_ns, due_ns)


class ScriptedCamera(Source):
    """A camera whose life is written down: `script(n)` is the picture of frame n, or None while it is lost.

    It goes at `fps`, as a camera does, and stamps frames as they are taken; it ends after `frames`.
    """

    live = True

    def __init__(self, stream: str, fps: float, frames: int, script: Callable[[int], np.ndarray | None]) -> None:
        super().__init__(stream)
        self.fps, self.frames, self.script = fps, frames, script
        self._number = 0

    def _open(self) -> None:
        self.size = SIZE

    def _read(self, timeout: float | None) -> Frame | None:
        if self._number >= self.frames:
            self.end("the script is over")
        self._stop.wait(1 / self.fps)
        number, self._number = self._number, self._number + 1
        picture = self.script(number)
        if picture is None:
            self.state = "lost"
            return None
        if self.state == "lost":
            self.counts["reconnects"] += 1
        self.state = "up"
        return Frame(self.stream, number, time.monotonic_ns(), picture)

    def _close(self) -> None:
        pass


class RunningNode:
    """An `IngestNode` on a thread of its own; `result` is its summary or what it raised."""

    def __init__(self, node: IngestNode) -> None:
        self.node = node
        self._result: dict | BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._result = self.node.run()
        except BaseException as error:
            self._result = error

    def __enter__(self) -> "RunningNode":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.node.stop()
        self._thread.join(60)

    def result(self, timeout: float = 60) -> dict:
        """The summary, once the node has ended by itself."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError("the node still runs")
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


def rig(endpoint: str, streams: dict[str, dict] | list[str], **values: Any) -> RigSettings:
    """Settings of a node: streams by name, or source specs for a, b, ..."""
    if isinstance(streams, list):
        streams = {name: {"source": source} for name, source in zip("abcdef", streams, strict=False)}
    rows = [{"name": name, "source": "synthetic:32x48@30?frames=1", **stream} for name, stream in streams.items()]
    return load_rig(None, {"bind": endpoint, "streams": rows, **values})


def ingest(path: Path, tokenizer: Tokenizer, streams: list[dict] = TWO_CAMERAS, **changes: Any) -> dict:
    """Run an ingest node that records frames and tokens."""
    rig_values = {"streams": streams, "bind": "tcp://127.0.0.1:*", "record": str(path), "record_frames": "lossless"}
    node = make_node(load_rig(None, rig_values | changes), tokenizer)
    summary = node.run()
    assert not node.failures
    return summary


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and text of a page that a node serves beside its metrics."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def read_all(endpoint: str, streams: list[str] | None = None, **options: Any) -> list[TokenMessage]:
    """Every message until the node says that it has ended."""
    with subscribe(endpoint, streams, until_end=True, timeout=60, queue_size=1 << 16, **options) as subscription:
        return list(subscription)
