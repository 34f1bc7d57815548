"""The same few camera frames in every kind of file that drives come in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamtok.drives.open_drive import open_drive
from streamtok.types import Frame

START_NS = 1_700_000_000_000_000_000
STEP_NS = 33_000_000
SIZE = 32, 48
ENCODERS = {"h264": "libx264", "h265": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
DECODERS = {"h264": "h264", "h265": "hevc", "av1": "libdav1d", "vp9": "vp9"}
BAG_DELAY_NS = 4_000_000  # a bag notes when a message arrived, which is later than its stamp


def picture(number: int, stream: str = "front", size: tuple[int, int] = SIZE) -> np.ndarray:
    """Frame `number` of a camera: smooth blobs that move, uint8 RGB."""
    noise = np.random.default_rng(sum(map(ord, stream))).integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.roll(cv2.GaussianBlur(noise, (0, 0), 3), 2 * number, axis=1)


def frames_of(stream: str, count: int, start: int = 0, step_ns: int = STEP_NS) -> list[Frame]:
    """`count` frames with ids from `start`, a step apart; cameras differ by a millisecond for each letter."""
    shift = len(stream) * 1_000_000
    return [Frame(stream, n, START_NS + shift + n * step_ns, picture(n, stream)) for n in range(start, start + count)]


def rig(count: int = 21) -> list[Frame]:
    """Two cameras, merged in order of time."""
    return sorted(frames_of("front", count) + frames_of("rear", count), key=lambda frame: frame.capture_ns)


def ros_image(store: Any, frame: Frame, encoding: str = "rgb8", seq: int | None = None, padding: int = 0) -> Any:
    """A sensor_msgs/Image; `padding` bytes end each row."""
    image = frame.image[:, :, ::-1] if encoding == "bgr8" else frame.image
    height, width = image.shape[:2]
    rows = np.zeros((height, width * 3 + padding), np.uint8)
    rows[:, : width * 3] = image.reshape(height, -1)
    message = store.types["sensor_msgs/msg/Image"]
    header = ros_header(store, frame, seq)
    return message(header, height, width, encoding, 0, rows.shape[1], rows.reshape(-1))


def ros_compressed(store: Any, frame: Frame, seq: int | None = None) -> Any:
    """A sensor_msgs/CompressedImage with a PNG."""
    data = cv2.imencode(".png", frame.image[:, :, ::-1])[1].reshape(-1)
    return store.types["sensor_msgs/msg/CompressedImage"](
        ros_header(store, frame, seq), "rgb8; png compressed bgr8", data
    )


def ros_header(store: Any, frame: Frame, seq: int | None) -> Any:
    """A std_msgs/Header; ROS 1 has a counter in it."""
    stamp = store.types["builtin_interfaces/msg/Time"](frame.capture_ns // 10**9, frame.capture_ns % 10**9)
    header = store.types["std_msgs/msg/Header"]
    return header(stamp=stamp, frame_id="cam") if seq is None else header(seq=seq, stamp=stamp, frame_id="cam")


def write_bag1(path: Path, frames: Sequence[Frame], compressed: bool = False, **options: Any) -> Path:
    """A ROS 1 bag; `options`: chunk compression, chunk_threshold."""
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    kind = "sensor_msgs/msg/CompressedImage" if compressed else "sensor_msgs/msg/Image"
    writer = Writer(path)
    writer.chunk_threshold = options.get("chunk_threshold", 1 << 14)
    if "compression" in options:
        writer.set_compression(options["compression"])
    with writer:
        topics = {}
        for frame in frames:
            if frame.stream not in topics:
                topics[frame.stream] = writer.add_connection(f"/{frame.stream}/image_raw", kind, typestore=store)
            seq = frame.frame_id + 100
            message = ros_compressed(store, frame, seq) if compressed else ros_image(store, frame, "bgr8", seq)
            writer.write(topics[frame.stream], frame.capture_ns + BAG_DELAY_NS, store.serialize_ros1(message, kind))
    return path


def write_bag2(
    path: Path, frames: Sequence[Frame], storage: str = "SQLITE3", padding: int = 0, compression: str = "NONE"
) -> Path:
    """A ROS 2 bag folder; `storage` SQLITE3 or MCAP, zstd `compression` of NONE, each FILE or each MESSAGE."""
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store, kind = get_typestore(Stores.ROS2_HUMBLE), "sensor_msgs/msg/Image"
    bag = Writer(path, version=9, storage_plugin=StoragePlugin[storage])
    if compression != "NONE":
        bag.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with bag as writer:
        topics = {}
        for frame in frames:
            if frame.stream not in topics:
                topics[frame.stream] = writer.add_connection(f"/{frame.stream}/image_raw", kind, typestore=store)
            data = store.serialize_cdr(ros_image(store, frame, padding=padding), kind)
            writer.write(topics[frame.stream], frame.capture_ns + BAG_DELAY_NS, data)
    return path


def foxglove(name: str, frame: Frame, **fields: Any) -> bytes:
    """A Foxglove message about a frame."""
    from google.protobuf.timestamp_pb2 import Timestamp

    from streamtok.io.messages.image_messages import protobuf_class

    stamp = Timestamp(seconds=frame.capture_ns // 10**9, nanos=frame.capture_ns % 10**9)
    return protobuf_class(name)(timestamp=stamp, frame_id="cam", **fields).SerializeToString()


def write_mcap(path: Path, frames: Sequence[Frame], kind: str = "RawImage", **options: Any) -> Path:
    """An MCAP file with Foxglove messages: RawImage, CompressedImage (PNG) or CompressedVideo (H.264, H.265 or AV1).

    `options`: codec, chunk_size, chunking, compression (NONE, LZ4 or ZSTD).
    """
    from mcap.writer import CompressionType, Writer
    from mcap_protobuf.schema import build_file_descriptor_set

    from streamtok.io.messages.image_messages import protobuf_class

    codec = options.get("codec", "h264")
    packets = {}
    if kind == "CompressedVideo":
        for stream in {frame.stream for frame in frames}:
            packets[stream] = iter(encode_video([f.image for f in frames if f.stream == stream], codec))
    with path.open("wb") as file:
        writer = Writer(
            file,
            chunk_size=options.get("chunk_size", 1 << 14),
            use_chunking=options.get("chunking", True),
            compression=CompressionType[options.get("compression", "ZSTD")],
        )
        writer.start()
        schema = writer.register_schema(
            f"foxglove.{kind}", "protobuf", build_file_descriptor_set(protobuf_class(kind)).SerializeToString()
        )
        topics: dict[str, int] = {}
        for frame in frames:
            if frame.stream not in topics:
                topics[frame.stream] = writer.register_channel(f"/{frame.stream}/image", "protobuf", schema)
            data = foxglove_data(kind, frame, next(packets[frame.stream]) if packets else b"", codec)
            time_ns = frame.capture_ns + BAG_DELAY_NS
            writer.add_message(topics[frame.stream], time_ns, data, time_ns)
        writer.finish()
    return path


def write_topics(
    path: Path, schema: str, topics: Mapping[str, Iterable[tuple]], closed: bool = True, **options: Any
) -> Path:
    """An MCAP file: by topic (logged at, data) of its messages, and if it differs, when each was published."""
    from mcap.writer import Writer

    form = ("ros2msg", "cdr", "ros2") if "/msg/" in schema else ("protobuf", "protobuf", "")
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start(profile=form[2])
        number = writer.register_schema(schema, form[0], b"")
        for topic, messages in topics.items():
            channel = writer.register_channel(topic, form[1], number)
            for log_ns, data, *publish_ns in messages:
                writer.add_message(channel, log_ns, data, *(publish_ns or [log_ns]))
        (writer.finish if closed else writer.flush)()
    return path


def read_drive(path: Path, **options: Any) -> tuple[list[Frame], str]:
    """The frames of a drive, and what it notes."""
    with open_drive(path, **options) as drive:
        return list(drive), " ".join(drive.notes)


def foxglove_data(kind: str, frame: Frame, packet: bytes, codec: str) -> bytes:
    """The message of one kind for a frame."""
    height, width = frame.image.shape[:2]
    if kind == "RawImage":
        size = {"height": height, "width": width, "step": 3 * width}
        return foxglove(kind, frame, data=frame.image.tobytes(), encoding="rgb8", **size)
    if kind == "CompressedImage":
        return foxglove(kind, frame, data=cv2.imencode(".png", frame.image[:, :, ::-1])[1].tobytes(), format="png")
    return foxglove(kind, frame, data=packet, format=codec)


def write_folders(root: Path, frames: Sequence[Frame]) -> Path:
    """A folder of PNG files and times per camera."""
    for frame in frames:
        folder = root / frame.stream / "data"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{frame.frame_id:010d}.png"), frame.image[:, :, ::-1])
        with (root / frame.stream / "timestamps.txt").open("a") as lines:
            lines.write(f"{frame.capture_ns}\n")
    return root


def encode_video(images: Sequence[np.ndarray], codec: str = "h264", key_every: int = 10) -> list[bytes]:
    """One access unit per image, in the order of the images."""
    import av

    name = ENCODERS[codec]
    context: Any = av.CodecContext.create(name, "w")
    context.height, context.width = images[0].shape[:2]
    context.pix_fmt, context.time_base, context.thread_count = "yuv420p", Fraction(1, 25), 1
    context.framerate = 25
    params = f"keyint={key_every}:min-keyint={key_every}:scenecut=0:repeat-headers=1:annexb=1:bframes=0"
    quiet = ":log-level=none" if codec == "h265" else ""
    context.options = {"preset": "ultrafast", "tune": "zerolatency", name[3:] + "-params": params + quiet}
    if codec == "av1":
        context.options = {"preset": "12", "svtav1-params": f"keyint={key_every}:pred-struct=1:rtc=1:lp=1"}
    elif codec == "vp9":
        context.options = {"deadline": "realtime", "cpu-used": "8", "g": str(key_every), "lag-in-frames": "0"}
    packets = []
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = number, context.time_base
        packets += context.encode(frame)
    return [bytes(packet) for packet in packets + context.encode(None)]


def decode_video(packets: Sequence[bytes], codec: str = "h264") -> list[np.ndarray]:
    """The pictures of access units, uint8 RGB, as a plain decoder gives them."""
    import av

    context: Any = av.CodecContext.create(DECODERS[codec], "r")
    context.thread_count = 1
    frames = [frame for packet in packets for frame in context.decode(av.Packet(packet))] + context.decode(None)
    return [frame.to_ndarray(format="rgb24") for frame in frames]


def assert_same_frames(found: Sequence[Frame], expected: Sequence[Frame], names: dict[str, str] | None = None) -> None:
    """Streams, times and pictures of both are equal, in order."""
    names = names or {}
    assert [(names.get(f.stream, f.stream), f.capture_ns) for f in found] == [
        (f.stream, f.capture_ns) for f in expected
    ]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
