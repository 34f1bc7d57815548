"""Frames of another node over real sockets: every encoding, restarts, damage, and what is no frame."""

import itertools
import os
import time
from fractions import Fraction

import av
import cv2
import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.io import zmq_frames
from streamtok.io.base import EndOfSource
from streamtok.io.source import open_source
from streamtok.io.video.video_packets import VideoDecoder
from streamtok.io.zmq_frames import ZmqSource
from streamtok.preprocessing.pixels import to_rgb
from streamtok.wire.message import FrameHeader, Limits, compute_checksum, pack

IMAGE = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)


class Sender:
    """A publisher of frames, plain enough to send what it should not."""

    def __init__(self, host="127.0.0.1"):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.ipv6 = ":" in host
        self.port = self.socket.bind_to_random_port(f"tcp://{host}")
        self.session, self.seq = os.urandom(16).hex(), 0

    def joined(self):
        assert self.socket.poll(60_000)
        return self.socket.recv()

    def send(self, frame_id, payload=None, *, encoding="rgb8", capture_ns=None, **changes):
        payload = IMAGE.tobytes() if payload is None else payload
        now = time.monotonic_ns()
        header = FrameHeader(
            stream="front",
            session=self.session,
            seq=self.seq,
            frame_id=frame_id,
            publish_ns=now,
            encoding=encoding,
            capture_ns=now if capture_ns is None else capture_ns,
            image_size=[16, 24],
            checksum=compute_checksum(payload),
        )
        header = msgspec.structs.replace(header, **changes)
        self.socket.send_multipart(pack(header, payload))
        self.seq += 1

    def close(self):
        self.context.destroy(linger=0)


@pytest.fixture
def link():
    sender = Sender()
    source = open_source(f"zmq:tcp://127.0.0.1:{sender.port}?stream=front", "cam7", keep_packets=True)
    with source:
        assert sender.joined() == b"\x01frames/front"
        yield sender, source
    sender.close()


def test_raw_frames_keep_number_time_and_pixels(link):
    sender, source = link
    start = time.monotonic_ns()
    for n in range(3):
        sender.send(10 + n, capture_ns=start + n)
    frames = [source.read(60) for _ in range(3)]
    assert [(f.stream, f.frame_id, f.capture_ns) for f in frames] == [("cam7", 10 + n, start + n) for n in range(3)]
    assert all(np.array_equal(frame.image, IMAGE) for frame in frames)
    assert source.live
    assert source.size == (16, 24)
    assert source.read(0) is None


def test_pictures_of_any_channels_come_as_they_are(link):
    """From another program, or as a node with --publish-frames sends them."""
    sender, source = link
    image = np.random.default_rng(2).integers(0, 256, (16, 24, 5), dtype=np.uint8)
    sender.send(1, image.tobytes(), encoding="uint8x5")
    assert np.array_equal(source.read(60).image, image)
    sender.send(2, image.tobytes(), encoding="uint8x4")
    sender.send(3, image.tobytes(), encoding="uint8x5")
    assert source.read(60).frame_id == 3
    assert sum(source.rejects.counts.values()) == 1


def test_frames_come_over_ipv6():
    try:
        sender = Sender("[::1]")
    except zmq.ZMQError:
        pytest.skip("this machine has no IPv6")
    with open_source(f"zmq:tcp://[::1]:{sender.port}?stream=front") as source:
        sender.joined()
        sender.send(3)
        assert source.read(60).frame_id == 3
    sender.close()


def test_a_message_beyond_the_limit_does_not_end_the_source(link):
    sender, source = link
    sender.socket.send_multipart([b"frames/front", bytes(Limits().max_part + 1)])
    deadline = time.monotonic() + 60
    while (frame := source.read(0.5)) is None:  # libzmq has dropped the connection, and would not come back by itself
        assert time.monotonic() < deadline
        sender.send(5)
    assert frame.frame_id == 5


