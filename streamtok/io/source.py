"""Where frames come from: one small interface for cameras, files, folders, sockets and the synthetic drive.

    from streamtok.io.source import open_source

    with open_source("synthetic:256x448@30?seed=1&frames=300") as source:
        for frame in source:
            print(frame.frame_id, frame.capture_ns, frame.image.shape)

Times are nanoseconds of the monotonic clock. A camera's frame carries the driver's time where there is one, else its
arrival, taken before any conversion. A recording's frame carries the session's start (when the source was opened) plus
its presentation time, whether or not it is played in real time.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import numpy as np

from streamtok.engine.pixels import RawImage

log = logging.getLogger("streamtok.io")

STREAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
SCHEMES = ("synthetic", "images", "zmq", "gst", "camera")
URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
DRIVE_SUFFIXES = (".mcap", ".bag", ".db3")
SPEC_HELP = (
    "a video file, a URL (rtsp://...), /dev/videoN, gst:PIPELINE, synthetic:HxW@FPS?seed=S&frames=N, images:DIR, "
    "zmq:ENDPOINT or camera:FILE (a recording that plays the part of a camera)"
)


@dataclass(frozen=True)
class Frame:
    """One camera image, `frame_id` as the camera counts, `capture_ns` on the monotonic clock.

    `picture` is uint8 RGB (H, W, 3), or a `RawImage`: the camera's bytes, which a GPU may convert.
    """

    stream: str
    frame_id: int
    capture_ns: int
    picture: np.ndarray | RawImage
    packet: bytes | None = None
    """The compressed packet this image was decoded from, where the source has one and was asked to keep it."""
    codec: str | None = None

    @cached_property
    def image(self) -> np.ndarray:
        """The picture as uint8 RGB (H, W, 3), converted at the first use."""
        return self.picture.rgb() if isinstance(self.picture, RawImage) else self.picture


class EndOfSource(Exception):
    """No further frame will come; `reason` says why in words (end of file, closed, frames asked for delivered)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Source:
    """Frames of one stream, in order. A context manager, and an iterator that ends when the source does.

    Subclasses fill in `_open`, `_read` and `_close`. `state` is "up", "lost" (not delivering now, may come back) or
    "ended". `counts` holds `frames`, `reconnects`, `frozen` (times the image stood still for too long), `damaged`.
    """

    live = False
    """A camera, which does not wait for its reader; a recording does."""

    def __init__(self, stream: str = "cam0", *, max_frames: int | None = None) -> None:
        if not STREAM_NAME.fullmatch(stream):
            raise ValueError(f"stream name {stream!r}: expected 1 to 64 of A-Z a-z 0-9 _ -")
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames is {max_frames}: expected 1 or more, or None for no limit")
        self.stream = stream
        self.max_frames = max_frames
        self.fps: float | None = None
        self.size: tuple[int, int] | None = None
        self.state = "lost"
        self.counts: Counter[str] = Counter()
        self.end_reason = ""
        self._stop = threading.Event()

    def open(self) -> None:
        """Connect or open the file; sets `size` (height, width) and `fps` where they are known. Raises OSError."""
        self._stop.clear()
        self._open()
        self.state = "up"

    def read(self, timeout: float | None = None) -> Frame | None:
        """The next frame, or None when none came within `timeout` seconds; raises EndOfSource at the end."""
        if self.state == "ended":
            raise EndOfSource(self.end_reason)
        if self.max_frames is not None and self.counts["frames"] >= self.max_frames:
            self.end(f"{self.max_frames} frames asked for were delivered")
        frame = self._read(timeout)
        if frame is not None:
            self.counts["frames"] += 1
        return frame

    def end(self, reason: str) -> NoReturn:
        """Mark the source as ended and raise EndOfSource."""
        self.state, self.end_reason = "ended", reason
        raise EndOfSource(reason)

    def close(self) -> None:
        """Release device or file; wakes a `read` that waits in another thread. Closing twice is fine."""
        self._stop.set()
        if self.state != "ended":
            self.state, self.end_reason = "ended", "closed"
        self._close()

    def __enter__(self) -> Source:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            try:
                frame = self.read(timeout=1.0)
            except EndOfSource:
                return
            if frame is not None:
                yield frame

    def _open(self) -> None:
        raise NotImplementedError

    def _read(self, timeout: float | None) -> Frame | None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class RecordedSource(Source):
    """A source that could deliver at once and may be paced: frames come out at the time they carry if `realtime`.

    Subclasses give frames by `_next` (None at the end), with `capture_ns` from `self.start_ns` on. `start_ns` is the
    monotonic time of opening unless given.
    """

    def __init__(
        self, stream: str, *, realtime: bool = False, max_frames: int | None = None, start_ns: int | None = None
    ) -> None:
        super().__init__(stream, max_frames=max_frames)
        self.realtime = realtime
        self._given_start = start_ns
        self.start_ns = 0
        self._pending: Frame | None = None

    def open(self) -> None:
        self._pending = None
        super().open()
        self.start_ns = time.monotonic_ns() if self._given_start is None else self._given_start

    def skip_to(self, capture_ns: int) -> None:
        """Pass over the frames before a time; they do not count as delivered."""
        while self._pending is None or self._pending.capture_ns < capture_ns:
            self._pending = self._next()
            if self._pending is None:
                return

    def _next(self) -> Frame | None:
        raise NotImplementedError

    def _read(self, timeout: float | None) -> Frame | None:
        if self._pending is None:
            self._pending = self._next()
        frame = self._pending
        if frame is None:
            self.end("end of the recording")
        if self.realtime and not self._wait_until(frame.capture_ns, timeout):
            return None
        self._pending = None
        return frame

    def _wait_until(self, due_ns: int, timeout: float | None) -> bool:
        wait = (due_ns - time.monotonic_ns()) / 1e9
        if wait <= 0:
            return True
        early = timeout is not None and timeout < wait
        if self._stop.wait(timeout if early else wait):
            self.end("closed")
        return not early


