"""What a web server gives at a URL: a file, one picture, or the stream of a camera."""

import re
import time
from http.client import HTTPException, HTTPResponse
from typing import Literal
from urllib import request
from urllib.parse import unquote, urljoin, urlsplit

from streamtok.io.certificates import make_context
from streamtok.io.video.containers import OPEN_S

MOST_PLAYLIST = 1 << 24  # bytes
PAGES, PART_HEAD = ("text/html", "multipart"), 256
PARTS = re.compile(rb"\s*--.*(\r\n|\n(.+\n)*content-length:)", re.I)  # of Motion JPEG as FFmpeg's `mpjpeg` finds them


def make_opener(url: str) -> tuple[request.OpenerDirector, str]:
    """A URL opener with the user and password of the URL (basic or digest), and the URL without them."""
    parts, passwords = urlsplit(url), request.HTTPPasswordMgrWithDefaultRealm()
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    passwords.add_password(None, bare, unquote(parts.username or ""), unquote(parts.password or ""))
    handlers = [request.HTTPBasicAuthHandler(passwords), request.HTTPDigestAuthHandler(passwords)]
    if parts.scheme == "https":
        handlers.append(request.HTTPSHandler(context=make_context(url)))
    return request.build_opener(*handlers), bare


def ask_web(url: str) -> Literal["file", "picture", "pictures", "camera"]:
    """Ask the server what a URL gives: a video file with an end, one picture per request, or the stream of a camera.

    "pictures" is a stream that only JPEG markers divide. A server that does not answer is taken for a camera.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "camera"
    opener, bare = make_opener(url)
    try:
        with opener.open(bare, timeout=OPEN_S) as answer:
            kind = answer.headers.get("Content-Type", "video").lower()
            if "mpegurl" in kind or parts.path.endswith(".m3u8"):
                return "file" if _playlist_ends(answer.read(MOST_PLAYLIST).decode(), bare, opener) else "camera"
            if kind.startswith("image"):
                return "picture" if _is_one_picture(answer) else "pictures"
            if kind.startswith("multipart") and not PARTS.match(_read_head(answer)):
                return "pictures"
            ends = answer.headers.get("Content-Length") is not None and not kind.startswith(PAGES)
            return "file" if ends else "camera"
    except (OSError, ValueError, HTTPException):
        return "camera"


def _read_head(answer: HTTPResponse) -> bytes:
    """The first bytes of an answer, as many as come in time: a server may send one after the other."""
    head, stop = b"", time.monotonic() + OPEN_S
    while len(head) < PART_HEAD and time.monotonic() < stop and (more := answer.read1(PART_HEAD)):
        head += more
    return head


def _is_one_picture(answer: HTTPResponse) -> bool:
    """Whether an answer ends: some cameras send picture after picture with the content type of a single one."""
    stop = time.monotonic() + OPEN_S
    while answer.headers.get("Content-Length") is None and answer.read1(1 << 16):
        if time.monotonic() > stop:
            return False
    return True


def _playlist_ends(playlist: str, url: str, opener: request.OpenerDirector) -> bool:
    """Whether an HLS playlist, or the first variant that it lists, has an end."""
    if "#EXT-X-STREAM-INF" in playlist:
        listed = [line.strip() for line in playlist.splitlines() if line.strip() and not line.startswith("#")]
        if not listed:
            return False
        with opener.open(urljoin(url, listed[0]), timeout=OPEN_S) as answer:
            playlist = answer.read(MOST_PLAYLIST).decode()
    return "#EXT-X-ENDLIST" in playlist
