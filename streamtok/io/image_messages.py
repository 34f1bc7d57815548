"""Image messages of ROS 1, ROS 2 and Foxglove: what they say about one camera image, and the image itself.

`parser_of` reads the message, `ImageMessage.picture` gives the picture of raw and still-image messages; packets of
video messages go through a `VideoDecoder`.
"""

from __future__ import annotations

import base64
import functools
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from streamtok.extras import missing_extra
from streamtok.preprocessing.pixels import RawImage

FOXGLOVE = ("CompressedImage", "RawImage", "CompressedVideo")
ROS_FOXGLOVE = {
    "CompressedImage": "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
    "CompressedVideo": "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
    "RawImage": "builtin_interfaces/Time timestamp\nstring frame_id\nuint32 width\nuint32 height\nstring encoding\n"
    "uint32 step\nuint8[] data\n",
}
ALIASES = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "yuv420": "i420"}
VIDEO_CODECS = {"h264": "h264", "h265": "hevc", "hevc": "hevc", "av1": "libdav1d", "vp9": "vp9", "mjpeg": "mjpeg"}


ImageData = bytes | bytearray | memoryview | np.ndarray
"""The bytes of an image, as a message or a file gives them; an array is uint8 (n,)."""


class DamagedFrame(ValueError):
    """One image that cannot be read; the text says why."""


@dataclass(frozen=True)
class ImageMessage:
    """One image as a message carries it.

    `kind` is "raw" (rows of `step` bytes in `encoding`), "image" (a JPEG, PNG or WebP file) or "video" (one access
    unit of the codec `encoding`). `stamp_ns` is the message's own time (0 if it has none), `seq` ROS 1's counter.
    """

    kind: str
    encoding: str
    data: ImageData
    stamp_ns: int
    height: int = 0
    width: int = 0
    step: int = 0
    seq: int | None = None

    def picture(self) -> np.ndarray | RawImage:
        """The picture, uint8 RGB (H, W, 3) or not converted yet; raises DamagedFrame. Not for kind "video"."""
        return raw_image(self) if self.kind == "raw" else decode_still(self.data, self.encoding)


def image_kind(schema: str) -> str | None:
    """ "raw", "image" or "video" for the schema name of an image message, None for any other message."""
    package, _, name = schema.replace("/msg/", "/").replace(".", "/").rpartition("/")
    if package == "sensor_msgs":
        return {"Image": "raw", "CompressedImage": "image"}.get(name)
    if package in ("foxglove", "foxglove_msgs"):
        return {"RawImage": "raw", "CompressedImage": "image", "CompressedVideo": "video"}.get(name)
    return None


def parser_of(schema: str, encoding: str) -> Callable[[ImageData], ImageMessage]:
    """What turns the bytes of a message into an ImageMessage, by its schema name and encoding (MCAP's words).

    Raises ValueError for an encoding that is not supported. The parser raises DamagedFrame.
    """
    name = schema.replace("/msg/", "/").replace(".", "/").rpartition("/")[2]
    if encoding in ("cdr", "ros1"):
        return functools.partial(_parse_ros, ros_typestore(encoding), ros_name(schema), encoding)
    if encoding == "protobuf" and name in FOXGLOVE:
        return functools.partial(_parse_protobuf, protobuf_class(name))
    if encoding == "json" and name in FOXGLOVE:
        return _parse_json
    raise ValueError(
        f"{schema} encoded as {encoding!r} cannot be read; known are cdr and ros1 (sensor_msgs, foxglove_msgs), "
        f"protobuf and json (foxglove)"
    )


def ros_name(schema: str) -> str:
    """A ROS type name with its /msg/ part."""
    package, _, name = schema.replace("/msg/", "/").partition("/")
    return f"{package}/msg/{name}"


@functools.cache
def ros_typestore(encoding: str) -> Any:
    """The rosbags typestore with the image messages of ROS 1 ("ros1") or ROS 2 ("cdr")."""
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise missing_extra("reading ROS messages", "ros") from error
    if encoding == "ros1":
        return get_typestore(Stores.ROS1_NOETIC)
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in ROS_FOXGLOVE.items():
        store.register(get_types_from_msg(text, f"foxglove_msgs/msg/{name}"))
    return store