def open_source(
    spec: str,
    stream: str = "cam0",
    *,
    realtime: bool | None = None,
    max_frames: int | None = None,
    keep_packets: bool = False,
) -> Source:
    """The source that `spec` names, not opened yet (use it in a `with`, or call `open`).

    `realtime` paces recordings by their own times (None: no); cameras always are. With `keep_packets`, frames of
    compressed sources carry the packet they were decoded from, where each packet is one frame. ValueError says what
    is wrong with the spec; a missing file raises FileNotFoundError.
    """
    scheme, _, rest = spec.partition(":")
    recorded: dict[str, Any] = {"realtime": bool(realtime), "max_frames": max_frames}
    if scheme == "synthetic":
        from streamtok.io.synthetic import parse_synthetic

        return parse_synthetic(spec, stream, realtime=bool(realtime), max_frames=max_frames)
    if scheme == "images":
        from streamtok.io.images import ImageFolderSource

        folder, options = split_options(spec, rest, {"fps": float, "timestamps": str})
        return ImageFolderSource(folder, stream, keep_packets=keep_packets, **options, **recorded)
    if scheme == "zmq":
        from streamtok.io.zmq_frames import ZmqSource

        return ZmqSource(rest, stream, max_frames=max_frames, keep_packets=keep_packets)
    if scheme in (*URL_SCHEMES, "gst", "camera") or spec.startswith("/dev/video"):
        from streamtok.io.camera import parse_camera

        return parse_camera(spec, stream, max_frames=max_frames)
    from streamtok.io.video import VideoSource

    path, options = _file(spec.removeprefix("file://"))
    return VideoSource(path, stream, keep_packets=keep_packets, **options, **recorded)


def split_options(spec: str, text: str, allowed: dict[str, Callable[[str], Any]]) -> tuple[str, dict]:
    """`text` "NAME?key=value&..." as (NAME, options), values of the `allowed` type; errors quote the whole `spec`."""
    name, _, query = text.partition("?")
    options: dict = {}
    for key, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        if key not in allowed:
            raise ValueError(f"source {spec!r}: unknown option {key!r}; known: {', '.join(allowed) or 'none'}")
        try:
            options[key] = allowed[key](value)
        except ValueError as error:
            raise ValueError(f"source {spec!r}: option {key}={value!r}: {error}") from error
    return name, options


def parse_size(text: str) -> tuple[int, int]:
    """ "720x1280" as (height, width), the order in which tensors are written."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or min(int(match[1]), int(match[2])) < 1:
        raise ValueError(f"size {text!r}: expected HEIGHTxWIDTH in pixels, for example 720x1280")
    return int(match[1]), int(match[2])


def _file(text: str) -> tuple[Path, dict]:
    """Path and options of "FILE" or "FILE?fps=20" (for streams without times); says what else it may be."""
    path = Path(text)
    options: dict[str, Any] = {}
    if not path.exists() and "?" in text:
        name, options = split_options(text, text, {"fps": float})
        path = Path(name)
    if path.is_dir():
        raise ValueError(f"source {text!r} is a folder: write images:{text} for a folder of images")
    if not path.exists():
        scheme = text.partition(":")[0]
        hint = f"; {scheme!r} is no kind of source" if ":" in text and "/" not in scheme else ""
        raise FileNotFoundError(f"source {text!r}: no such file{hint}. A source is {SPEC_HELP}")
    if path.suffix.lower() in DRIVE_SUFFIXES:
        raise ValueError(f"source {text!r} is a recorded drive: use `streamtok replay {text}`")
    return path, options
