"""Open files and network streams with PyAV, choose their video stream, and explain why one cannot be opened.

A container is whatever FFmpeg demuxes, so errors of files, HTTP and RTSP are explained in one place.
"""

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import av
import av.error
from av.format import Flags
from av.stream import Disposition

from streamtok.io.certificates import find_tls_fault, tls_options, without_option
from streamtok.io.video.mp4_boxes import find_missing
from streamtok.names import is_url
from streamtok.redaction import clean_text, without_password

log = logging.getLogger("streamtok.io")

OPEN_S, READ_S = 5.0, 5.0
LOW_DELAY = {"flags": "low_delay", "probesize": "65536", "analyzeduration": "100000"}
RTSP = {"rtsp_flags": "prefer_tcp", "reorder_queue_size": "2", "allowed_media_types": "video"}
WEB_FILE = {"multiple_requests": "1"}  # without it, FFmpeg 8.1 loses the data after a seek if the connection closes
PLAYLISTS = {"extension_picky": "0"}  # FFmpeg would refuse pieces of a server whose names do not end as usual
# Then FFmpeg looks for no index at the end of the file, which may be cut off. Without a header it would read it all.
UNSEEKABLE = {"seekable": "0"}
HEADER_BYTES, MXF = 4096, bytes.fromhex("060e2b34")
RTP = {"protocol_whitelist": "file,udp,rtp", "reorder_queue_size": "16"}  # SDP files may not open sockets by default
PLAYLIST = "hls"  # the demuxer of playlists
NO_VIDEO = {"tty", "cdg"}  # the demuxers that FFmpeg chooses for text, and for HDF5
# Rates trusted of headers, as some hold the frequency of their clock instead: at all, of raw streams, beside times.
LEAST_FPS, MOST_RAW_FPS, MOST_FPS = Fraction(1, 3600), 1000, 240
UNCONVERTED = {8, *range(10, 18)}  # matrices that FFmpeg cannot convert to RGB: YCgCo, constant luminance ...
# Demuxers for files that FFmpeg does not recognize by their first bytes: damaged or short ones.
FORMS = {"ts": "mpegts", "m2ts": "mpegts", "h264": "h264", "264": "h264", "hevc": "hevc", "265": "hevc"}
NO_ANSWER = f"no answer within {OPEN_S:.0f} s: is the camera switched on, and reachable from here?"
SILENCE = TimeoutError, av.error.ExitError
NOTHING_CAME = (
    "no video came to its port: does the camera send it there, in this codec, and does a firewall let it through?"
)
PORT_IN_USE = "its port is in use here, or (of RTP) the next one: stop what reads it and start again"
NO_PIECE = "it is no playlist, or its first piece cannot be read: is that there, and its key?"
REFUSALS: list[tuple[Any, int | None, str]] = [  # (error of FFmpeg or Python, HTTP status of urllib, advice)
    (
        av.error.HTTPUnauthorizedError,
        401,
        "user name or password missing or wrong, or a digest that is not of MD5 (401): USER:PASSWORD@ goes before HOST",
    ),
    (av.error.HTTPForbiddenError, 403, "this user may not see it (403)"),
    (av.error.HTTPNotFoundError, 404, "there is nothing of that name (404): is the path of the URL right?"),
    (
        av.error.ProtocolNotFoundError,
        None,
        "this PyAV's FFmpeg does not know that protocol. Let an ffmpeg that does pass it on (ffmpeg -i URL -c copy "
        "-f mpegts udp://127.0.0.1:5000) and read udp://127.0.0.1:5000",
    ),
    (ConnectionRefusedError, None, "nothing listens at that address and port (connection refused)"),
    (SILENCE, None, NO_ANSWER),
]


def is_rtp(target: str) -> bool:
    """Whether a target is an RTP stream: a URL of RTSP or RTP, or an SDP file."""
    return urlsplit(target).scheme in ("rtsp", "rtsps", "rtp") or target.endswith(".sdp")


