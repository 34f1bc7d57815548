"""Parse image messages of ROS 1, ROS 2 and Foxglove into one form, `ImageMessage`.

`find_parser` gives the parser of a message type. `ImageMessage.picture` decodes raw and still-image messages; packets
of video messages go through a `VideoDecoder`.
"""

import base64
import functools
import importlib
import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from streamtok.extras import needs_extra
from streamtok.io.codecs.nal_units import with_start_codes
from streamtok.io.images.stills import DamagedFrame, ImageData, decode_still
from streamtok.io.images.times import read_date
from streamtok.io.messages.flatbuffer import read_table
from streamtok.preprocessing.pixels import PIXEL_BYTES, RawImage

PACKET = "FFMPEGPacket"
FFMPEG_PACKET = (  # of ffmpeg_image_transport
    "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\nbool is_bigendian\n"
    "uint8[] data\n"
)
COMMON = "builtin_interfaces/Time timestamp\nstring frame_id\n"
FOXGLOVE = {
    "CompressedImage": f"{COMMON}uint8[] data\nstring format\n",
    "CompressedVideo": f"{COMMON}uint8[] data\nstring format\n",
    "RawImage": f"{COMMON}uint32 width\nuint32 height\nstring encoding\nuint32 step\nuint8[] data\n",
}
FIELDS = {name: [line.split()[1] for line in text.splitlines()] for name, text in FOXGLOVE.items()}
ALIASES = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC3": "bgr16", "16UC4": "bgra16", "yuv420": "i420"}
WIDE = re.compile(r"(mono|rgb|bgr|rgba|bgra|bayer_[rgb]{4})16")
CODEC_NAMES = {"264": "h264", "avc": "h264", "265": "h265", "hevc": "h265", "hvc1": "h265", "hev1": "h265"}
CODEC_NAMES |= {"av1": "av1", "av01": "av1", "vp9": "vp9", "vp09": "vp9"}
"""{part of a format's or an encoder's name: codec}"""
VIDEO_CODECS = {"h264": "h264", "h265": "hevc", "hevc": "hevc", "av1": "libdav1d", "vp9": "vp9", "mjpeg": "mjpeg"}


class ImageMessage(NamedTuple):
    """One image in the encoding that its message carries.

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
    big_endian: bool = False  # of values of more than a byte

    def has_bytes_of(self, other: "ImageMessage") -> bool:
        """Whether both carry the same image, byte for byte."""
        return np.array_equal(np.frombuffer(self.data, np.uint8), np.frombuffer(other.data, np.uint8))

    def picture(self) -> np.ndarray | RawImage:
        """The picture, uint8 RGB (H, W, 3) or still raw; raises DamagedFrame. Not for kind "video"."""
        return raw_image(self) if self.kind == "raw" else decode_still(self.data, self.encoding)


def image_kind(schema: str) -> str | None:
    """ "raw", "image" or "video" for the schema name of an image message, None for any other message."""
    package, name = split_schema(schema)
    if package == "sensor_msgs":
        return {"Image": "raw", "CompressedImage": "image"}.get(name)
    if name == PACKET:
        return "video"
    if package in ("foxglove", "foxglove_msgs"):
        return {"RawImage": "raw", "CompressedImage": "image", "CompressedVideo": "video"}.get(name)
    return None


def split_schema(schema: str) -> tuple[str, str]:
    """(package, name) of a message type as ROS, protobuf, FlatBuffers or OMG IDL write it."""
    parts = [part for part in re.split(r"::|[/.]", schema) if part not in ("msg", "dds_")]
    return "/".join(parts[:-1]), parts[-1].rstrip("_") if parts else ""


def find_parser(schema: str, encoding: str) -> Callable[[ImageData], ImageMessage]:
    """The function from a message's bytes to an ImageMessage, by schema name and message encoding (as MCAP has them).

    Raises ValueError for an encoding that is not supported. The parser raises DamagedFrame.
    """
    package, name = split_schema(schema)
    if encoding in ("cdr", "ros1"):
        store = ros_typestore(encoding)
        deserialize = store.deserialize_ros1 if encoding == "ros1" else store.deserialize_cdr
        ros_name = f"{'foxglove_msgs' if package == 'foxglove' else package}/msg/{name}"
        return functools.partial(_parse, functools.partial(_read_ros, deserialize, ros_name), schema)
    if encoding == "protobuf" and name in FOXGLOVE:
        return functools.partial(_parse, functools.partial(_read_protobuf, protobuf_class(name)), schema)
    if encoding == "json" and name in FOXGLOVE:
        return functools.partial(_parse, _read_json, schema)
    if encoding == "flatbuffer" and name in FOXGLOVE:
        return functools.partial(_parse, functools.partial(_read_flatbuffer, name), schema)
    raise ValueError(
        f"{schema} encoded as {encoding!r} cannot be read; known are cdr and ros1 (sensor_msgs, foxglove_msgs), "
        f"protobuf, flatbuffer and json (foxglove)"
    )


@functools.cache
def ros_typestore(encoding: str) -> Any:
    """The rosbags typestore with the image messages of ROS 1 ("ros1") or ROS 2 ("cdr")."""
    with needs_extra("reading ROS messages", "ros"):
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    store = get_typestore(Stores.ROS1_NOETIC if encoding == "ros1" else Stores.ROS2_HUMBLE)
    types = {f"foxglove_msgs/msg/{name}": text for name, text in FOXGLOVE.items()}
    types[f"ffmpeg_image_transport_msgs/msg/{PACKET}"] = FFMPEG_PACKET
    for name, text in types.items():
        store.register(get_types_from_msg(text, name))
    return store


def protobuf_class(name: str) -> Any:
    """Foxglove's generated protobuf class of that name."""
    with needs_extra("reading Foxglove messages", "record"):
        return getattr(importlib.import_module(f"foxglove_schemas_protobuf.{name}_pb2"), name)


