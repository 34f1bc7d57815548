"""The demo: a real ingest node in its own process, a real reader that decodes in this one, and pictures of both."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from streamtok.measures import psnr_from_mse
from streamtok.model.decoding import crop
from streamtok.node.contact_sheet import Sample, SampleKeeper, side_by_side, write_contact_sheet
from streamtok.node.live_decoder import LiveDecoder, Picture
from streamtok.settings.rig import CommandSettings, Count, Device, Positive, Size

log = logging.getLogger("streamtok.node.demo")

PIXELS = 256 * 448  # larger sources are reduced to about this, so that two cores finish in a minute
STREAM = "demo"
FRAMES_WAITING = 512  # camera images kept for comparison: the node runs up to 64 groups ahead of their decoding
LAST_S = 20.0  # what is still on its way when the time is up may take so long


class DemoSettings(CommandSettings):
    """What to show: `source` and `model` as `streamtok ingest` takes them, `size` (H, W) or None for a suitable one.

    The node is told to stop after `max_frames` or `max_seconds`, whichever comes first.
    """

    source: str = "synthetic:256x448@30?seed=7&frames=301"
    model: str = "nano"
    out: Path = Path("out/demo")
    size: Size | None = None
    max_frames: Count = 301
    max_seconds: Positive = 100.0
    device: Device = "auto"


@dataclass
class DemoResult:
    """What was seen; `errors` are the mean squared errors of the pictures, in 8-bit units."""

    started: float = field(default_factory=time.monotonic)
    info: Any = None
    node: dict = field(default_factory=dict)
    pictures: int = 0
    groups: int = 0
    payload_bytes: int = 0
    lost: int = 0
    seconds: float = 0.0
    errors: list[float] = field(default_factory=list)
    video: Path | None = None
    picture: Path | None = None

    @property
    def psnr(self) -> float:
        """dB, of the mean squared error over all pictures; NaN where there was none."""
        return psnr_from_mse(fmean(self.errors) / 255**2) if self.errors else math.nan

    @property
    def fps(self) -> float:
        """Frames per second of the source, or 30 where it does not say."""
        return self.info.frame_rate or 30.0

    @property
    def token_bits_per_second(self) -> float:
        """Bits of token payload per second of video."""
        return 8 * self.payload_bytes / max(self.pictures, 1) * self.fps

    @property
    def raw_bits_per_second(self) -> float:
        """Bits of the same video as 8-bit RGB."""
        return 24 * math.prod(self.info.image_size) * self.fps


def run_demo(options: DemoSettings, on_progress: Callable[[DemoResult], None] = lambda result: None) -> DemoResult:
    """Run the whole pipeline once. Raises RuntimeError with the node's own words if it fails, ValueError or OSError
    for a source that cannot be opened."""
    import torch

    from streamtok.engine.loading import load

    result = DemoResult()
    size = options.size or suitable_size(options.source)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the node in the other process has work too
    tokenizer = load(options.model, engine="default", device="cpu")
    with tempfile.TemporaryDirectory(prefix="streamtok-") as folder:
        endpoint = f"ipc://{folder}/tokens"
        with ingest_process(options, size, endpoint) as node, reader_of_frames(endpoint, node) as frames:
            Watcher(options, tokenizer, result, on_progress).watch(endpoint, frames, node)
            result.node = summary_of(node)
    return result


class Watcher:
    """The reading side: tokens to pictures, compared with the frames they came from."""

    def __init__(
        self, options: DemoSettings, tokenizer: Any, result: DemoResult, on_progress: Callable[[DemoResult], None]
    ) -> None:
        self.options, self.result, self.on_progress = options, result, on_progress
        self.decoder = LiveDecoder(tokenizer)
        self.keeper = SampleKeeper()
        self.video: Any = None
        self._first_ns = 0

    def watch(self, endpoint: str, frames: "FrameReader", node: subprocess.Popen) -> None:
        """Read to the end of the stream, or until the time is up."""
        from streamtok.wire.subscriber import subscribe

        started, stopped = time.monotonic(), False
        with subscribe(endpoint, [STREAM], until_end=True, queue_size=1 << 16) as subscription:
            while True:
                message = subscription.get(timeout=0.5)
                if message is not None:
                    self._show(message, subscription.info(STREAM), frames)
                elif node.poll() is not None:
                    break
                self.result.seconds = time.monotonic() - started
                self.on_progress(self.result)
                late = time.monotonic() - self.result.started - self.options.max_seconds
                if late > 0 and not stopped:
                    stopped = True
                    node.send_signal(signal.SIGTERM)
                if late > LAST_S:
                    break
            self.result.lost = sum(counts["lost"] + counts["discarded"] for counts in subscription.counts().values())
        self._close()

    def _show(self, message: Any, info: Any, frames: "FrameReader") -> None:
        result = self.result
        result.info = info
        result.groups += 1
        result.payload_bytes += len(message.payload)
        for picture in self.decoder.feed(message):
            result.pictures += 1
            original = frames.find(picture.frame_id, info)
            if original is not None:
                self._compare(original, crop(picture.image, info.source_rect), picture, message.tokens)

    def _compare(self, original: np.ndarray, decoded: np.ndarray, picture: Picture, tokens: np.ndarray) -> None:
        from streamtok.io.picture_writer import open_pictures

        result = self.result
        difference = original.astype(np.float32) - decoded
        result.errors.append(float(np.mean(difference * difference)))
        rates = result.raw_bits_per_second, result.token_bits_per_second
        image = side_by_side(original, decoded, *rates)
        if self.video is None:
            self._first_ns = picture.capture_ns
            self.video = open_pictures(self.options.out / "side_by_side.mp4", image.shape[:2], result.fps)
        self.video.write(image, picture.capture_ns - self._first_ns)
        self.keeper.add(Sample(picture.frame_id, original, tokens, decoded))

    def _close(self) -> None:
        if self.video is None:
            return
        self.video.close()
        self.result.video = self.options.out / "side_by_side.mp4"
        self.result.picture = self.options.out / "picture.png"
        write_contact_sheet(self.result.picture, self.keeper.samples)


class FrameReader:
    """Reads `frames/<stream>` and finds the frame that a picture shows, as the encoder saw it."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._preprocessor: Any = None
        self._ahead: Any = None
        self._silent = False  # nothing came for a second: frames precede their tokens, so none is on its way

    def find(self, frame_id: int, info: Any) -> np.ndarray | None:
        """uint8 RGB (h, w, 3), resized like the encoder's but without padding; None if it never came."""
        while self._ahead is None or self._ahead.header.frame_id < frame_id:
            self._ahead = self._next()
            if self._ahead is None:
                return None
        if self._ahead.header.frame_id != frame_id:
            return None
        return crop(self._prepare(self._ahead, info), info.source_rect)

    def _next(self) -> Any:
        from streamtok.wire.message import unpack_frame

        while self._socket.poll(0 if self._silent else 1000):
            self._silent = False
            parts = self._socket.recv_multipart()
            if bytes(parts[0]).startswith(b"frames/"):
                return unpack_frame(parts)
        self._silent = True
        return None

    def _prepare(self, message: Any, info: Any) -> np.ndarray:
        from streamtok.io.zmq_frames import picture_of
        from streamtok.preprocessing.preprocessor import Preprocessor
        from streamtok.types import Frame

        header = message.header
        image = Frame(header.stream, header.frame_id, header.capture_ns, picture_of(header, message.payload)).image
        if self._preprocessor is None:
            self._preprocessor = Preprocessor(
                image.shape[:2], tuple(info.image_size), info.fit, info.spatial_compression
            )
        return self._preprocessor(image).transpose(1, 2, 0)


