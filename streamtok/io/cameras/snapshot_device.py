"""A camera that gives one picture per HTTP request (http://CAMERA/snapshot.jpg), polled at a fixed rate."""

import logging
import threading
import time
from http.client import HTTPException
from urllib.parse import urlsplit

from streamtok.io.cameras.camera import Device, Grabbed
from streamtok.io.cameras.web import make_opener
from streamtok.io.certificates import OPTION
from streamtok.io.images.stills import DamagedFrame, decode_image_file
from streamtok.io.spec import parse_rate, parse_switch, split_options
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.io.video.containers import OPEN_S, explain_refusal
from streamtok.redaction import without_password

log = logging.getLogger("streamtok.io")

PREFIX = "snapshot:"
DEFAULT_FPS = 1.0
MOST_BYTES = 64 << 20


def is_snapshot(spec: str) -> bool:
    """Whether a source's name is a snapshot: it begins with snapshot:, or is a URL with the suffix of a picture."""
    url = urlsplit(spec)
    suffix = "." + url.path.rpartition(".")[2].lower()
    return spec.startswith(PREFIX) or (url.scheme in ("http", "https") and suffix in IMAGE_SUFFIXES)


class SnapshotDevice(Device):
    """Requests a picture from `url` `fps` times a second, with the user and password of the URL (basic or digest).

    A picture's time is when the answer begins. Pictures are turned upright; damaged ones are dropped and counted.
    """

    kind, clock = "camera that is asked for pictures", "when the answer begins"

    def __init__(self, url: str, fps: float = DEFAULT_FPS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"source {PREFIX}{without_password(url)}: expected http://CAMERA/... or https://...")
        self.name = without_password(url)
        self.fps = fps
        self._opener, self._url = make_opener(url)
        self._due = 0.0
        self._released = threading.Event()

    def connect(self) -> None:
        """Request a first picture; OSError says what is wrong."""
        self._released.clear()
        data, _ = self._fetch()
        try:
            self.size = decode_image_file(data)[0].shape[:2]
        except DamagedFrame as error:
            raise OSError(f"camera {self.name}: {error}") from error
        self._due = time.monotonic()

    def grab(self) -> Grabbed | None:
        """The next picture when it is due; None if the camera does not answer."""
        damaged = 0
        while not self._released.wait(max(0.0, self._due - time.monotonic())):
            self._due = max(self._due + 1 / (self.fps or DEFAULT_FPS), time.monotonic())
            try:
                data, arrival_ns = self._fetch()
                return Grabbed(decode_image_file(data)[0], arrival_ns, damaged=damaged)
            except DamagedFrame as error:
                damaged += 1
                log.warning("device=%s event=damaged reason=%r", self.name, str(error))
            except OSError as error:
                log.warning("device=%s event=no_answer reason=%r", self.name, str(error))
                return None
        return None

    def release(self) -> None:
        """Stop polling."""
        self._released.set()

    def _fetch(self) -> tuple[bytes, int]:
        """The bytes of a picture, and the monotonic time (ns) when the answer began; raises OSError."""
        try:
            with self._opener.open(self._url, timeout=OPEN_S) as answer:
                arrival_ns, kind = time.monotonic_ns(), answer.headers.get_content_type()
                data = b"" if kind.startswith(("multipart/", "text/")) else answer.read(MOST_BYTES)
        except OSError as error:
            raise explain_refusal(self._url, error) from error
        except (HTTPException, ValueError) as error:
            raise OSError(f"{self.name} cannot be opened: what answers does not speak HTTP ({error!r})") from error
        if kind.startswith("multipart/"):
            raise OSError(f"camera {self.name} sends a stream ({kind}), not one picture: leave out {PREFIX}")
        if kind.startswith("text/"):
            raise OSError(f"camera {self.name} answers with a page ({kind}), not a picture: is the path right?")
        return data, arrival_ns


def parse_snapshot(spec: str) -> SnapshotDevice:
    """The device of "http://CAMERA/snapshot.jpg#fps=2" or "snapshot:http://CAMERA/path?query#fps=2"."""
    url = spec.removeprefix(PREFIX)
    known = {"fps": parse_rate, OPTION: parse_switch}
    _, options = split_options(without_password(spec), f"?{urlsplit(url).fragment}", known)
    return SnapshotDevice(url, options.get("fps", DEFAULT_FPS))
