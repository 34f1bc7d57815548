"""Images in every message that carries them, told by type and encoding, never by a topic's name."""

import base64
import dataclasses
import io
import json
import struct
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from streamtok.drives.open_drive import open_drive
from streamtok.io.images.stills import decode_image_file
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.tokens.inspecting import inspect
from tests.kit.drives import SIZE, encode_video, foxglove, frames_of, picture, ros_image
from tests.kit.drives import decode_video as decode
from tests.kit.drives import read_drive as read

FRAMES = frames_of("front", 12)
GREY = (np.arange(SIZE[0] * SIZE[1], dtype=np.uint16) * 41).reshape(SIZE)


def store():
    from streamtok.io.messages.image_messages import ros_typestore

    return ros_typestore("cdr")


def cdr(kind: str, **fields) -> bytes:
    """A ROS 2 message of a frame's header and these fields."""
    header = ros_image(store(), fields.pop("frame")).header
    return bytes(store().serialize_cdr(store().types[kind](header=header, **fields), kind))


def image(frame, data: np.ndarray, encoding: str, big: bool = False) -> bytes:
    raw = np.frombuffer(data.tobytes(), np.uint8)
    size = {"height": data.shape[0], "width": data.shape[1], "step": raw.size // data.shape[0]}
    return cdr("sensor_msgs/msg/Image", frame=frame, encoding=encoding, is_bigendian=int(big), data=raw, **size)


def compressed(frame, data: bytes, form: str) -> bytes:
    return cdr("sensor_msgs/msg/CompressedImage", frame=frame, format=form, data=np.frombuffer(data, np.uint8))


def write(path: Path, channels: list[tuple], profile: str = "ros2") -> Path:
    """An MCAP file of (topic, schema name, schema encoding, message encoding, [(log time, data)]) channels."""
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile=profile)
        for topic, name, schema_encoding, encoding, messages in channels:
            schema = writer.register_schema(name, schema_encoding, b"")
            channel = writer.register_channel(topic, encoding, schema)
            for log_ns, data in messages:
                writer.add_message(channel, log_ns, data, log_ns)
        writer.finish()
    return path


def timed(messages: list[bytes]) -> list[tuple[int, bytes]]:
    return [(frame.capture_ns, data) for frame, data in zip(FRAMES, messages, strict=False)]


def ros(topic: str, messages: list[bytes], kind: str = "sensor_msgs/msg/Image") -> tuple:
    return topic, kind, "ros2msg", "cdr", timed(messages)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bayer_rggb16"])
def test_of_values_of_16_bits_the_high_byte_is_the_picture(tmp_path, encoding, big):
    wide = np.repeat(GREY[..., None], 3, axis=2) if encoding == "rgb16" else GREY
    stored = wide.astype(">u2" if big else "<u2")
    narrow = (wide >> 8).astype(np.uint8)
    both = [
        ros("/wide/image_raw", [image(FRAMES[0], stored, encoding, big)]),
        ros("/narrow/image_raw", [image(FRAMES[0], narrow, encoding.replace("16", "8"))]),
    ]
    (one, other), _ = read(write(tmp_path / "d.mcap", both))
    np.testing.assert_array_equal(one.image, other.image)