def protobuf_class(name: str) -> Any:
    """Foxglove's generated protobuf class of that name."""
    try:
        return getattr(importlib.import_module(f"foxglove_schemas_protobuf.{name}_pb2"), name)
    except ImportError as error:
        raise missing_extra("reading Foxglove messages", "record") from error


def _to_message(message: Any, kind: str, stamp_ns: int, seq: int | None = None) -> ImageMessage:
    """An ImageMessage from a decoded message: a raw image if it has rows of `step` bytes, else of `kind`."""
    if hasattr(message, "step"):
        size = message.height, message.width, message.step
        return ImageMessage("raw", message.encoding, message.data, stamp_ns, *size, seq)
    return ImageMessage(kind, message.format, message.data, stamp_ns, seq=seq)


def _parse_ros(store: Any, name: str, encoding: str, data: ImageData) -> ImageMessage:
    deserialize = store.deserialize_ros1 if encoding == "ros1" else store.deserialize_cdr
    try:
        message = deserialize(data, name)
        header = getattr(message, "header", None)
        stamp = header.stamp if header is not None else message.timestamp
        kind = "video" if name.endswith("CompressedVideo") else "image"
        return _to_message(message, kind, stamp.sec * 10**9 + stamp.nanosec, getattr(header, "seq", None))
    except Exception as error:  # rosbags lets numpy, struct, unicode and its own errors through
        raise DamagedFrame(f"not a {name} message: {error}") from error


def _parse_protobuf(message_class: Any, data: ImageData) -> ImageMessage:
    from google.protobuf.message import DecodeError

    message = message_class()
    try:
        message.ParseFromString(bytes(data))
    except DecodeError as error:
        raise DamagedFrame(f"not a {message_class.DESCRIPTOR.full_name} message: {error}") from error
    kind = "video" if message_class.DESCRIPTOR.name == "CompressedVideo" else "image"
    return _to_message(message, kind, message.timestamp.seconds * 10**9 + message.timestamp.nanos)


def _parse_json(data: ImageData) -> ImageMessage:
    try:
        message = json.loads(bytes(data), object_hook=lambda fields: SimpleNamespace(**fields))
        message.data = base64.b64decode(message.data, validate=True)
        stamp = getattr(message, "timestamp", None)
        kind = "video" if getattr(message, "format", None) in VIDEO_CODECS else "image"
        return _to_message(message, kind, stamp.sec * 10**9 + stamp.nsec if stamp else 0)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFrame(f"not a Foxglove image in JSON: {error!r}") from error


def raw_image(message: ImageMessage) -> RawImage:
    """Rows of pixels as they are; raises DamagedFrame when they do not fill the picture they declare."""
    data = np.frombuffer(message.data, np.uint8)
    encoding, step = ALIASES.get(message.encoding, message.encoding), message.step or None
    if encoding == "mono16":  # the high bytes
        data, encoding, step = data[1::2], "mono8", step and step // 2
    try:
        return RawImage(data, encoding, message.height, message.width, step)
    except (ValueError, TypeError) as error:
        raise DamagedFrame(str(error)) from error


def decode_still(data: ImageData, encoding: str = "") -> np.ndarray:
    """A JPEG, PNG or WebP file in memory as uint8 RGB (H, W, 3); raises DamagedFrame.

    Bayer patterns, which are stored as one channel, are resolved.
    """
    import cv2

    buffer = np.frombuffer(data, np.uint8)
    if not buffer.size:
        raise DamagedFrame("an empty image")
    source = encoding.split(";")[0].strip()
    bayer = source.startswith("bayer_")
    mode = cv2.IMREAD_GRAYSCALE if bayer else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(buffer, mode)
    except cv2.error as error:
        raise DamagedFrame(f"the decoder refuses it: {error}") from error
    if image is None:
        raise DamagedFrame(f"no picture in {buffer.size} bytes of {encoding or 'image data'}")
    if bayer:
        height, width = image.shape
        return raw_image(ImageMessage("raw", source, image.tobytes(), 0, height, width, width)).rgb()
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def is_whole_jpeg(data: ImageData) -> bool:
    """Whether a JPEG has its end mark; without it decoders fill the rest of the picture with grey."""
    return bytes(data[:2]) != b"\xff\xd8" or b"\xff\xd9" in bytes(data[-64:])