def test_other_encodings_become_rgb(link):
    sender, source = link
    sender.send(0, np.ascontiguousarray(IMAGE[..., ::-1]).tobytes(), encoding="bgr8")
    assert np.array_equal(source.read(60).image, IMAGE)
    planes = np.random.default_rng(2).integers(0, 256, 16 * 24 * 3 // 2, dtype=np.uint8)
    sender.send(1, planes.tobytes(), encoding="nv12")
    frame = source.read(60)
    assert (frame.picture.encoding, frame.picture.data.tobytes()) == ("nv12", planes.tobytes())  # for a GPU to convert
    assert np.array_equal(frame.image, to_rgb(planes, "nv12", 16, 24))
    png = cv2.imencode(".png", IMAGE[..., ::-1])[1].tobytes()
    sender.send(2, png, encoding="png")
    frame = source.read(60)
    assert np.array_equal(frame.image, IMAGE)
    assert (frame.packet, frame.codec) == (png, "png")


def test_video_packets_are_decoded_and_a_lost_one_costs_up_to_the_key_frame(link):
    sender, source = link
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.thread_count = 64, 96, "yuv420p", 1
    encoder.framerate = 30
    encoder.options = {"tune": "zerolatency", "x264-params": "keyint=6:repeat-headers=1:annexb=1"}
    for n in range(14):
        picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 20 * n % 200, np.uint8), format="rgb24")
        picture.pts = n
        packets = b"".join(bytes(packet) for packet in encoder.encode(picture))
        if n == 2:
            sender.seq += 1
        else:
            sender.send(n, packets, encoding="h264", image_size=[64, 96])
    for number in (0, 1, *range(6, 14)):
        frame = source.read(60)
        assert (frame.frame_id, frame.image.shape) == (number, (64, 96, 3))
        assert abs(int(frame.image.mean()) - 20 * number % 200) < 6
    assert source.read(0.2) is None
    assert source.counts["damaged"] == 3


def test_a_video_packet_of_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("streamtok.io.video.clean_decoder.MOST_PIXELS", 32 * 48 - 1)
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 48, 32, "yuv420p", Fraction(1, 30)
    packets = [*encoder.encode(av.VideoFrame(48, 32, "yuv420p")), *encoder.encode(None)]
    decoder = VideoDecoder("h264")
    decoded = [*decoder.decode(bytes(packets[0]), 0), *decoder.flush()]
    assert [each.image for each in decoded] == [None]


def test_a_publisher_that_starts_again_goes_on_behind_a_gap(link):
    sender, source = link
    sender.send(41)
    assert source.read(60).frame_id == 41
    sender.session, sender.seq = os.urandom(16).hex(), 0
    sender.send(0)
    sender.send(1)
    assert [source.read(60).frame_id for _ in range(2)] == [43, 44]
    assert source.counts["reconnects"] == 1


def test_another_machine_s_clock_is_moved_to_ours_by_one_constant(link):
    sender, source = link
    away = 10**15
    for n in range(3):
        now = away + n * 33_000_000
        sender.send(n, capture_ns=now - 5_000_000, publish_ns=now)
    arrived = time.monotonic_ns()
    times = [source.read(60).capture_ns for _ in range(3)]
    assert np.diff(times).tolist() == [33_000_000, 33_000_000]
    assert abs(times[0] - arrived) < 60_000_000_000


def test_another_clock_is_read_from_the_message_that_waited_least(link, monkeypatch):
    monkeypatch.setattr(zmq_frames, "BURST_NS", 0)
    sender, source = link
    away, lateness = 10**15 - time.monotonic_ns(), 2 * SECOND
    taken, shown = [], []
    for n in range(60):
        taken.append(time.monotonic_ns())
        sender.send(n, capture_ns=taken[-1] + away, publish_ns=taken[-1] + away - (lateness if n == 0 else 0))
        shown.append(source.read(60).capture_ns)
    assert shown[0] - taken[0] >= lateness  # it seemed to come from a clock that is so much behind
    assert all(earlier < later for earlier, later in itertools.pairwise(shown))
    late = [show - take for show, take in zip(shown, taken, strict=True)]
    assert late[-1] < late[0] - (taken[-1] - taken[0]) // 8


