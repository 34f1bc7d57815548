"""Where frames come from: one small interface for cameras, files, folders, sockets and the synthetic drive.

    from streamtok.io.source import open_source

    with open_source("synthetic:256x448@30?seed=1&frames=300") as source:
        for frame in source:
            print(frame.frame_id, frame.capture_ns, frame.image.shape)

What a source is says `streamtok.io.base`, what a frame is `streamtok.types`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamtok.io.base import Source
from streamtok.io.spec import split_options
from streamtok.names import is_camera_path, parse_size

URL_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
DRIVE_SUFFIXES = (".mcap", ".bag", ".db3")
SPEC_HELP = (
    "a video file, a URL (rtsp://...), a camera in /dev (/dev/video0, /dev/v4l/by-id/...), gst:PIPELINE, "
    "synthetic:HxW@FPS?seed=S&frames=N, images:DIR, zmq:ENDPOINT or camera:FILE (a recording that plays the part of a "
    "camera)"
)


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
        from streamtok.io.images import OPTIONS, ImageFolderSource

        folder, options = split_options(spec, rest, OPTIONS)
        return ImageFolderSource(folder, stream, keep_packets=keep_packets, **options, **recorded)
    if scheme == "zmq":
        from streamtok.io.zmq_frames import ZmqSource

        return ZmqSource(rest, stream, max_frames=max_frames, keep_packets=keep_packets)
    if scheme in (*URL_SCHEMES, "gst", "camera") or is_camera_path(spec):
        return _open_camera(spec, stream, max_frames)
    from streamtok.io.video import VideoSource

    path, options = _file(spec.removeprefix("file://"))
    return VideoSource(path, stream, keep_packets=keep_packets, **options, **recorded)


def _open_camera(spec: str, stream: str, max_frames: int | None) -> Source:
    """The camera of a device path, URL, "gst:PIPELINE" or "camera:SRC#faults"."""
    from streamtok.io.camera import CameraSource
    from streamtok.io.opencv_device import OpenCVDevice
    from streamtok.io.played_device import parse_played

    if spec.startswith("camera:"):
        return CameraSource(parse_played(spec, open_source), stream, max_frames=max_frames)
    if spec.startswith("gst:"):
        return CameraSource(OpenCVDevice(spec.removeprefix("gst:"), "gst"), stream, max_frames=max_frames)
    if not is_camera_path(spec):
        return CameraSource(OpenCVDevice(spec, "url"), stream, max_frames=max_frames)
    path, options = split_options(spec, spec, {"size": parse_size, "fps": float, "format": str, "freeze_after": float})
    freeze_after = options.pop("freeze_after", 5.0)
    return CameraSource(OpenCVDevice(path, "v4l2", **options), stream, max_frames=max_frames, freeze_after=freeze_after)


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
