"""Shows the pictures of a live stream: in a window, as a video file or PNGs, or as JPEG over ZeroMQ."""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from streamtok.engine.loading import choose_model, load
from streamtok.io.images.stills import encode_jpeg, show_channels
from streamtok.io.picture_writer import PictureWriter, VideoPictures, open_pictures
from streamtok.model import Tokenizer
from streamtok.model.decoding import crop
from streamtok.node.live_decoder import LiveDecoder
from streamtok.settings.shared import MAX_PIXELS
from streamtok.types import Frame
from streamtok.wire.header import Info
from streamtok.wire.message import TokenMessage
from streamtok.wire.publisher import Publisher
from streamtok.wire.subscriber import Subscription

log = logging.getLogger("streamtok.decode")

WAIT_S = 0.2
TOLD_S = 3.0  # after which a missing stream is logged
FAR_NS = 3_600_000_000_000  # a larger step of capture times is implausible


def show_pictures(
    subscription: Subscription,
    decoder: LiveDecoder,
    sink: "PictureSink",
    info: Info,
    stop: threading.Event,
    *,
    max_pixels: int = MAX_PIXELS,
    max_frames: int | None = None,
    model_of: Callable[[Info], Tokenizer] | None = None,
) -> None:
    """Show the pictures of the stream of `info` until `stop`, the stream's end, `max_frames` or the sink ends it.

    If its node comes back with another tokenizer, `model_of` loads that.
    """
    tried = decoder.tokenizer.fingerprint
    while not (stop.is_set() or subscription.ended) and sink.wanted:
        message = subscription.get(timeout=WAIT_S)
        if message is None or message.stream != info.stream:
            continue
        info = subscription.info_of(message) or info
        if model_of is not None and message.header.tokenizer == info.tokenizer != tried:
            tried = info.tokenizer
            try:
                decoder.change(model_of(info), info.context)
            except (OSError, ValueError, RuntimeError, ImportError) as error:  # the messages are counted as unshown
                decoder.note(message.header, "no_model", logging.WARNING, model=info.model, error=repr(str(error)))
        for picture, image in shown_pictures(message, decoder, info, max_pixels):
            if refusal := sink.show(picture, image):
                note_unshown(decoder, message, refusal, 1)
                continue
            decoder.counts["shown"] += 1
            if max_frames is not None and decoder.counts["shown"] >= max_frames:
                return


def shown_pictures(
    message: TokenMessage, decoder: LiveDecoder, info: Info, max_pixels: int = MAX_PIXELS
) -> list[tuple[Frame, np.ndarray]]:
    """Decode a message; returns its pictures, each with its image without padding, uint8 RGB (h, w, 3).

    It returns none if the message cannot be decoded, or its pictures have more than `max_pixels`.
    """
    try:
        pixels = math.prod(message.header.grid[-2:]) * decoder.tokenizer.config.spatial_compression**2
        if pixels > max_pixels:
            raise ValueError(f"grid {message.header.grid} is a picture of {pixels} pixels, max_pixels is {max_pixels}")
        pictures = decoder.feed(message)
        return [(picture, crop_within(picture.image, info.source_rect)) for picture in pictures]
    except (ValueError, RuntimeError) as error:
        note_unshown(decoder, message, str(error), len(message.header.frame_ids))
        return []


def crop_within(image: np.ndarray, rect: Sequence[int] | None) -> np.ndarray:
    """Crop a picture, uint8 RGB (H, W, 3), to `rect`; ValueError if that is not within it."""
    if rect is not None:
        top, left, height, width = rect
        if not (0 < height <= image.shape[0] - top and 0 < width <= image.shape[1] - left):
            raise ValueError(f"source_rect {rect} is not within a picture of {image.shape[:2]}")
    return crop(image, rect)


def note_unshown(decoder: LiveDecoder, message: TokenMessage, reason: str, pictures: int) -> None:
    """Count and log pictures of a message that cannot be shown."""
    decoder.counts["unshown"] += pictures
    decoder.note(message.header, "unshown", logging.WARNING, error=reason)


def first_info(
    subscription: Subscription, stop: threading.Event, stream: str | None = None, timeout: float | None = None
) -> Info | None:
    """Wait for the info of `stream` (None: any); returns None if told to stop, or if all streams have ended.

    Raises TimeoutError after `timeout` seconds. A missing stream is logged once; the subscription logs a missing node.
    """
    endpoint, began, told = subscription.endpoint, time.monotonic(), False
    while not (stop.is_set() or subscription.ended):
        infos = dict(subscription.infos)
        if stream in infos or (stream is None and infos):
            return infos[stream or sorted(infos)[0]]
        waited, wanted = time.monotonic() - began, f"stream {stream}" if stream else "stream"
        if timeout is not None and waited > timeout:
            raise TimeoutError(f"no {wanted} at {endpoint} for {timeout} s; is the node running?")
        if waited > TOLD_S and subscription.connected and not told:
            log.warning("event=waiting endpoint=%s: the node has announced no %s yet", endpoint, wanted)
            told = True
        stop.wait(0.02)
    return None