COLOURED = np.kron(np.random.default_rng(3).integers(0, 256, (4, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8))


def test_rows_of_16_bits_that_end_with_half_a_value_are_read(tmp_path):
    frame = FRAMES[0]
    rows = np.zeros((SIZE[0], SIZE[1] * 6 + 3), np.uint8)
    rows[:, :-3] = (frame.image.astype("<u2") * 256 + 7).reshape(SIZE[0], -1).view(np.uint8)
    sizes = {"height": SIZE[0], "width": SIZE[1], "step": rows.shape[1], "encoding": "rgb16", "is_bigendian": 0}
    whole = [cdr("sensor_msgs/msg/Image", frame=frame, data=rows.reshape(-1), **sizes)]
    cut_off = [cdr("sensor_msgs/msg/Image", frame=frame, data=rows.reshape(-1)[:-9], **sizes)]
    found, notes = read(write(tmp_path / "d.mcap", [ros("/whole", whole), ros("/cut_off", cut_off)]))
    assert [each.stream for each in found] == ["whole"]
    assert np.array_equal(found[0].image, frame.image)
    assert "cut_off: frame 0" in notes


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_rows_that_are_too_short_are_told_in_the_senders_pixels(tmp_path, encoding):
    fields = {"height": 8, "width": 6, "step": 11, "is_bigendian": 0, "data": np.zeros(88, np.uint8)}
    wrong = cdr("sensor_msgs/msg/Image", frame=FRAMES[0], encoding=encoding, **fields)
    _, notes = read(write(tmp_path / "d.mcap", [ros("/cam", [wrong])]), depth_range=(0.0, 20.0))
    assert "step 11 is less than the 12 bytes of a 6-pixel" in notes


def test_messages_of_which_none_can_be_read_say_why(tmp_path):
    messages = timed([b"\0\7\0\0 no CDR"] * 5)
    path = write(tmp_path / "d.mcap", [("/cam", "sensor_msgs/msg/Image", "ros2msg", "cdr", messages)])
    with open_drive(path) as drive:
        assert not list(drive)
        assert drive.account()["cam"]["damaged"] == 5
        assert any("encapsulation" in note for note in drive.notes)


def test_a_colour_picture_that_was_a_bayer_pattern_before_it_was_packed_is_one(tmp_path):
    """image_transport names the raw image's encoding, then that of the picture: a pattern is stored as one channel."""
    colour = cv2.imencode(".png", COLOURED[..., ::-1])[1].tobytes()
    pattern = np.random.default_rng(4).integers(0, 256, SIZE, np.uint8)
    grey = cv2.imencode(".png", pattern)[1].tobytes()
    topics = [
        ros(
            "/colour",
            [compressed(FRAMES[0], colour, "bayer_rggb8; png compressed bgr8")],
            "sensor_msgs/msg/CompressedImage",
        ),
        ros(
            "/pattern",
            [compressed(FRAMES[0], grey, "bayer_rggb8; png compressed bayer_rggb8")],
            "sensor_msgs/msg/CompressedImage",
        ),
        ros("/plain", [image(FRAMES[0], pattern, "bayer_rggb8")]),
    ]
    found = {frame.stream: frame.image for frame in read(write(tmp_path / "d.mcap", topics))[0]}
    assert np.array_equal(found["colour"], COLOURED)
    assert np.array_equal(found["pattern"], found["plain"])


def test_encodings_of_opencv_and_of_phones_are_read(tmp_path):
    wide, alpha = COLOURED[..., ::-1].astype("<u2") << 8, np.full((*SIZE, 1), 0xFFFF, "<u2")
    yuv = np.random.default_rng(5).integers(0, 256, (SIZE[0] * 3 // 2, SIZE[1]), np.uint8)
    swapped = yuv.copy()
    swapped[SIZE[0] :] = yuv[SIZE[0] :].reshape(-1, 2)[:, ::-1].reshape(-1, SIZE[1])
    size = {"height": SIZE[0], "width": SIZE[1], "step": SIZE[1], "is_bigendian": 0}
    planes = [
        cdr("sensor_msgs/msg/Image", frame=FRAMES[0], encoding=encoding, data=data.reshape(-1), **size)
        for encoding, data in (("nv12", yuv), ("nv21", swapped))
    ]
    topics = [
        ros("/three", [image(FRAMES[0], wide, "16UC3")]),
        ros("/four", [image(FRAMES[0], np.concatenate([wide, alpha], 2), "16UC4")]),
        ros("/nv12", planes[:1]),
        ros("/nv21", planes[1:]),
        ros("/capitals", [image(FRAMES[0], COLOURED, "RGB8")]),
    ]
    frames, notes = read(write(tmp_path / "d.mcap", topics))
    found = {frame.stream: frame.image for frame in frames}
    assert set(found) == {"three", "four", "nv12", "nv21", "capitals"}, notes
    assert np.array_equal(found["nv21"], found["nv12"])
    assert all(np.array_equal(found[name], COLOURED) for name in ("three", "four", "capitals"))


def test_depth_is_told_by_its_encoding_and_never_by_a_name(tmp_path):
    colour = [image(frame, frame.image, "rgb8") for frame in FRAMES]
    depth = [image(frame, GREY, "16UC1") for frame in FRAMES]
    path = write(tmp_path / "d.mcap", [ros("/depthai/rgb/image_raw", colour), ros("/stereo/image_raw", depth)])
    found, notes = read(path)
    assert {frame.stream for frame in found} == {"depthai_rgb"}
    assert "/stereo/image_raw: depth images, left out; --depth-range" in notes
    found, _ = read(path, depth_range=(0.0, 20.0))
    assert {frame.stream for frame in found} == {"depthai_rgb", "stereo"}
    found, notes = read(path, topics=["/stereo/image_raw"])
    assert len(found) == 12
    assert "shown from 0 to 10 m" in notes


def test_distances_become_shades_by_rule_however_they_are_stored(tmp_path):
    metres = np.float32([[0, 1, 2.5, 4, np.nan, np.inf, 9]])
    millimetres = np.uint16([[0, 1000, 2500, 4000, 0, 0, 9000]])
    shades = [0, 255, 128, 0, 0, 0, 0]
    png = cv2.imencode(".png", millimetres)[1].tobytes()
    inverse = np.uint16([[0, *(round(100 / d + 5) for d in (1, 2.5, 4)), 0, 0, round(100 / 9 + 5)]])
    packed = struct.pack("<iff", 0, 100, 5) + cv2.imencode(".png", inverse)[1].tobytes()
    sensor = "sensor_msgs/msg/CompressedImage"
    channels = [
        ros("/metres/image", [image(FRAMES[0], metres, "32FC1")]),
        ros("/big/image", [image(FRAMES[0], metres.astype(">f4"), "32FC1", big=True)]),
        ros("/millimetres/image", [image(FRAMES[0], millimetres, "16UC1")]),
        ros("/png/compressedDepth", [compressed(FRAMES[0], bytes(12) + png, "16UC1; compressedDepth png")], sensor),
        ros("/packed/compressedDepth", [compressed(FRAMES[0], packed, "32FC1; compressedDepth")], sensor),
    ]
    found, _ = read(write(tmp_path / "d.mcap", channels), depth_range=(1.0, 4.0))
    assert len(found) == 5
    for frame in found:
        np.testing.assert_allclose(frame.image[0, :, 0].astype(int), shades, atol=2 if "packed" in frame.stream else 0)


@pytest.mark.parametrize("carrier", ["CompressedImage", "FFMPEGPacket"])
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_video_is_decoded_whatever_message_it_comes_in(tmp_path, carrier, codec):
    packets = encode_video([frame.image for frame in FRAMES], codec)
    if carrier == "CompressedImage":
        messages, kind = (
            [compressed(*each, codec) for each in zip(FRAMES, packets, strict=True)],
            "sensor_msgs/msg/" + carrier,
        )
    else:
        kind, name = "ffmpeg_image_transport_msgs/msg/" + carrier, {"h264": "libx264", "h265": "hevc_nvenc"}[codec]
        fields = {"width": 48, "height": 32, "encoding": name, "pts": 0, "flags": 0, "is_bigendian": False}
        data = [np.frombuffer(packet, np.uint8) for packet in packets]
        messages = [cdr(kind, frame=frame, data=each, **fields) for frame, each in zip(FRAMES, data, strict=True)]
    found, _ = read(write(tmp_path / "d.mcap", [ros("/front/video", messages, kind)]))
    for frame, expected in zip(found, decode(packets, codec), strict=True):
        np.testing.assert_array_equal(frame.image, expected)


@pytest.mark.parametrize("form", ["H.264", "avc1", "x264", "hvc1.1.6.L93.B0", "libx265", "h264; rgb8"])
@pytest.mark.parametrize("lengths", [False, True], ids=["Annex B", "AVCC"])
def test_video_is_decoded_however_its_codec_is_named_and_its_units_are_set_apart(tmp_path, form, lengths):
    codec = "h265" if "hvc" in form or "265" in form else "h264"
    packets = encode_video([frame.image for frame in FRAMES], codec)
    stored = [set_apart_by_lengths(packet) if lengths else packet for packet in packets]
    messages = [compressed(*each, form) for each in zip(FRAMES, stored, strict=True)]
    found, notes = read(write(tmp_path / "d.mcap", [ros("/front/video", messages, "sensor_msgs/msg/CompressedImage")]))
    assert not notes
    for frame, expected in zip(found, decode(packets, codec), strict=True):
        np.testing.assert_array_equal(frame.image, expected)


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_a_start_code_is_not_taken_for_a_length(tmp_path, codec):
    packets = [
        packet.replace(b"\0\0\0\1", b"\0\0\1") for packet in encode_video([frame.image for frame in FRAMES], codec)
    ]
    filler = b"\0\0\1" + {"h264": b"\x0c", "h265": b"\x4c\1"}[codec]
    padded = [(packet + filler).ljust(259 + packet[3], b"\xff") + b"\x80" for packet in packets]
    assert sum(len(packet) == 4 + int.from_bytes(packet[:4], "big") for packet in padded) > len(padded) // 2
    messages = [compressed(*each, codec) for each in zip(FRAMES, padded, strict=True)]
    found, _ = read(write(tmp_path / "d.mcap", [ros("/front/video", messages, "sensor_msgs/msg/CompressedImage")]))
    for frame, expected in zip(found, decode(packets, codec), strict=True):
        np.testing.assert_array_equal(frame.image, expected)


def set_apart_by_lengths(packet: bytes) -> bytes:
    units = [unit.rstrip(b"\0") for unit in packet.split(b"\0\0\1") if unit.rstrip(b"\0")]
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units)


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("stamp_ns", [None, 0, FRAMES[0].capture_ns - 10_000_000])
def test_parameter_sets_in_messages_of_their_own_are_no_pictures(tmp_path, codec, stamp_ns):
    packets = encode_video([frame.image for frame in FRAMES], codec)
    stored = []
    for frame, packet in zip(FRAMES, packets, strict=True):
        units = [b"\0\0\0\1" + unit.rstrip(b"\0") for unit in packet.split(b"\0\0\1") if unit.rstrip(b"\0")]
        for unit in units[:-1]:
            at = frame if stamp_ns is None else dataclasses.replace(frame, capture_ns=stamp_ns)
            stored.append((frame.capture_ns, compressed(at, unit, codec)))
        stored.append((frame.capture_ns, compressed(frame, units[-1], codec)))
    path = write(tmp_path / "d.mcap", [("/front", "sensor_msgs/msg/CompressedImage", "ros2msg", "cdr", stored)])
    with open_drive(path) as drive:
        found = list(drive)
        assert (drive.account()["front"]["images"], drive.account()["front"]["guessed"]) == (len(FRAMES), 0)
    assert [frame.capture_ns for frame in found] == [frame.capture_ns for frame in FRAMES]
    for frame, expected in zip(found, decode(packets, codec), strict=True):
        np.testing.assert_array_equal(frame.image, expected)


def test_messages_without_any_picture_are_not_kept_for_ever(tmp_path):
    side_data = b"\0\0\0\1\x06\x05" + b"\x11" * 100_000
    stored = [(frame.capture_ns, compressed(frame, side_data, "h264")) for frame in FRAMES for _ in range(10)]
    path = write(tmp_path / "d.mcap", [("/front", "sensor_msgs/msg/CompressedImage", "ros2msg", "cdr", stored)])
    with open_drive(path) as drive:
        assert not list(drive)
        account = drive.account()["front"]
    assert account["damaged"] == account["images"] == len(stored) // 11  # a MiB each


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_an_empty_video_message_costs_no_picture(tmp_path, codec):
    packets = encode_video([frame.image for frame in FRAMES], codec)
    messages = [compressed(*each, codec) for each in zip(FRAMES, packets, strict=True)]
    between = dataclasses.replace(FRAMES[4], capture_ns=FRAMES[4].capture_ns - 10_000_000)
    stored = timed(messages)
    stored.insert(4, (between.capture_ns, compressed(between, b"", codec)))
    path = write(tmp_path / "d.mcap", [("/front", "sensor_msgs/msg/CompressedImage", "ros2msg", "cdr", stored)])
    with open_drive(path) as drive:
        found = list(drive)
        assert drive.account()["front"]["damaged"] == 1
    for frame, expected in zip(found, decode(packets, codec), strict=True):
        np.testing.assert_array_equal(frame.image, expected)


@pytest.mark.parametrize("codec", ["h264", "h265", "av1", "vp9"])
@pytest.mark.parametrize("lost", [[3], [3, 4], [9, 10], [10], range(5, 15), range(4, 20)])
def test_pictures_that_a_lost_packet_may_have_touched_are_left_out_until_clean(tmp_path, codec, lost):
    frames = frames_of("front", 40)
    packets = encode_video([frame.image for frame in frames], codec)
    expected = decode(packets, codec)
    kept = [
        (frame.capture_ns, foxglove("CompressedVideo", frame, data=packet, format=codec))
        for frame, packet in zip(frames, packets, strict=True)
        if frame.frame_id not in lost
    ]
    path = write(tmp_path / "d.mcap", [("/front/video", "foxglove.CompressedVideo", "protobuf", "protobuf", kept)])
    with open_drive(path) as drive:
        found = list(drive)
        account = drive.account()["front"]
    times = {frame.capture_ns: frame.frame_id for frame in frames}
    for frame in found:
        np.testing.assert_array_equal(frame.image, expected[times[frame.capture_ns]])
    clean = [n for n in range(40) if n < lost[0] or n >= -(-(lost[-1] + 1) // 10) * 10]
    assert [times[frame.capture_ns] for frame in found] == clean
    assert account["images"] == len(kept)


def table(name: str, values: dict[str, object]) -> bytes:
    """A FlatBuffers table of one of Foxglove's messages: vtable, table, then what its fields point at."""
    from streamtok.io.messages.image_messages import FIELDS

    sizes = {"timestamp": 8}
    slots, at = [], 4
    for field in FIELDS[name]:
        slots.append(at)
        at += sizes.get(field, 4)
    vtable = struct.pack("<HH", 4 + 2 * len(slots), at) + struct.pack(f"<{len(slots)}H", *slots)
    vtable += b"\0" * (-len(vtable) % 4)
    begin, tail = 4 + len(vtable), b""
    inline = struct.pack("<i", begin - 4)
    for field, slot in zip(FIELDS[name], slots, strict=True):
        value = values[field]
        if field == "timestamp":
            inline += struct.pack("<II", *divmod(value, 10**9))
        elif isinstance(value, int):
            inline += struct.pack("<I", value)
        else:
            inline += struct.pack("<I", at + len(tail) - slot)
            tail += struct.pack("<I", len(value)) + value + b"\0" * (4 - len(value) % 4)
    return struct.pack("<I", begin) + vtable + inline + tail


def raw_fields(frame) -> dict:
    size = {"width": 48, "height": 32, "step": 144}
    return {
        "timestamp": frame.capture_ns,
        "frame_id": b"cam",
        "encoding": b"rgb8",
        "data": frame.image.tobytes(),
        **size,
    }


def as_json(frame, stamp: object) -> bytes:
    values = raw_fields(frame) | {"timestamp": stamp, "frame_id": "cam", "encoding": "rgb8"}
    return json.dumps(values | {"data": base64.b64encode(values["data"]).decode()}).encode()


def as_idl(frame) -> bytes:
    """The message in CDR as Foxglove's OMG IDL lays it out, which is that of its ROS message."""
    kind, (seconds, nanos) = "foxglove_msgs/msg/RawImage", divmod(frame.capture_ns, 10**9)
    stamp = store().types["builtin_interfaces/msg/Time"](seconds, nanos)
    rows = np.frombuffer(frame.image.tobytes(), np.uint8)
    message = store().types[kind](
        timestamp=stamp, frame_id="cam", width=48, height=32, encoding="rgb8", step=144, data=rows
    )
    return bytes(store().serialize_cdr(message, kind))


ISO = "2023-11-14T22:13:20.{:09d}Z"
OTHERS = {
    "json": (
        "foxglove.RawImage",
        "jsonschema",
        "json",
        lambda f: as_json(f, {"sec": f.capture_ns // 10**9, "nsec": f.capture_ns % 10**9}),
    ),
    "json, ISO times": (
        "foxglove.RawImage",
        "jsonschema",
        "json",
        lambda f: as_json(f, ISO.format(f.capture_ns % 10**9)),
    ),
    "flatbuffer": ("foxglove.RawImage", "flatbuffer", "flatbuffer", lambda f: table("RawImage", raw_fields(f))),
    "OMG IDL": ("foxglove::RawImage", "omgidl", "cdr", as_idl),
    "ROS 2 IDL": ("sensor_msgs/msg/Image", "ros2idl", "cdr", lambda f: image(f, f.image, "rgb8")),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_images_of_every_encoding_are_read_with_their_own_times(tmp_path, kind):
    name, schema_encoding, encoding, make = OTHERS[kind]
    messages = [(frame.capture_ns + 10**7, make(frame)) for frame in FRAMES]
    found, _ = read(write(tmp_path / "d.mcap", [("/front/image", name, schema_encoding, encoding, messages)]))
    assert [frame.capture_ns for frame in found] == [frame.capture_ns for frame in FRAMES]
    for frame, expected in zip(found, FRAMES, strict=True):
        np.testing.assert_array_equal(frame.image, expected.image)


def test_a_jpeg_with_bytes_behind_its_end_is_whole_and_one_that_is_cut_off_is_not(tmp_path):
    whole = cv2.imencode(".jpg", picture(0, size=(64, 96)))[1].tobytes()
    thumbnail = b"\xff\xd8\xff\xe1" + struct.pack(">H", 2 + len(whole)) + whole + whole[2:]
    data = [whole + bytes(500), thumbnail, thumbnail[:-40], whole[: len(whole) // 2] + bytes(100)]
    messages = [compressed(frame, each, "jpeg") for frame, each in zip(FRAMES, data, strict=False)]
    with open_drive(write(tmp_path / "d.mcap", [ros("/a", messages, "sensor_msgs/msg/CompressedImage")])) as drive:
        assert [frame.frame_id for frame in drive] == [0, 1]
        assert drive.account()["a"]["damaged"] == 2


def test_images_that_wait_for_their_turn_keep_no_chunk_around_their_bytes(tmp_path):
    size = 1 << 20
    whole = cv2.imencode(".jpg", picture(0))[1].tobytes()
    messages = [compressed(frame, whole + bytes(size - len(whole)), "jpeg") for frame in FRAMES]  # a chunk for each
    path = write(tmp_path / "d.mcap", [ros("/a", messages, "sensor_msgs/msg/CompressedImage")])
    with open_drive(path) as drive:
        tracemalloc.start()
        try:
            items = list(drive.items())
            assert tracemalloc.get_traced_memory()[0] < 1.5 * len(items) * size
        finally:
            tracemalloc.stop()
    assert [len(item.packet or b"") for item in items] == [size] * 12


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_info_counts_the_pictures_that_no_decoder_reads(tmp_path, suffix):
    pictures = [cv2.imencode(suffix, frame.image)[1].tobytes() for frame in FRAMES]
    pictures[5] = pictures[5][:20] + bytes(100) + pictures[5][120:]
    messages = [compressed(frame, each, suffix[1:]) for frame, each in zip(FRAMES, pictures, strict=True)]
    path = write(tmp_path / "d.mcap", [ros("/a", messages, "sensor_msgs/msg/CompressedImage")])
    with open_drive(path) as drive:
        assert len(list(drive)) == 11
    report = inspect(path).report
    assert (report["cameras"]["a"]["frames"], report["cameras"]["a"]["damaged"]) == (11, 1)


def test_two_types_on_one_topic_are_two_cameras(tmp_path):
    raw = [image(frame, frame.image, "rgb8") for frame in FRAMES]
    png = [cv2.imencode(".png", frame.image[:, :, ::-1])[1].tobytes() for frame in FRAMES]
    packed = [compressed(frame, each, "png") for frame, each in zip(FRAMES, png, strict=True)]
    path = write(
        tmp_path / "d.mcap", [ros("/a/image_raw", raw), ros("/a/image_raw", packed, "sensor_msgs/msg/CompressedImage")]
    )
    found, _ = read(path)
    assert {frame.stream for frame in found} == {"a", "a_image_raw_CompressedImage"}
    assert [frame.frame_id for frame in found if frame.stream == "a"] == list(range(12))


def test_forms_of_one_topic_are_said_to_be_one_camera(tmp_path):
    raw = [image(frame, frame.image, "rgb8") for frame in FRAMES]
    packed = [compressed(frame, cv2.imencode(".png", frame.image)[1].tobytes(), "png") for frame in FRAMES]
    kind = "sensor_msgs/msg/CompressedImage"
    topics = [
        ros("/a/image_raw", raw),
        ros("/a/image_raw/compressed", packed, kind),
        ros("/b/compressed", packed, kind),
    ]
    path = write(tmp_path / "d.mcap", topics)
    found, notes = read(path)
    assert {frame.stream for frame in found} == {"a", "a_image_raw_compressed", "b"}
    assert "/a/image_raw and /a/image_raw/compressed are likely one camera" in notes
    with open_drive(path, topics=["a", "b"]) as drive:
        assert drive.notes == []


def test_a_camera_that_cannot_be_read_does_not_refuse_the_others(tmp_path):
    good = ros("/good/image_raw", [image(frame, frame.image, "rgb8") for frame in FRAMES])
    odd = ("/odd/image_raw", "sensor_msgs/msg/Image", "ros2msg", "xyz", timed([b"?"] * 12))
    found, notes = read(write(tmp_path / "d.mcap", [odd, good]))
    assert {frame.stream for frame in found} == {"good"}
    assert "/odd/image_raw is left out: sensor_msgs/msg/Image encoded as 'xyz' cannot be read" in notes
    with pytest.raises(ValueError, match=r"no camera images; it has /odd/image_raw .*encoded as 'xyz'"):
        open_drive(write(tmp_path / "e.mcap", [odd]))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("theora_image_transport/msg/Packet", True),
        ("my_msgs/msg/StampedImage", True),
        ("realsense2_camera_msgs/msg/RGBD", True),
        ("stereo_msgs/msg/DisparityImage", True),
        ("sensor_msgs/msg/CameraInfo", False),
        ("visualization_msgs/msg/ImageMarker", False),
    ],
)
def test_pictures_of_a_type_that_is_not_read_are_named(tmp_path, kind, named):
    messages = [image(frame, frame.image, "rgb8") for frame in FRAMES]
    path = write(tmp_path / "d.mcap", [ros("/front/image_raw", messages), ros("/rear/image_raw", messages, kind)])
    frames, notes = read(path)
    assert len(frames) == len(FRAMES)
    assert (f"/rear/image_raw is left out: {kind} is not read" in notes) == named


def test_a_file_without_topics_says_why(tmp_path):
    path = write(tmp_path / "d.mcap", [ros("/a/image_raw", [image(FRAMES[0], FRAMES[0].image, "rgb8")])])
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ValueError, match=r"no topics at all \(it has no end: cut off"):
        open_drive(path)


@pytest.mark.parametrize(("form", "orientation"), [("jpeg", 6), ("jpeg", 4), ("png", 8)])
def test_pictures_in_messages_are_upright_as_those_of_files_and_stay_so_when_recorded(tmp_path, form, orientation):
    tag = Image.Exif()
    tag[0x0112] = orientation
    files = []
    for frame in FRAMES[:4]:
        file = io.BytesIO()
        Image.fromarray(frame.image).save(file, form, exif=tag)
        files.append(file.getvalue())
    kind = "sensor_msgs/msg/CompressedImage"
    messages = timed([compressed(frame, data, form) for frame, data in zip(FRAMES, files, strict=False)])
    path = write(tmp_path / "d.mcap", [("/cam", kind, "ros2msg", "cdr", messages)])
    expected = [decode_image_file(data)[0] for data in files]
    assert expected[0].shape == ((*SIZE[::-1], 3) if orientation > 4 else (*SIZE, 3))
    with Recorder(tmp_path / "again.mcap", RecorderOptions("lossless", min_free_bytes=0)) as recorder:
        for frame in open_drive(path):
            recorder.write_frame(frame)
    for each in (path, tmp_path / "again.mcap"):
        assert all(np.array_equal(a.image, b) for a, b in zip(open_drive(each), expected, strict=True))
