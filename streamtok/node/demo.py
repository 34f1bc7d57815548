"""Runs the demo: a real ingest node in its own process, a reader that decodes in this one, and pictures of both."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from streamtok.cores import count_cores
from streamtok.engine.loading import load
from streamtok.io.picture_writer import PictureWriter, open_pictures
from streamtok.io.source import open_source
from streamtok.io.zmq_frames import decode_picture
from streamtok.measures import EvenSample, psnr_from_mse
from streamtok.model import Tokenizer
from streamtok.model.decoding import crop
from streamtok.node.contact_sheet import COLUMNS, Moment, side_by_side, write_contact_sheet
from streamtok.node.live_decoder import LiveDecoder
from streamtok.preprocessing.preprocessor import Preprocessor
from streamtok.types import Frame
from streamtok.wire.control import ControlError
from streamtok.wire.header import Info
from streamtok.wire.message import FrameMessage, TokenMessage
from streamtok.wire.subscriber import Subscription

PIXELS = 256 * 448  # larger sources are resized to about this, so that two cores finish in a minute
STREAM = "demo"
FRAMES_WAITING = 512  # camera images kept for comparison, as the node runs ahead of decoding
LATE_S = 1.0  # age of a message since its publication beyond which it is skipped, up to the next keyframe
LAST_S = 20.0  # how long messages in transit are waited for when the time is up
Reader = Subscription[TokenMessage | FrameMessage]


@dataclass
class DemoResult:
    """The result so far; `errors` are the mean squared errors of the pictures, in 8-bit units."""

    started: float = field(default_factory=time.monotonic)
    info: Info | None = None
    node: dict[str, Any] = field(default_factory=dict)
    pictures: int = 0
    groups: int = 0
    encoded: int = 0  # frames whose tokens came
    reached: int = 0  # frames of the source up to the last one encoded
    passed_over: int = 0  # messages that were not decoded, to stay in real time
    decode_s: list[float] = field(default_factory=list)
    payload_bytes: int = 0
    lost: int = 0
    seconds: float = 0.0
    errors: list[float] = field(default_factory=list)
    video: Path | None = None
    picture: Path | None = None

    @property
    def psnr(self) -> float:
        """PSNR in dB of the mean squared error over all pictures; NaN if there is none."""
        return psnr_from_mse(fmean(self.errors) / 255**2) if self.errors else math.nan

    @property
    def fps(self) -> float:
        """Frames per second of the source, or 30 if it does not say."""
        return self.info.frame_rate or 30.0 if self.info is not None else 30.0

    @property
    def left_out(self) -> int:
        """Frames that the node dropped because it, or reading the source, was too slow."""
        return sum(stream["dropped"] for stream in self.node.get("streams", {}).values())

    @property
    def cameras(self) -> dict[str, float]:
        """How many cameras of this size and rate the machine encodes, and decodes at the same time; 0 is unknown."""
        group_ms = 1e3 * (self.info.temporal_compression if self.info is not None else 1) / self.fps
        encode_ms = self.node.get("latency_ms", {}).get("encode", {}).get("p50", math.inf)
        decode_ms = 1e3 * median(self.decode_s) if self.decode_s else math.inf
        return {"encode": round(group_ms / encode_ms, 2), "decode": round(group_ms / decode_ms, 2)}

    @property
    def token_bits_per_second(self) -> float:
        """Bits of token payload per second of video."""
        return 8 * self.payload_bytes / max(self.encoded, 1) * self.fps

    @property
    def raw_bits_per_second(self) -> float:
        """Bits of the same video as 8-bit RGB."""
        return 24 * math.prod(self.info.image_size) * self.fps if self.info is not None else 0.0


def run_demo(
    source: str,
    model: str,
    out: Path,
    *,
    size: tuple[int, int] | None = None,
    max_frames: int = 301,
    max_seconds: float = 100.0,
    device: str = "auto",
    on_progress: Callable[[DemoResult], None] = lambda result: None,
) -> DemoResult:
    """Run the whole pipeline once, and write pictures to `out`; `streamtok demo --help` describes the other options.

    Raises RuntimeError if the node fails, ValueError or OSError for a source that cannot be opened.
    """
    result, size = DemoResult(), size or choose_size(source)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(max(1, count_cores() // 2))  # the other half is for the node's process
    viewer = DemoViewer(out, load(model, engine="default", device="cpu"), result, on_progress)
    arguments = ["--source", source, "--stream", STREAM, "--model", model, "--device", device]
    arguments += ["--max-frames", str(max_frames), *(["--size", f"{size[0]}x{size[1]}"] if size else [])]
    with tempfile.TemporaryDirectory(prefix="streamtok-") as folder:
        socket = Path(folder) / "tokens"
        with ingest_process(arguments, f"ipc://{socket}", out / "ingest.log") as node:
            wait_for_socket(socket, node)
            with Reader(
                f"ipc://{socket}",
                [STREAM],
                kinds=("frames", "tokens", "info"),
                until_end=True,
                queue_size=FRAMES_WAITING,
            ) as reader:
                viewer.watch(reader, node, result.started + max_seconds)
            result.node = read_summary(node)
    return result


class DemoViewer:
    """The reading side: it decodes tokens to pictures, and compares these with the camera's frames."""

    def __init__(
        self, out: Path, tokenizer: Tokenizer, result: DemoResult, on_progress: Callable[[DemoResult], None]
    ) -> None:
        self.out, self.result, self.on_progress = out, result, on_progress
        self.decoder = LiveDecoder(tokenizer)
        self.originals = Originals()
        self.moments = EvenSample[Moment](2 * COLUMNS)
        self.video: PictureWriter | None = None
        self._first_ns = 0
        self._late = False

    def watch(self, reader: Reader, node: subprocess.Popen[str], deadline: float) -> None:
        """Read to the end of the stream, or until `deadline` (monotonic s)."""
        started, late_s = time.monotonic(), 0.0
        while late_s <= LAST_S:
            message = reader.get(timeout=0.5)
            if isinstance(message, FrameMessage):
                self.originals.add(message)
            elif message is not None:
                self._take(message, reader)
            elif node.poll() is not None:
                break
            self.result.seconds = time.monotonic() - started
            self.on_progress(self.result)
            before, late_s = late_s, time.monotonic() - deadline
            if before <= 0 < late_s:
                node.send_signal(signal.SIGTERM)
        self.result.lost = reader.missing
        self._close()

    def _take(self, message: TokenMessage, reader: Reader) -> None:
        """Count a message, and show its pictures unless it is too late."""
        result, header = self.result, message.header
        result.info = reader.info(STREAM)
        result.groups += 1
        result.payload_bytes += len(message.payload)
        result.encoded += len(header.frame_ids)
        result.reached = header.frame_ids[-1] + 1
        late = time.monotonic_ns() - header.publish_ns > LATE_S * 1e9
        if late and not self._late and not reader.ended:
            with contextlib.suppress(TimeoutError, ControlError):  # the node has ended, or is too busy
                reader.request_keyframe(STREAM, timeout=0.5)
        self._late = late or (self._late and not header.keyframe)
        if self._late:
            result.passed_over += 1
        else:
            self._show(message, result.info)

    def _show(self, message: TokenMessage, info: Info) -> None:
        result, began = self.result, time.monotonic()
        pictures = self.decoder.feed(message)
        result.decode_s.append(time.monotonic() - began)
        for picture in pictures:
            result.pictures += 1
            original = self.originals.find(picture.frame_id, info)
            if original is not None:
                self._compare(original, crop(picture.image, info.source_rect), picture, message.tokens)

    def _compare(self, original: np.ndarray, decoded: np.ndarray, picture: Frame, tokens: np.ndarray) -> None:
        """Measure and draw one picture: `original` and `decoded` are uint8 RGB (h, w, 3)."""
        result = self.result
        difference = original.astype(np.float32) - decoded
        result.errors.append(float(np.mean(difference * difference)))
        rates = result.raw_bits_per_second, result.token_bits_per_second
        image = side_by_side(original, decoded, *rates)
        if self.video is None:
            self._first_ns = picture.capture_ns
            self.video = open_pictures(self.out / "side_by_side.mp4", image.shape[:2], result.fps)
        self.video.write(image, picture.capture_ns - self._first_ns)
        self.moments.add(Moment(picture.frame_id, original, tokens, decoded))

    def _close(self) -> None:
        self.decoder.close()
        if self.video is None:
            return
        self.video.close()
        self.result.video = self.out / "side_by_side.mp4"
        self.result.picture = self.out / "picture.png"
        write_contact_sheet(self.result.picture, self.moments.kept)