def load_for_stream(info: Info, model: str | None, device: str) -> Tokenizer:
    """Load the model that the stream names, or `model`; its weights may not be the stream's (fingerprint)."""
    return load(choose_model(f"stream {info.stream!r}", info.model, model), engine="default", device=device)


def open_sink(out: str, info: Info) -> "PictureSink":
    """Open the sink that `out` names."""
    if out == "window":
        return Window(info.stream)
    if out.startswith("zmq:"):
        return JpegPublisher(out.removeprefix("zmq:"), info)
    return FileSink(Path(out), info)


@dataclass
class PictureTimes:
    """Converts capture times to times in a video, ns since the first picture.

    A picture over an hour from the last one is left out. If the next one is near it, the clock was set, and times
    continue from there.
    """

    last_ns: int | None = None
    far_ns: int | None = None
    shift_ns: int = 0

    def place(self, capture_ns: int) -> int | None:
        """The time of the next picture in the video, None if it is to be left out."""
        if self.last_ns is None:
            self.last_ns, self.shift_ns = capture_ns, capture_ns
        if abs(capture_ns - self.last_ns) > FAR_NS:
            if self.far_ns is None or abs(capture_ns - self.far_ns) > FAR_NS:
                self.far_ns = capture_ns
                return None
            self.shift_ns += capture_ns - self.last_ns
        self.last_ns, self.far_ns = capture_ns, None
        return capture_ns - self.shift_ns


class FileSink:
    """A video, a PNG or a folder of PNGs, opened at the first picture; a video takes only pictures of its size."""

    wanted = True

    def __init__(self, path: Path, info: Info) -> None:
        rate = info.frame_rate
        self.path, self.fps = path, rate if rate is not None and 0.1 <= rate <= 1000 else None
        self._times = PictureTimes()
        self._pictures: PictureWriter | None = None
        self._size: tuple[int, ...] = ()

    def show(self, picture: Frame, image: np.ndarray) -> str:
        """Write a picture; returns why it was left out, "" if it was not."""
        time_ns = self._times.place(picture.capture_ns)
        if time_ns is None:
            return f"capture time {picture.capture_ns} is far from those before"
        if self._pictures is None:
            self._size = image.shape[:2]
            self._pictures = open_pictures(self.path, image.shape[:2], self.fps)
        if image.shape[:2] != self._size and isinstance(self._pictures, VideoPictures):
            return f"{self.path} holds pictures of {self._size}, not of {image.shape[:2]}: write to a folder for both"
        self._pictures.write(np.ascontiguousarray(image), time_ns)
        return ""

    def close(self) -> None:
        if self._pictures is not None:
            self._pictures.close()


class Window:
    """A window that shows pictures at their capture pace; q or Escape closes it."""

    def __init__(self, title: str) -> None:
        # Checked here, because Qt ends the process if there is no display.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise OSError("there is no display for a window; use -o FILE.mp4, a folder, or -o zmq:tcp://127.0.0.1:5556")
        self.title = f"streamtok {title}"
        self.wanted = True
        self._last_ns = 0
        self._shown = 0.0

    def show(self, picture: Frame, image: np.ndarray) -> str:
        gap_s = min(max(0.0, (picture.capture_ns - self._last_ns) / 1e9), 0.2)
        wait_s = self._shown + 0.9 * gap_s - time.monotonic()  # a little faster than real time, to catch up
        cv2.imshow(self.title, np.ascontiguousarray(show_channels(image)[..., ::-1]))
        key = cv2.waitKey(max(1, round(1e3 * wait_s)))
        self._last_ns, self._shown = picture.capture_ns, time.monotonic()
        self.wanted = key not in (ord("q"), 27)
        return ""

    def close(self) -> None:
        cv2.destroyAllWindows()


class JpegPublisher:
    """Publishes pictures as JPEG on `frames/<stream>`, for `--source zmq:ENDPOINT` and any viewer."""

    wanted = True

    def __init__(self, endpoint: str, info: Info) -> None:
        self._publisher = Publisher(endpoint, node="decode")
        self._publisher.add_stream(info)
        log.info("event=bound endpoint=%s topic=frames/%s", self._publisher.endpoint, info.stream)

    def show(self, picture: Frame, image: np.ndarray) -> str:
        self._publisher.poll()
        self._publisher.publish_frame(replace(picture, picture=image, packet=encode_jpeg(image), codec="jpeg"))
        return ""

    def close(self) -> None:
        self._publisher.close()


PictureSink = FileSink | Window | JpegPublisher