def open_container(
    target: str, *, stream: int | None = None, live: bool = False, form: str | None = None
) -> tuple[Any, Any]:
    """The PyAV container, and its video stream: number `stream` of them, else the default one, else the first.

    `live` sets options for low latency, `form` names one of FFmpeg's demuxers. Raises FileNotFoundError, OSError for
    network errors, and ValueError for what is no video, each saying what to do.
    """
    if not is_url(target) and (not Path(target).exists() or Path(target).is_dir()):
        raise FileNotFoundError(f"video {target!r}: no such file")
    began = time.monotonic()
    try:
        container = open_with_options(target, live, form)
        is_description = target.endswith(".sdp") and not is_url(target)  # FFmpeg opens it even if nothing comes
        if is_description and time.monotonic() - began >= OPEN_S:
            container.close()
            raise TimeoutError
    except (av.FFmpegError, OSError) as error:
        silent = is_rtp(target) and time.monotonic() - began >= OPEN_S  # FFmpeg reports silence as invalid data
        raise _explain(target, TimeoutError() if silent else error) from error
    try:
        if container.format.name in NO_VIDEO:
            raise ValueError(f"{target} is no video: FFmpeg would take it for {container.format.long_name}")
        return container, _choose_stream(container, without_password(target), stream)
    except ValueError as error:
        container.close()
        raise (_explain(target, error) if find_missing(target) else error) from None


def open_with_options(target: str, live: bool = False, form: str | None = None) -> Any:
    """The PyAV container of a file or URL, opened with the options that it needs; raises as `av.open` does."""
    options, scheme = dict(LOW_DELAY) if live else {}, urlsplit(target).scheme
    if live and is_rtp(target):
        options |= RTSP if scheme in ("rtsp", "rtsps") else RTP
    elif scheme in ("http", "https"):
        options |= PLAYLISTS if live else PLAYLISTS | WEB_FILE
    options |= tls_options(target)
    timeout = (OPEN_S, READ_S) if live or is_url(target) else None
    address = without_option(target) if is_url(target) else f"file:{target}"  # 12:00.mp4 is not of a protocol "12"
    opening = partial(av.open, address, timeout=timeout, metadata_errors="replace")
    try:
        return opening(format=form, options=options)
    except (av.error.InvalidDataError, EOFError):
        is_file = Path(target).is_file()  # a pipe is read once
        named = FORMS.get(urlsplit(target).path.rpartition(".")[2].lower())
        others: list[tuple[str | None, dict[str, str]]] = []
        others += [(named, options)] if named and (is_file or scheme in ("http", "https")) else []
        others += [(None, options | UNSEEKABLE)] if is_file and _begins_with_header(target) else []
        for other, changed in others if not form else ():
            with contextlib.suppress(av.FFmpegError, OSError):
                return opening(format=other, options=changed)
        raise


def _begins_with_header(path: str) -> bool:
    """Whether a file is an MP4, or MXF, that says at its start what it holds, and may be read without its end."""
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    return b"moov" in head or head.startswith(MXF)


def read_seconds(container: Any) -> Fraction:
    """A container's duration by its headers, s; 0 if unknown, as where they are those of the first fragment."""
    return Fraction(0 if "seekable" in container.options else container.duration or 0, av.time_base)


def video_streams(container: Any) -> list[Any]:
    """The video streams of a PyAV container, without attached pictures (covers) and tiles."""
    parts = Disposition.attached_pic | Disposition.dependent
    return [stream for stream in container.streams.video if not stream.disposition & parts]


def makes_up_times(container: Any) -> bool:
    """Whether a PyAV container has no times (raw streams, multipart HTTP), so that the demuxer makes them up."""
    return bool(container.format.flags & Flags.no_timestamps.value) or container.format.name.endswith("_pipe")


def read_rate(container: Any, stream: Any) -> Fraction | None:
    """Pictures per second of a video stream by its headers; None if they do not say."""
    coded, guessed = stream.codec_context and stream.codec_context.framerate, stream.guessed_rate
    if makes_up_times(container):
        rates = [(coded, MOST_RAW_FPS)]
    else:  # the guess is made from the first times, so it bears out a higher average
        rates = [(stream.average_rate, max(MOST_FPS, 2 * (guessed or 0))), (coded, MOST_FPS), (guessed, MOST_FPS)]
    return next((rate for rate, most in rates if rate and LEAST_FPS <= rate <= most), None)