class Originals:
    """The camera images that wait for their decoded pictures, which come later."""

    def __init__(self) -> None:
        self._waiting: deque[FrameMessage] = deque(maxlen=FRAMES_WAITING)
        self._preprocessor: Preprocessor | None = None

    def add(self, message: FrameMessage) -> None:
        """Keep an image until `find` takes it."""
        self._waiting.append(message)

    def find(self, frame_id: int, info: Info) -> np.ndarray | None:
        """Take a frame's image, uint8 RGB (h, w, 3), resized as for the encoder but without padding.

        Older images are discarded. Returns None if it never came.
        """
        while self._waiting and self._waiting[0].header.frame_id < frame_id:
            self._waiting.popleft()
        if not self._waiting or self._waiting[0].header.frame_id > frame_id:
            return None
        return crop(self._prepare(self._waiting.popleft(), info), info.source_rect)

    def _prepare(self, message: FrameMessage, info: Info) -> np.ndarray:
        header = message.header
        image = Frame(header.stream, header.frame_id, header.capture_ns, decode_picture(header, message.payload)).image
        if self._preprocessor is None:
            height, width = info.image_size
            self._preprocessor = Preprocessor(image.shape[:2], (height, width), info.fit, info.spatial_compression)
        return self._preprocessor(image).transpose(1, 2, 0)


