"""Open any source of frames by its name: cameras, files, folders, sockets and the synthetic drive.

with open_source("synthetic:256x448@30?seed=1&frames=300") as source:
    for frame in source:
        print(frame.frame_id, frame.capture_ns, frame.image.shape)
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.io.base import RecordedSource, Source
from streamtok.io.cameras.camera import CameraSource, Device
from streamtok.io.cameras.gstreamer_device import GStreamerDevice
from streamtok.io.cameras.network_camera import NetworkCamera
from streamtok.io.cameras.played_device import parse_played
from streamtok.io.cameras.snapshot_device import is_snapshot, parse_snapshot
from streamtok.io.cameras.v4l2_device import V4L2Device
from streamtok.io.cameras.web import ask_web
from streamtok.io.images.folder import OPTIONS
from streamtok.io.images.source import ImageFileSource, ImageFolderSource
from streamtok.io.spec import parse_positive, parse_rate, split_file, split_options
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.io.synthetic import parse_synthetic
from streamtok.io.video.source import VideoSource
from streamtok.io.zmq_frames import ZmqSource
from streamtok.names import is_camera_path, parse_size
from streamtok.preprocessing.preprocessor import Preprocessor
from streamtok.types import Frame

URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "rtp", "tcp", "srt")
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
        folder, options = split_options(spec, rest, OPTIONS)
        return ImageFolderSource(folder, stream, options=options, keep_packets=keep_packets, **paced)
    if scheme == "zmq":
        return ZmqSource(rest, stream, max_frames=max_frames, keep_packets=keep_packets)
    if is_camera_path(spec):
        return _open_camera(spec, stream, max_frames)
    if scheme in (*URL_SCHEMES, "gst", "camera", "snapshot"):
        kind = "picture" if is_snapshot(spec) else ask_web(spec)
        if kind == "file":
            return VideoSource(spec, stream, keep_packets=keep_packets, **paced)
        return CameraSource(_make_device(spec, kind), stream, max_frames=max_frames)
    path, options = _find_file(spec)
    if path.suffix == ".sdp":
        return CameraSource(NetworkCamera(str(path)), stream, max_frames=max_frames)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFileSource(path, stream, **options, **paced)
    return VideoSource(path, stream, options=options, keep_packets=keep_packets, **paced)


def _open_camera(spec: str, stream: str, max_frames: int | None) -> CameraSource:
    """The source of a camera in /dev."""
    path, options = split_options(spec, spec, CAMERA_OPTIONS)
    freeze_after = options.pop("freeze_after", 5.0)
    return CameraSource(V4L2Device(path, **options), stream, max_frames=max_frames, freeze_after=freeze_after)


def _make_device(spec: str, kind: str) -> Device:
    """The device of a URL, "gst:PIPELINE" or "camera:SRC#faults"; `kind` is what `ask_web` says of a URL."""
    if kind == "picture":
        return parse_snapshot(spec)
    if kind == "pictures":  # slow or small ones would not fill in time what FFmpeg reads to recognize them
        return NetworkCamera(spec, form="mjpeg")
    if spec.startswith("camera:"):
        return parse_played(spec, open_source)
    if spec.startswith("gst:"):
        return GStreamerDevice(spec.removeprefix("gst:"))
    return NetworkCamera(spec)


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


def count_from_start(source: Source) -> Iterator[Frame]:
    """The frames of an open source, with times counted from the recording's start, or from a camera's first frame."""
    start_ns = source.start_ns if isinstance(source, RecordedSource) else None
    for frame in source:
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