def _to_message(message: Any, stamp_ns: int, seq: int | None = None) -> ImageMessage:
    """An ImageMessage from a deserialized message.

    A message with a `step` is a raw image, one whose format is a video codec a packet of video, any other a still.
    """
    if hasattr(message, "step"):
        size = message.height, message.width, message.step
        big = bool(getattr(message, "is_bigendian", False))
        return ImageMessage("raw", message.encoding, message.data, stamp_ns, *size, seq, big)
    form = getattr(message, "format", None)
    named = message.encoding if form is None else form  # ffmpeg_image_transport names encoders, such as hevc_nvenc
    codec = _find_video_codec(named)
    if codec is None and form is not None:
        return ImageMessage("image", form, message.data, stamp_ns, seq=seq)
    data = with_start_codes(codec, bytes(message.data)) if codec in ("h264", "h265") else message.data
    return ImageMessage("video", codec or named, data, stamp_ns, seq=seq)


@functools.lru_cache
def _find_video_codec(named: str) -> str | None:
    return next((codec for word, codec in CODEC_NAMES.items() if word in named.lower()), None)


def _parse(read: Callable[[ImageData], ImageMessage], schema: str, data: ImageData) -> ImageMessage:
    try:
        return read(data)
    except Exception as error:  # rosbags and protobuf raise numpy, struct, unicode and their own errors
        raise DamagedFrame(f"not a {schema} message: {error!r}") from error


def _read_ros(deserialize: Callable[[ImageData, str], Any], name: str, data: ImageData) -> ImageMessage:
    message = deserialize(data, name)
    header = getattr(message, "header", None)
    stamp = header.stamp if header is not None else message.timestamp
    return _to_message(message, stamp.sec * 10**9 + stamp.nanosec, getattr(header, "seq", None))


def _read_protobuf(message_class: Any, data: ImageData) -> ImageMessage:
    message = message_class.FromString(bytes(data))
    return _to_message(message, message.timestamp.seconds * 10**9 + message.timestamp.nanos)


def _read_json(data: ImageData) -> ImageMessage:
    message = json.loads(bytes(data), object_hook=lambda fields: SimpleNamespace(**fields))
    message.data = base64.b64decode(message.data, validate=True)
    return _to_message(message, _json_ns(getattr(message, "timestamp", None)))


def _json_ns(stamp: Any) -> int:
    """A time of Foxglove's JSON as ns: seconds and nanoseconds, or RFC 3339 text."""
    if not isinstance(stamp, str):
        return stamp.sec * 10**9 + getattr(stamp, "nsec", getattr(stamp, "nanos", 0)) if stamp else 0
    stamp_ns = read_date(stamp)
    if stamp_ns is None:
        raise ValueError(f"{stamp!r} is no time such as 2024-05-01T12:00:00.25Z")
    return stamp_ns


def _read_flatbuffer(name: str, data: ImageData) -> ImageMessage:
    message = read_table(FIELDS[name], memoryview(bytes(data)))
    return _to_message(message, message.timestamp.sec * 10**9 + message.timestamp.nsec)


def raw_image(message: ImageMessage) -> RawImage:
    """The pixels of a raw image, not converted yet; raises DamagedFrame if they do not fill its declared size."""
    data, step = np.frombuffer(message.data, np.uint8), message.step or None
    encoding = ALIASES.get(message.encoding, message.encoding.strip().lower())
    if encoding == "nv21":  # nv12 with its chroma samples swapped
        luma = message.height * (step or message.width)
        chroma = data[luma:]
        chroma = chroma[: chroma.size // 2 * 2].reshape(-1, 2)[:, ::-1]
        data, encoding = np.concatenate([data[:luma], chroma.reshape(-1)]), "nv12"
    wide = WIDE.fullmatch(encoding)
    try:
        if wide:  # keep the high bytes
            encoding = f"{wide[1]}8"
            rows = RawImage(data, f"uint8x{2 * PIXEL_BYTES[encoding]}", message.height, message.width, step).rows
            data, step = rows[:, 0 if message.big_endian else 1 :: 2], None
        return RawImage(data, encoding, message.height, message.width, step)
    except (ValueError, TypeError) as error:
        raise DamagedFrame(str(error)) from error
