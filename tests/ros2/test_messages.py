"""What the ROS bridge makes of camera messages and of ours, without ROS: its modules need msgpack alone."""

import ast
import sys
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from streamtok_ros import frames, groups

from streamtok.io.images.stills import encode_jpeg
from streamtok.io.source import open_source
from streamtok.preprocessing.pixels import to_rgb
from streamtok.wire.message import compute_checksum, pack, unpack_frame
from tests.kit.videos import PLAIN, number_of, numbered, write_video
from tests.kit.wire import make_header

PACKAGE = Path(__file__).parents[2] / "ros2" / "streamtok_ros"


def test_the_package_is_python_3_10_and_needs_little():
    allowed = {"rclpy", "zmq", "msgpack", "builtin_interfaces", "sensor_msgs", "diagnostic_msgs", "streamtok_msgs"}
    allowed |= {"ffmpeg_image_transport_msgs"}  # by those who have such topics
    for path in PACKAGE.glob("streamtok_ros/*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 10))
        for node in ast.walk(tree):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", [])]
            if isinstance(node, ast.Import | ast.ImportFrom):
                tops = {str(name).partition(".")[0] for name in names}
                assert tops <= allowed | {"streamtok_ros"} | sys.stdlib_module_names, path


@given(
    st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "yuv422", "yuv422_yuy2", "bayer_grbg8"]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 7),
)
def test_padded_rows_of_every_encoding_become_the_same_picture(encoding, half_height, half_width, padding):
    height, width = 2 * half_height, 2 * half_width
    pixel = {"rgba8": 4, "bgra8": 4, "rgb8": 3, "bgr8": 3, "yuv422": 2, "yuv422_yuy2": 2}.get(encoding, 1)
    step = width * pixel + padding
    data = np.random.default_rng(0).integers(0, 256, height * step, np.uint8)
    name, packed = frames.raw_image(encoding, height, width, step, False, data.tobytes())
    ours = {"yuv422": "uyvy", "yuv422_yuy2": "yuyv"}.get(encoding, encoding)
    expected = to_rgb(data, ours, height, width, step)
    np.testing.assert_array_equal(to_rgb(np.frombuffer(packed, np.uint8), name, height, width), expected)
    with pytest.raises(ValueError, match="rows"):
        frames.raw_image(encoding, height, width, step, False, data.tobytes()[: (height - 1) * step])


def test_images_of_16_bits_keep_their_high_byte_in_both_orders():
    values = np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000
    for order, big in (("<u2", False), (">u2", True)):
        name, packed = frames.raw_image("mono16", 4, 6, 12, big, values.astype(order).tobytes())
        assert (name, packed) == ("mono8", (values >> 8).astype(np.uint8).tobytes())
    with pytest.raises(ValueError, match="16UC1"):
        frames.raw_image("16UC1", 4, 6, 12, False, bytes(48))


def test_compressed_images_tell_their_size():
    jpeg = encode_jpeg(np.zeros((48, 64, 3), np.uint8))
    assert frames.compressed_image(jpeg, "rgb8; jpeg compressed bgr8", None) == ("jpeg", (48, 64), jpeg)
    for bad in (jpeg[:20], b"", b"no picture"):
        with pytest.raises(ValueError):
            frames.compressed_image(bad, "jpeg", (4, 6))
    with pytest.raises(ValueError, match="camera_info"):
        frames.compressed_image(b"packet", "h264", None)


def test_packets_of_video_are_decoded_and_a_missing_one_is_noticed(tmp_path):
    """As CompressedImage and FFMPEGPacket carry them; a stamp that does not rise costs those up to a key frame."""
    path = write_video(tmp_path / "a.h264", numbered(40), range(0, 40 * 512, 512), **PLAIN)
    with av.open(str(path)) as video:
        packets = [bytes(packet) for packet in video.demux(video=0) if packet.size]
    numbers, shown = frames.FrameNumbers(), {*range(13), *range(20, 40)}
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        with open_source(f"zmq:tcp://127.0.0.1:{port}", "front") as source:
            assert socket.recv() == b"\1frames/front"
            for number, packet in enumerate(packets):
                stamp = 10**18 + (number - 2 * (number == 13)) * 40_000_000
                picture = frames.compressed_image(packet, "libx264", (64, 96))
                parts = frames.pack_frame("front", numbers, stamp, stamp, picture)
                if parts:
                    socket.send_multipart(parts)
                if number in shown:  # read as they come: a live source keeps the newest few
                    assert number_of(source.read(20).image) == number


def test_a_frame_is_one_of_the_protocol():
    numbers = frames.FrameNumbers()
    parts = frames.pack_frame("front", numbers, 10**18, 10**18 + 5, ("rgb8", (4, 6), bytes(72)))
    message = unpack_frame(parts)
    assert (message.header.capture_ns, message.header.encoding, message.header.seq) == (10**18, "rgb8", 0)


def test_numbers_follow_stamps_through_gaps_and_a_clock_that_is_set_back():
    numbers = frames.FrameNumbers()
    first = numbers.take(0)
    assert [numbers.take(n * 33) - first for n in range(1, 10)] == list(range(1, 10))
    assert numbers.take(13 * 33) - first == 13  # three images are missing: their numbers too
    assert numbers.take(13 * 33) is None
    session = numbers.session
    again = [numbers.take(5 + n) for n in range(frames.BACKWARDS)]
    assert numbers.session != session
    assert [number is None for number in again] == [True] * (frames.BACKWARDS - 2) + [False] * 2
    assert again[-1] == again[-2] + 1 > first + 13
    assert numbers.counts["missing"] == 3