def demux(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of one stream from the current position, with an empty one at the end.

    PyAV raises IndexError at a packet of a stream that appears only now, which damage can cause. FFmpeg raises
    BlockingIOError once after a transport stream that ends in zeros. Demuxing goes on after both.
    """
    again = told = False
    while True:
        try:
            for packet in container.demux(stream):
                yield packet
                again = again and not packet.size
            return
        except IndexError:
            if not told:
                name = without_password(container.name.removeprefix("file:"))
                reason = "it begins later, and is not read: cut the file there"
                log.warning("file=%s event=another_stream reason=%r", name, reason)
            told = True
        except av.error.BlockingIOError:
            if again:
                raise
            again = True


def _choose_stream(container: Any, name: str, wanted: int | None) -> Any:
    streams = video_streams(container)
    if not streams:
        tiled = any(stream.disposition & Disposition.dependent for stream in container.streams.video)
        hint = "; its picture consists of tiles (HEIC): convert it to PNG or JPEG" if tiled else ""
        raise ValueError(f"{name} holds no video stream: no frame that can be decoded{hint}")
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
    if stream.codec_context.colorspace in UNCONVERTED:
        advice = "ffmpeg -i FILE -vf zscale=matrix=709 a.mkv (with zimg)"
        raise ValueError(
            f"{name}: FFmpeg cannot convert its colours (matrix {stream.codec_context.colorspace}): {advice}"
        )
    return stream


def _explain(target: str, error: Exception) -> Exception:
    """The error to raise for a target that cannot be opened."""
    place, advice = urlsplit(target), ""
    # Of an SDP file only the log says that its port is in use. FFmpeg keeps an RTP port open if the next one was.
    if "Address already in use" in f"{error} {getattr(error, 'log', '')}":
        advice = PORT_IN_USE
    elif isinstance(error, SILENCE) and place.scheme in ("", "udp", "rtp"):
        advice = NOTHING_CAME
    elif isinstance(error, av.error.InvalidDataError) and place.path.endswith(".m3u8"):
        advice = NO_PIECE
    if advice:
        return OSError(f"{without_password(target)} cannot be opened: {advice}")
    if is_url(target):
        return explain_refusal(target, error)
    if isinstance(error, PermissionError):
        return PermissionError(f"{target}: not allowed to read it")
    reason = getattr(error, "strerror", None) or str(error)
    if Path(target).is_file() and not Path(target).stat().st_size:
        reason = "it is empty (0 bytes)"
    elif missing := find_missing(target):
        reason = missing
    elif isinstance(error, av.error.ArgumentError):
        reason = "raw pixels do not say their size: ffmpeg -f rawvideo -pix_fmt yuv420p -s WxH -i FILE a.y4m"
    return ValueError(f"{target} cannot be read as a video, it holds no frame that can be decoded: {reason}")


def explain_refusal(url: str, error: Exception) -> OSError:
    """The error to raise for a URL that FFmpeg or `urllib` cannot open; it may ask the server again."""
    code, fault = getattr(error, "code", None), getattr(error, "reason", None)
    error = fault if isinstance(fault, Exception) else error  # urllib wraps what the system says
    advice = next((text for kind, status, text in REFUSALS if isinstance(error, kind) or (code and code == status)), "")
    advice = advice or find_tls_fault(url, OPEN_S)
    if not advice and not _has_address(url):
        advice = f"the host {urlsplit(url).hostname!r} is not known: is the name right, and does the network work?"
    if not advice and isinstance(error, av.error.InvalidDataError) and is_rtp(url):
        advice = "it answers, and offers no video: are the port and the path right, and does VLC show it?"
    told = clean_text((getattr(error, "log", None) or ("",))[-1].strip())  # of RTSP: which request failed
    if not advice and is_rtp(url) and told.startswith("method "):
        advice = f"it refuses a request ({told}): does VLC show it, and are its transport and codec common ones?"
    reason = getattr(error, "strerror", None) or str(error)
    if not advice and isinstance(error, av.error.HTTPClientError | av.error.HTTPError | HTTPError):
        advice = f"the server refuses it or fails ({reason})"
    is_web = urlsplit(url).scheme in ("http", "https") and isinstance(error, av.FFmpegError)
    if not advice and (isinstance(error, av.error.InvalidDataError) or is_web):
        advice = "what comes is no video (a web page of the camera?): give the URL of its stream"
    return OSError(f"{without_password(url)} cannot be opened: {advice or reason}")


def _has_address(url: str) -> bool:
    try:
        return bool(socket.getaddrinfo(urlsplit(url).hostname, None))
    except OSError:
        return False