@contextmanager
def ingest_process(options: DemoSettings, size: tuple[int, int] | None, endpoint: str) -> Iterator[subprocess.Popen]:
    """`streamtok ingest` as a process of its own; it is told to stop if this one leaves early."""
    command = [sys.executable, "-m", "streamtok.cli", "ingest", "--source", options.source, "--stream", STREAM]
    command += ["--model", options.model, "--bind", endpoint, "--device", options.device, "--wait-subscribers", "1"]
    command += ["--realtime", "--publish-frames", "--max-frames", str(options.max_frames), "--json"]
    command += [] if is_live(options.source) else ["--policy", "lossless"]
    command += ["--size", f"{size[0]}x{size[1]}"] if size else []
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    with (options.out / "ingest.log").open("w") as errors:
        node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        try:
            yield node
        finally:
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
            node.wait(timeout=10)


@contextmanager
def reader_of_frames(endpoint: str, node: subprocess.Popen) -> Iterator[FrameReader]:
    """A connected reader of the frames. Raises RuntimeError if the node ends before it has said hello."""
    import zmq

    from streamtok.wire.endpoint import socket_of
    from streamtok.wire.message import Limits

    context = zmq.Context()
    socket = socket_of(context, zmq.SUB, FRAMES_WAITING, Limits().max_part)
    try:
        # frames before info: the first info then proves that the frames that follow will come
        for topic in (b"frames/", b"info/"):
            socket.subscribe(topic)
        socket.connect(endpoint)
        while not socket.poll(200):
            if node.poll() is not None:
                summary_of(node)
        yield FrameReader(socket)
    finally:
        socket.close(0)
        context.term()


def summary_of(node: subprocess.Popen) -> dict:
    """What the node printed at its end, even when it was cut off; RuntimeError if it failed before that."""
    output, _ = node.communicate(timeout=10)
    if output.startswith("{"):
        return json.loads(output)
    raise RuntimeError(f"the ingest node ended with status {node.returncode}; its ingest.log says why")


def is_live(source: str) -> bool:
    """Whether a source is a camera."""
    from streamtok.io.source import open_source

    return open_source(source).live


def suitable_size(source: str) -> tuple[int, int] | None:
    """(H, W) to encode a source at: about `PIXELS`, its shape kept to a multiple of 16; None to leave it as it is."""
    from streamtok.io.source import open_source

    with open_source(source) as opened:
        size = opened.size
    if size is None or math.prod(size) <= PIXELS:
        return None
    scale = math.sqrt(PIXELS / math.prod(size))
    height, width = (max(16, round(side * scale / 16) * 16) for side in size)
    return height, width