def follow(script: list[tuple[str, int, bool]]) -> list[tuple[int, int, bool]]:
    """(seq, lost, decodable) of what is used of the messages (session, seq, keyframe)."""
    follower = groups.Continuity()
    taken = [follower.take({"session": s, "seq": n, "keyframe": k, "dropped": 0}) for s, n, k in script]
    return [(header["seq"], lost, ready) for each in taken for header, _, lost, ready in each]


def test_groups_are_followed_as_the_protocol_says():
    script = [("a", 3, False), ("a", 4, True), ("a", 5, False), ("a", 5, False), ("a", 8, True), ("a", 9, False)]
    script += [("b", 0, False), ("b", 1, True)]
    ready = [(3, 0, False), (4, 0, True), (5, 0, True), (8, 2, True), (9, 0, True), (0, 0, False), (1, 0, True)]
    assert follow(script) == ready


def test_every_second_group_may_be_lost_and_repeats_are_skipped():
    others = [("a", number, number % 8 == 0) for number in range(0, 20, 2)]
    assert follow(others) == [
        (number, int(number > 0), number % 8 == 0) for number in range(0, 18, 2)
    ]  # the last waits
    repeats = [("a", number, number == 0) for number in (0, 1, 1, 2, 3, 2, 3, 4, 1, 6, 7)]
    assert [(number, lost) for number, lost, _ in follow(repeats)] == [(n, int(n == 6)) for n in (0, 1, 2, 3, 4, 6, 7)]


def test_infos_bear_out_the_last_group_and_tell_what_is_lost_behind_it():
    follower = groups.Continuity()

    def take(seq, **info):
        given = {"session": "a", "seq": seq, "keyframe": seq == 0, "dropped": 0}
        taken = follower.take_info({"session": "a", "last_seq": seq}) if info else follower.take(given)
        return [(header["seq"], lost, ready) for header, _, lost, ready in taken]

    assert take(-1, info=True) == []
    assert take(0) + take(1) == [(0, 0, True), (1, 0, True)]
    assert take(4) == []  # it jumps
    assert take(4, info=True) == [(4, 2, False)]
    assert take(9, info=True) + take(2**62, info=True) + take(9, info=True) == []
    assert follower.counts["lost"] == 2 + 5
    assert take(10) == [(10, 0, False)]


@given(st.sampled_from("ab"), st.integers(0, 2**63))
def test_one_wrong_number_costs_no_other_group(session, seq):
    good = [("a", number, number == 0) for number in range(6)]
    assert (
        follow([*good[:3], (session, seq, True), *good[3:]])
        in (
            [(number, 0, True) for number in range(6)],
            [(number, 0, True) for number in (0, 1, 2, 3, 3, 4, 5)],  # what has the next number is the next
        )
        or seq == 3
    )


def test_streams_have_topics_of_their_own_that_ros_takes():
    assert groups.name_topics(["rear-left", "0"]) == {"rear-left": "streamtok/rear_left", "0": "streamtok/_0"}
    with pytest.raises(ValueError, match="rear-left, rear_left"):
        groups.name_topics(["rear-left", "front", "rear_left"])
    with pytest.raises(ValueError, match=r"0, _0 .*no digit"):
        groups.name_topics(["0", "_0"])


def test_a_token_message_is_read_and_a_damaged_one_refused():
    tokens = np.arange(24, dtype="<u2").reshape(4, 6) % 64
    header = make_header(0)
    header = msgspec.structs.replace(header, checksum=compute_checksum(tokens.tobytes()))
    topic, head, payload = pack(header, tokens.tobytes())
    stream, read, data = groups.read_message([topic, head, payload], "tokens", ["front"])
    groups.check_group(read, data)
    assert (stream, read["grid"], data) == ("front", [4, 6], tokens.tobytes())
    with pytest.raises(KeyError):
        groups.read_message([topic, head, payload], "tokens", ["fron"])
    with pytest.raises(ValueError, match="checksum"):
        groups.check_group(read, bytes(48))
    for parts in ([topic, head], [topic, b"\xc1", payload], [b"tokens/other", head, payload]):
        with pytest.raises(ValueError):
            groups.read_message(parts, "tokens", ["front"])


def test_a_calibration_fits_the_decoded_picture():
    """A point in front of the camera falls on the same place of the picture, resized and padded."""
    k = [500.0, 0, 320, 0, 510, 240, 0, 0, 1]
    info = {"source_size": [480, 640], "source_rect": [16, 0, 240, 320], "image_size": [272, 320]}
    scaled, projection = groups.scale_camera(k, [500.0, 0, 320, 7, 0, 510, 240, 0, 0, 0, 1, 0], info)
    point = np.array([0.3, -0.2, 2.0])
    x, y, z = np.array(k).reshape(3, 3) @ point
    u, v, w = np.array(scaled).reshape(3, 3) @ point
    np.testing.assert_allclose([u / w, v / w], [x / z / 2, y / z / 2 + 16])
    assert projection[3] == 3.5
    assert groups.stamps_of({"frame_ids": [1, 2], "capture_ns": [10, 20]}, {2: 99}, [5, 105]) == [110, 99]
