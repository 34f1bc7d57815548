"""Convert depth images to pictures: distances between two limits become shades of grey.

The encoding marks depth (ROS REP 118), never a topic's name: 16UC1 holds millimetres and 32FC1 metres, compressed by
compressed_depth_image_transport or not. A distance d becomes round(255 (far - d) / (far - near)), clipped to 0..255, so
that near is bright. Pixels without a distance (0, not finite) are black.
"""

import functools
import struct

import numpy as np

from streamtok.io.images.stills import DamagedFrame
from streamtok.io.messages.image_messages import ImageMessage, raw_image

DepthRange = tuple[float, float]  # (near, far): the distances, in metres, that become white and black
KINDS = {"16UC1": "u2", "32FC1": "f4"}
COMPRESSED = "compresseddepth"
HEADER = struct.Struct("<iff")  # format, and the two parameters by which 32FC1 was packed into 16 bits
PNG_MAGIC = b"\x89PNG"


@functools.lru_cache
def is_depth(encoding: str) -> bool:
    """Whether images of a message encoding or format hold distances."""
    return encoding.split(";")[0].strip() in KINDS or COMPRESSED in encoding.lower()


def depth_picture(message: ImageMessage, limits: DepthRange) -> np.ndarray:
    """A depth image as a grey picture, uint8 RGB (H, W, 3); raises DamagedFrame if it cannot be read."""
    metres = _read_compressed(message) if message.kind == "image" else _read_raw(message)
    near, far = limits
    with np.errstate(invalid="ignore", over="ignore"):
        shade = np.clip(np.rint(255 * (far - metres) / (far - near)), 0, 255)
        grey = np.where(np.isfinite(metres) & (metres > 0), shade, 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _read_raw(message: ImageMessage) -> np.ndarray:
    """Distances in metres, float32 (H, W)."""
    kind = np.dtype((">" if message.big_endian else "<") + KINDS[message.encoding])
    rows = raw_image(message._replace(encoding=f"uint8x{kind.itemsize}")).rows
    return _to_metres(np.ascontiguousarray(rows).view(kind))


def _read_compressed(message: ImageMessage) -> np.ndarray:
    import cv2

    data = bytes(message.data)
    skip = HEADER.size if COMPRESSED in message.encoding.lower() and not data.startswith(PNG_MAGIC) else 0
    buffer = np.frombuffer(data[skip:], np.uint8)
    stored = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if buffer.size else None
    if stored is None or stored.ndim != 2:
        raise DamagedFrame(f"no depth image in {len(data)} bytes of {message.encoding}")
    if skip and message.encoding.startswith("32FC1"):
        _, first, second = HEADER.unpack_from(data)
        packed = stored.astype(np.float32)
        return np.where(packed > 0, first / np.where(packed > 0, packed - second, 1), np.nan).astype(np.float32)
    return _to_metres(stored)


def _to_metres(stored: np.ndarray) -> np.ndarray:
    return stored.astype(np.float32) / (1 if stored.dtype.kind == "f" else 1000)
