"""Open any source of frames by its name: cameras, files, folders, sockets and the synthetic drive.

    from streamtok.io.source import open_source

    with open_source("synthetic:256x448@30?seed=1&frames=300") as source:
        for frame in source:
            print(frame.frame_id, frame.capture_ns, frame.image.shape)

`streamtok.io.base` says what a source is, `streamtok.types` what a frame is.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.io.base import RecordedSource, Source
from streamtok.io.cameras.camera import CameraSource, Device
from streamtok.io.cameras.gstreamer_device import GStreamerDevice, has_gstreamer
from streamtok.io.cameras.network_camera import NetworkCamera
from streamtok.io.cameras.opencv_device import OpenCVDevice
from streamtok.io.cameras.played_device import parse_played
from streamtok.io.cameras.snapshot_device import is_snapshot, parse_snapshot
from streamtok.io.cameras.web import ask_web
from streamtok.io.images.source import ImageFileSource, parse_images
from streamtok.io.spec import parse_positive, parse_rate, split_file, split_options
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.io.synthetic import parse_synthetic
from streamtok.io.video.source import VideoSource
from streamtok.io.zmq_frames import ZmqSource
from streamtok.names import is_camera_path, parse_size
from streamtok.preprocessing.preprocessor import Preprocessor
from streamtok.types import Frame

URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "rtp", "tcp", "srt")
DRIVE_SUFFIXES = (".mcap", ".bag", ".db3")
SPEC_HELP = (
    "a video or image file, - for standard input, a URL (rtsp://...), a camera in /dev (/dev/video0, "
    "/dev/v4l/by-id/...), snapshot:URL#fps=1, gst:PIPELINE, synthetic:HxW@FPS?seed=S&frames=N, images:DIR, "
    "zmq:ENDPOINT or camera:FILE (a recording that plays the part of a camera)"
)
CAMERA_OPTIONS: dict[str, Callable[[str], Any]] = {
    "size": parse_size,
    "fps": parse_rate,
    "format": str,
    "freeze_after": parse_positive,
}


def open_source(
    spec: str,
    stream: str = "cam0",
    *,
    realtime: bool | None = None,
    max_frames: int | None = None,
    keep_packets: bool = False,
) -> Source:
    """The source that `spec` names, not opened yet (use it in a `with`, or call `open`).

    `realtime` paces a recording by its timestamps. With `keep_packets`, frames of compressed sources carry the packet
    they came in, where each packet is one frame. Raises ValueError for a wrong spec, FileNotFoundError if there is no
    such file.
    """
    scheme, _, rest = spec.partition(":")
    paced: dict[str, Any] = {"realtime": bool(realtime), "max_frames": max_frames}
    if scheme == "synthetic":
        return parse_synthetic(spec, stream, **paced)
    if scheme == "images":
        return parse_images(spec, stream, keep_packets=keep_packets, **paced)
    if scheme == "zmq":
        return ZmqSource(rest, stream, max_frames=max_frames, keep_packets=keep_packets)
    if scheme in (*URL_SCHEMES, "gst", "camera", "snapshot") or is_camera_path(spec):
        kind = "picture" if is_snapshot(spec) else ask_web(spec)
        if kind == "file":
            return VideoSource(spec, stream, keep_packets=keep_packets, **paced)
        device, watched = _make_device(spec, kind)
        return CameraSource(device, stream, max_frames=max_frames, **watched)
    path, options = _find_file(spec)
    if path.suffix == ".sdp":
        return CameraSource(NetworkCamera(str(path)), stream, max_frames=max_frames)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFileSource(path, stream, **options, **paced)
    return VideoSource(path, stream, options=options, keep_packets=keep_packets, **paced)


def _make_device(spec: str, kind: str) -> tuple[Device, dict[str, Any]]:
    """The device of a path, URL, "gst:PIPELINE" or "camera:SRC#faults", and options of its `CameraSource`.

    `kind` is what a web server gives at a URL, as `ask_web` says.
    """
    if kind == "picture":
        return parse_snapshot(spec), {}
    if kind == "pictures":  # slow or small ones would not fill in time what FFmpeg reads to recognize them
        return NetworkCamera(spec, form="mjpeg"), {}
    if spec.startswith("camera:"):
        return parse_played(spec, open_source), {}
    if spec.startswith("gst:"):
        pipeline = spec.removeprefix("gst:")
        return OpenCVDevice(pipeline, "gst") if has_gstreamer() else GStreamerDevice(pipeline), {}
    if not is_camera_path(spec):
        return NetworkCamera(spec), {}
    path, options = split_options(spec, spec, CAMERA_OPTIONS)
    watched = {"freeze_after": options.pop("freeze_after", 5.0)}
    return OpenCVDevice(path, "v4l2", **options), watched


def _find_file(text: str) -> tuple[Path, dict[str, Any]]:
    """Path and options of a file, as `split_file` gives them; errors hint at what else was meant."""
    named, _, query = text.partition("?")
    parent, series = Path(named).parent, re.sub(r"%\d*d", "*", Path(named).name)
    if "*" in series and parent.is_dir() and not (Path(named).exists() or Path(text).exists()):
        hint = f"images:{parent}?names={series}&{query or 'fps=25'}"
        raise FileNotFoundError(f"source {text!r}: for a series write {hint}")
    path, options = split_file(text)
    if path.is_dir():
        raise ValueError(f"source {text!r} is a folder: write images:{text} for a folder of images")
    if not path.exists():
        scheme = text.partition(":")[0]
        hint = f"; {scheme!r} is no kind of source" if ":" in text and "/" not in scheme else ""
        raise FileNotFoundError(f"source {text!r}: no such file{hint}. A source is {SPEC_HELP}")
    if path.suffix.lower() in DRIVE_SUFFIXES:
        raise ValueError(f"source {text!r} is a recorded drive: use `streamtok replay {text}`")
    return path, options


@dataclass(frozen=True)
class FrameStream:
    """Frames in order; `capture_ns` counts from the start of the file. `total` is an estimate, for a progress bar.

    `counts` are those of the source: `damaged` frames could not be read.
    """

    frames: Iterator[Frame]
    fps: float | None = None
    total: int | None = None
    counts: Counter[str] = field(default_factory=Counter)


@contextmanager
def open_frames(spec: str, max_frames: int | None = None) -> Iterator[FrameStream]:
    """The frames of any source with presentation times, to be read within the `with`."""
    with open_source(spec, max_frames=max_frames) as source:
        start = source.start_ns if isinstance(source, RecordedSource) else None
        total = max_frames or source.expected_frames or None
        yield FrameStream(_count_from(source, start), source.fps, total, source.counts)


def _count_from(frames: Iterable[Frame], start_ns: int | None) -> Iterator[Frame]:
    """The frames with times counted from `start_ns`, or from the first one."""
    for frame in frames:
        start_ns = frame.capture_ns if start_ns is None else start_ns
        yield replace(frame, capture_ns=frame.capture_ns - start_ns)


def resize_frames(frames: Iterable[Frame], size: tuple[int, int]) -> Iterator[Frame]:
    """The same frames at `size` (H, W), resized in the integer arithmetic of live streams."""
    prepare = None
    for frame in frames:
        shape = frame.image.shape[:2]
        if prepare is None or prepare.source_size != shape:
            prepare = Preprocessor(shape, size, multiple=1)
        yield replace(frame, picture=np.ascontiguousarray(prepare(frame.image).transpose(1, 2, 0)))