@contextmanager
def ingest_process(arguments: list[str], endpoint: str, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `streamtok ingest` in another process, which is stopped at the end of the block."""
    command = [sys.executable, "-m", "streamtok.cli", "ingest", *arguments, "--bind", endpoint]
    command += ["--wait-subscribers", "1", "--realtime", "--publish-frames", "--json"]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    with log.open("w") as errors:
        node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        try:
            yield node
        finally:
            if node.poll() is None:
                node.send_signal(signal.SIGTERM)
            node.wait(timeout=10)


def wait_for_socket(path: Path, node: subprocess.Popen[str]) -> None:
    """Wait until the node has bound its socket; raises RuntimeError if it ends before."""
    while not path.exists():
        if node.poll() is not None:
            read_summary(node)
        time.sleep(0.05)


def read_summary(node: subprocess.Popen[str]) -> dict[str, Any]:
    """Read the summary that the node printed at its end; RuntimeError if it ended without one."""
    output, _ = node.communicate(timeout=10)
    if output.startswith("{"):
        return json.loads(output)
    raise RuntimeError(f"the ingest node ended with status {node.returncode}; its ingest.log says why")


def choose_size(source: str) -> tuple[int, int] | None:
    """The (H, W) to encode a source at: about `PIXELS` in multiples of 16, its aspect kept; None for its own size."""
    with open_source(source) as opened:
        size = opened.size
    if size is None or math.prod(size) <= PIXELS:
        return None
    scale = math.sqrt(PIXELS / math.prod(size))
    height, width = (max(16, round(side * scale / 16) * 16) for side in size)
    return height, width
