"""Camera messages as frames of streamtok's wire: what encoding, which bytes, which number, which session. No ROS."""

import os
import statistics
import time
import zlib
from collections import deque
from typing import Any

import msgpack

SAME = {"rgb8", "bgr8", "mono8", "nv12", *(f"bayer_{order}8" for order in ("rggb", "bggr", "gbrg", "grbg"))}
ALIASES = {"8UC1": "mono8", "8UC3": "bgr8", "yuv422": "uyvy", "uyvy": "uyvy", "yuv422_yuy2": "yuyv", "yuyv": "yuyv"}
ALIASES.update({name: name for name in SAME})
WIDE = {"rgba8": "rgb8", "bgra8": "bgr8", "8UC4": "bgr8"}  # four bytes a pixel, of which the fourth is left out
ROW_BYTES = {"rgb8": 3, "bgr8": 3, "uyvy": 2, "yuyv": 2}  # a pixel; others one
STILLS = (("jpeg", b"\xff\xd8\xff"), ("png", b"\x89PNG"))
VIDEOS = {"264": "h264", "avc": "h264", "265": "h265", "hevc": "h265", "av1": "av1", "vp9": "vp9"}  # in a format's name
BACKWARDS = 10  # images in a row whose stamps lie before the newest: the clock was set back
LOST_STEPS, LEAST_STEPS = 2.5, 5


def raw_image(encoding: str, height: int, width: int, step: int, big_endian: bool, data: Any) -> tuple[str, bytes]:
    """A sensor_msgs/Image as (wire encoding, rows without padding); ValueError for what the wire has no name for."""
    view = memoryview(data).cast("B")
    if encoding in WIDE:
        rows = _rows(view, height, 4 * width, step)
        packed = bytearray(3 * height * width)
        for channel in range(3):
            packed[channel::3] = rows[channel::4]
        return WIDE[encoding], bytes(packed)
    if encoding == "mono16":  # its high bytes
        return "mono8", _rows(view, height, 2 * width, step)[0 if big_endian else 1 :: 2]
    if encoding not in ALIASES:
        known = ", ".join(sorted({*ALIASES, *WIDE, "mono16"}))
        raise ValueError(f"encoding {encoding!r} is no picture that can be encoded; expected one of {known}")
    name = ALIASES[encoding]
    lines = height * 3 // 2 if name == "nv12" else height
    return name, _rows(view, lines, ROW_BYTES.get(name, 1) * width, step)


def _rows(view: memoryview, lines: int, row: int, step: int) -> bytes:
    """`lines` rows of `row` bytes that begin every `step` bytes; ValueError where there are fewer."""
    step = step or row
    if step < row or len(view) < step * (lines - 1) + row:
        raise ValueError(f"{len(view)} bytes in rows of {step}, expected {lines} rows of at least {row} bytes")
    if step == row:
        return bytes(view[: lines * row])
    return b"".join(view[start : start + row] for start in range(0, lines * step, step))


def compressed_image(data: Any, text: str, size: tuple[int, int] | None) -> tuple[str, tuple[int, int], bytes]:
    """A sensor_msgs/CompressedImage as (codec, (height, width), bytes): a JPEG or PNG, told by its first bytes, or a
    packet of a video by its format `text`, whose `size` is known from elsewhere.

    ValueError for anything else.
    """
    payload = bytes(data)
    for codec, magic in STILLS:
        if payload.startswith(magic):
            return codec, (_png_size if codec == "png" else _jpeg_size)(payload), payload
    video = next((codec for word, codec in VIDEOS.items() if word in text.lower()), None)
    if video and size is None:
        raise ValueError(f"packets of {video} do not tell their size: set the parameter camera_info to its topic")
    if video and size and payload:
        return video, size, payload
    raise ValueError(f"format {text!r} with first bytes {payload[:8]!r}, expected JPEG, PNG or a known video")


def _png_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width as the frame header (ITU T.81, B.2.2) has them; ValueError if there is none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + length
    raise ValueError("a JPEG without a frame header: damaged")


class FrameNumbers:
    """Numbers the images of one camera by their stamps.

    Stamps that do not rise are left out and counted (`backwards`); after BACKWARDS of them in a row the clock was set
    back (a bag that plays again, a simulation that starts anew), and a new `session` begins. A pause of LOST_STEPS
    usual steps skips as many numbers as fit there, so that what follows starts an epoch.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {"frames": 0, "backwards": 0, "missing": 0, "sessions": 0}
        self.stamps: dict[int, int] = {}
        self._steps: deque[int] = deque(maxlen=15)
        self._behind = 0
        self._last_ns: int | None = None
        # Rises over restarts of the bridge too: a reader that goes on need not shift the numbers.
        self._next_id = time.time_ns() // 1_000_000
        self.begin()

    def begin(self) -> None:
        """A new session: the next image follows nothing."""
        self.session, self.seq = os.urandom(16).hex(), 0
        self._last_ns, self._behind = None, 0
        self._steps.clear()
        self.counts["sessions"] += 1

    def take(self, stamp_ns: int) -> int | None:
        """The number of the next image, None for one to leave out."""
        if self._last_ns is not None and stamp_ns <= self._last_ns:
            self.counts["backwards"] += 1
            self._behind += 1
            if self._behind < BACKWARDS:
                return None
            self.begin()
        missing = self._missing(stamp_ns)
        self.counts["missing"] += missing
        number = self._next_id + missing
        self._next_id, self._last_ns, self._behind = number + 1, stamp_ns, 0
        self.counts["frames"] += 1
        self.stamps[number] = stamp_ns
        while len(self.stamps) > 4096:
            del self.stamps[next(iter(self.stamps))]
        return number

    def _missing(self, stamp_ns: int) -> int:
        if self._last_ns is None:
            return 0
        step = stamp_ns - self._last_ns
        usual = statistics.median(self._steps) if len(self._steps) >= LEAST_STEPS else 0
        if usual and step > LOST_STEPS * usual:
            return min(round(step / usual) - 1, 1 << 20)
        self._steps.append(step)
        return 0


def pack_frame(
    stream: str,
    numbers: FrameNumbers,
    stamp_ns: int,
    now_ns: int,
    picture: tuple[str, tuple[int, int], bytes],
) -> tuple[bytes, bytes, bytes] | None:
    """The message of an image (encoding, (height, width), payload): topic, header, payload; None for one to leave out.

    `stamp_ns` and `now_ns` are of the same clock. A missing packet of a video leaves a gap in `seq`, so that its
    reader waits for a key frame.
    """
    encoding, size, payload = picture
    missing, number = numbers.counts["missing"], numbers.take(stamp_ns)
    if encoding in VIDEOS.values() and (number is None or numbers.counts["missing"] > missing):
        numbers.seq += 1
    if number is None:
        return None
    header = {"version": 1, "stream": stream, "session": numbers.session, "seq": numbers.seq, "frame_id": number}
    header.update({"capture_ns": stamp_ns, "publish_ns": now_ns, "encoding": encoding, "image_size": list(size)})
    header["checksum"] = zlib.crc32(payload)
    numbers.seq += 1
    return f"frames/{stream}".encode(), msgpack.packb(header), payload
