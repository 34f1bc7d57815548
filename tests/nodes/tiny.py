"""Models and frames small enough that a test of a node takes a moment."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from streamtok.config import PRESETS, TokenizerConfig
from streamtok.engine.ingest import TokenGroup
from streamtok.io.source import Frame, Source
from streamtok.model import Tokenizer
from streamtok.runtime.ingest import IngestNode
from streamtok.settings import RigSettings, load_rig
from streamtok.wire.message import TokenMessage
from streamtok.wire.subscriber import subscribe

SIZE = 32, 48
MS = 1_000_000

VIDEO = replace(
    PRESETS["nano"], name="tiny", stem_channels=8, encoder_channels=(8, 16), decoder_channels=(8, 16),
    encoder_blocks=(1, 1), decoder_blocks=(1, 1), z_channels=8, context=4,
)  # fmt: skip
ATTENTION = replace(VIDEO, name="tiny-attention", mid=True, mid_attention=True, slim=False)
CONTINUOUS = replace(VIDEO, name="tiny-continuous", quantizer="ae", latent_channels=6)
IMAGE = replace(
    VIDEO, name="tiny-image", video=False, temporal_compression=1, slim=False, num_groups=8, attention_levels=()
)


def build(config: TokenizerConfig, seed: int = 0) -> Tokenizer:
    """A deterministic tokenizer with seeded random weights."""
    torch.manual_seed(seed)
    return Tokenizer(config, deterministic=True)


def image(number: int, size: tuple[int, int] = SIZE, stream: str = "a") -> np.ndarray:
    """Frame `number` of a stream: noise that moves, uint8 RGB."""
    seed = sum(map(ord, stream))
    texture = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.roll(texture, number, axis=1)


def frame(number: int, stream: str = "a", size: tuple[int, int] = SIZE, time_ms: float | None = None) -> Frame:
    """Frame `number`, taken at 100 Hz unless `time_ms` says when."""
    capture_ns = round((10 * number if time_ms is None else time_ms) * MS) + 1
    return Frame(stream, number, capture_ns, image(number, size, stream))


def expected_tokens(tokenizer: Tokenizer, groups: list[TokenGroup], stream: str = "a") -> list[np.ndarray]:
    """What `tok.stream` makes of the frames that the groups name."""
    reference, grids = None, []
    for group in groups:
        frames = [image(number, stream=stream) for number in group.frame_ids]
        frames += frames[-1:] * group.repeated
        clip = torch.from_numpy(np.stack(frames).transpose(3, 0, 1, 2)[None].copy())
        if group.keyframe:
            reference = tokenizer.stream(slots=1, height=SIZE[0], width=SIZE[1])
        out = reference.step(clip)
        grids.append(out.indices[0, 0].numpy() if tokenizer.config.discrete else out.latent[0, :, 0].half().numpy())
    return grids


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
        self._thread.join(20)

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


def read_all(endpoint: str, streams: list[str] | None = None, **options: Any) -> list[TokenMessage]:
    """Every message until the node says that it has ended."""
    with subscribe(endpoint, streams, until_end=True, timeout=60, queue_size=1 << 16, **options) as subscription:
        return list(subscription)