def test_what_does_not_fit_is_counted_and_left_out(link):
    sender, source = link
    sender.send(0, b"short")
    sender.send(1, checksum=1)
    sender.socket.send_multipart([b"frames/front", b"\xc1", b""])
    sender.socket.send_multipart([b"frames/front"])
    sender.socket.send_multipart([b"frames/front_left", b"", b""])
    sender.send(2, b"no jpeg", encoding="jpeg")
    sender.send(3, cv2.imencode(".png", IMAGE[:8])[1].tobytes(), encoding="png")
    sender.send(4)
    sender.send(4)
    sender.send(5)
    assert [source.read(60).frame_id for _ in range(2)] == [4, 5]
    assert source.counts["damaged"] == 2
    assert source.counts["backwards"] == 1
    assert source.rejects.counts.total() == 4


SECOND = 10**9


@pytest.mark.parametrize("change", ["number", "clock", "both"])
def test_a_publisher_whose_numbers_or_clock_are_set_back_is_heard_again_soon(link, change):
    sender, source = link
    now = time.monotonic_ns()
    sender.send(1000, capture_ns=now)
    assert source.read(60).frame_id == 1000
    for n in range(20):
        number, offset = 0 if change != "clock" else 1001, 0 if change == "number" else -60 * SECOND
        sender.send(number + n, capture_ns=now + offset + n + 1)
    first = 1008 if change == "clock" else 1002
    assert [source.read(60).frame_id for _ in range(13)] == list(range(first, first + 13))
    assert source.read(0.2) is None
    assert (source.counts["backwards"], source.counts["reconnects"]) == (7, 1)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"frame_id": 2**63 - 1},
        {"capture_ns": 2**63 - 1},
        {"capture_ns": -(2**63)},
        {"publish_ns": -(2**63)},
        {"frame_id": 2**63 - 1, "session": "0" * 32},
        {"capture_ns": 2**63 - 1, "session": "0" * 32},
        {"publish_ns": -(2**63), "session": "0" * 32},
    ],
)
def test_one_picture_of_nonsense_does_not_silence_the_camera(link, nonsense):
    sender, source = link
    for n in range(30):
        sender.send(**{"frame_id": n} | (nonsense if n == 5 else {}))
    frames = [source.read(60) for _ in range(20)]  # and more, mostly
    frames += iter(lambda: source.read(0.2), None)
    arrived = time.monotonic_ns()
    assert all(frame.frame_id < 2**54 and abs(frame.capture_ns - arrived) < 60 * SECOND for frame in frames)


def test_a_session_whose_times_are_behind_the_last_one_is_heard(link):
    """A replay that ran faster than real time is started again."""
    sender, source = link
    now = time.monotonic_ns()
    sender.send(0, capture_ns=now)
    sender.send(1, capture_ns=now + 3600 * SECOND)
    assert [source.read(60).frame_id for _ in range(2)] == [0, 1]
    sender.session, sender.seq = os.urandom(16).hex(), 0
    sender.send(0)
    assert source.read(60).frame_id == 3


@settings(max_examples=60)
@given(parts=st.lists(st.binary(max_size=200), min_size=1, max_size=5), named=st.booleans())
def test_random_messages_never_raise(parts, named):
    source = ZmqSource("tcp://127.0.0.1:9", "front")
    with source:
        if named:
            parts[0] = b"frames/front"
        source._subscription._arrivals.take(parts)
        assert source.read(0) is None


def test_a_publisher_is_waited_for_and_close_ends_the_read():
    source = open_source("zmq:tcp://127.0.0.1:9", "front")
    source.open()
    assert source.read(0.05) is None
    source.close()
    with pytest.raises(EndOfSource):
        source.read(1)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("zmq:127.0.0.1:5", "tcp://HOST:PORT"),
        ("zmq:tcp://127.0.0.1:5?stream=a/b", "stream name 'a/b'"),
        ("zmq:tcp://127.0.0.1:5?topic=a", "stream, curve"),
    ],
)
def test_wrong_specs_say_what_is_allowed(spec, words):
    with pytest.raises(ValueError, match=words):
        open_source(spec)
