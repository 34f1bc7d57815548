"""Files and network streams opened with PyAV: which of their streams is the video, and why one cannot be read.

A container is whatever FFmpeg demuxes, so errors of files, HTTP and RTSP are explained in one place.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import av.error
from av.stream import Disposition

from streamtok.io.certificates import find_fault, tls_options, without_option
from streamtok.names import is_url, without_password

log = logging.getLogger("streamtok.io")

OPEN_S, READ_S = 5.0, 5.0
LOW_DELAY = {"flags": "low_delay", "probesize": "65536", "analyzeduration": "100000"}
RTSP = {"rtsp_flags": "prefer_tcp", "reorder_queue_size": "2", "allowed_media_types": "video"}
WEB_FILE = {"multiple_requests": "1"}  # else FFmpeg 8.1 loses what it seeks to, on a connection that closes
RTP = {"protocol_whitelist": "file,udp,rtp", "reorder_queue_size": "16"}  # what FFmpeg lets no SDP file do unasked
NO_VIDEO = {"tty", "cdg"}  # what FFmpeg makes of text, and of HDF5
REFUSALS: list[tuple[type[Exception], str]] = [
    (
        av.error.HTTPUnauthorizedError,
        "user name or password is missing or wrong (401): SCHEME://USER:PASSWORD@HOST/PATH",
    ),
    (av.error.HTTPForbiddenError, "this user may not see it (403)"),
    (av.error.HTTPNotFoundError, "there is nothing of that name (404): is the path of the URL right?"),
    (av.error.HTTPError, "the server refuses it or fails"),
    (ConnectionRefusedError, "nothing listens at that address and port (connection refused)"),
    (TimeoutError, f"no answer within {OPEN_S:.0f} s: is the camera switched on, and reachable from here?"),
    (av.error.ExitError, f"no answer within {OPEN_S:.0f} s: is the camera switched on, and reachable from here?"),
]


def is_rtp(target: str) -> bool:
    """Whether a target sends RTP: it is a URL of RTSP or RTP, or a file that describes such a stream (SDP)."""
    return urlsplit(target).scheme in ("rtsp", "rtsps", "rtp") or target.endswith(".sdp")


def open_container(
    target: str, *, stream: int | None = None, live: bool = False, form: str | None = None
) -> tuple[Any, Any]:
    """The container of PyAV, and its video stream: number `stream` of them, else the default one, else the first.

    `live` asks for the options of least delay, `form` for one of FFmpeg's demuxers. Raises FileNotFoundError, OSError
    for what the network refuses, and ValueError for what is no video, each saying what to do.
    """
    if not is_url(target) and (not Path(target).exists() or Path(target).is_dir()):
        raise FileNotFoundError(f"video {target!r}: no such file")
    try:
        container = connect(target, live, form)
    except (av.FFmpegError, OSError) as error:
        raise _explain(target, error) from error
    try:
        if container.format.name in NO_VIDEO:
            raise ValueError(f"{target} is no video: FFmpeg would take it for {container.format.long_name}")
        return container, _choose_stream(container, without_password(target), stream)
    except ValueError:
        container.close()
        raise


def connect(target: str, live: bool = False, form: str | None = None) -> Any:
    """The container of PyAV of a file or URL, with the options that it needs; raises as `av.open` does."""
    options, scheme = dict(LOW_DELAY) if live else {}, urlsplit(target).scheme
    if live and is_rtp(target):
        options |= RTSP if scheme in ("rtsp", "rtsps") else RTP
    elif scheme in ("http", "https") and not live:
        options |= WEB_FILE
    options |= tls_options(target)
    timeout = (OPEN_S, READ_S) if live or is_url(target) else None
    address = without_option(target) if is_url(target) else f"file:{target}"  # a time in its name is no protocol
    return av.open(address, format=form, options=options, timeout=timeout, metadata_errors="replace")


def video_streams(container: Any) -> list[Any]:
    """The video streams of a container of PyAV; pictures attached to it, such as a cover, do not count."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def demux(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of one stream, from where the container is, with an empty one at the end.

    PyAV breaks off with an IndexError at a packet of a stream that was not there before, as damage makes them up, and
    FFmpeg once behind a transport stream that ends in zeros.
    """
    again = False
    while True:
        try:
            for packet in container.demux(stream):
                yield packet
                again = again and not packet.size
            return
        except IndexError:
            continue
        except av.error.BlockingIOError:
            if again:
                raise
            again = True


def _choose_stream(container: Any, name: str, wanted: int | None) -> Any:
    streams = video_streams(container)
    if not streams:
        raise ValueError(f"{name} holds no video stream: no frame that can be decoded")
    if wanted is not None and wanted >= len(streams):
        raise ValueError(f"{name} has no video stream {wanted}: it has {len(streams)}, counted from 0")
    marked = [stream for stream in streams if stream.disposition & Disposition.default]
    number = streams.index(marked[0]) if len(marked) == 1 else 0
    if wanted is None and len(streams) > 1:
        read = f"{number} is read, FILE?stream=N reads another"
        log.warning("file=%s event=several_streams count=%d reason=%r", name, len(streams), read)
    stream = streams[number if wanted is None else wanted]
    if stream.codec_context is None:
        raise ValueError(f"{name}: its codec is not known to this FFmpeg: no frame that can be decoded")
    return stream


def _explain(target: str, error: Exception) -> Exception:
    """The error to raise where a target cannot be opened."""
    name, reason = without_password(target), getattr(error, "strerror", None) or str(error)
    if not is_url(target):
        if isinstance(error, PermissionError):
            return PermissionError(f"{name}: not allowed to read it")
        if Path(target).is_file() and not Path(target).stat().st_size:
            reason = "it is empty (0 bytes)"
        elif _lacks_index(Path(target)):
            reason = "its index (moov) is missing: it was not closed, or is cut off; untrunc may repair it"
        return ValueError(f"{name} cannot be read as a video, it holds no frame that can be decoded: {reason}")
    advice = next((text for kind, text in REFUSALS if isinstance(error, kind)), "") or find_fault(target, OPEN_S)
    if not advice and not _has_address(target):
        advice = f"the host {urlsplit(target).hostname!r} is not known: is the name right, and does the network work?"
    if not advice and isinstance(error, av.error.InvalidDataError) and is_rtp(target):
        advice = "it answers, and offers no video: are the port and the path right, and does VLC show it?"
    if not advice and (isinstance(error, av.error.InvalidDataError) or urlsplit(target).scheme in ("http", "https")):
        advice = "what comes is no video (a web page of the camera?): give the URL of its stream"
    number = getattr(error, "errno", None)
    system = [number] if number in errno.errorcode else []  # others are FFmpeg's own, and tell nobody anything
    return OSError(*system, f"{name} cannot be opened: {advice or reason}")


def _has_address(url: str) -> bool:
    try:
        return bool(socket.getaddrinfo(urlsplit(url).hostname, None))
    except OSError:
        return False


def _lacks_index(path: Path) -> bool:
    """Whether a file is MP4 or MOV without the box that says where pictures lie."""
    size, at = path.stat().st_size, 0
    kinds: list[bytes] = []
    with path.open("rb") as file:
        while at + 8 <= size and len(kinds) < 1000:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            kinds.append(kind)
            at += int.from_bytes(head[8:], "big") if length == 1 else length if length >= 8 else size
    return b"ftyp" in kinds[:1] and b"moov" not in kinds
