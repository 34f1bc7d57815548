"""Recording from the network: what a file holds when the recorder joins late, the node starts anew, or keys change."""

import logging
import threading
import time

import msgspec
import pytest

from streamtok.drives.open_drive import open_drive
from streamtok.recording.network_recorder import NetworkRecorder
from streamtok.recording.reader import open_recording
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.types import Frame
from streamtok.wire.header import FrameHeader
from streamtok.wire.message import FrameMessage
from streamtok.wire.security import CurveClient, CurveServer, allow, generate
from tests.kit.drives import encode_video, frames_of
from tests.kit.recordings import SESSION
from tests.kit.wire import Served, eventually, make_group, make_info


class Recording:
    """A NetworkRecorder that runs on its own thread until `close`."""

    def __init__(self, endpoint, path, frames="none", **options):
        self.path = path
        self.recorder = Recorder(path, RecorderOptions(frames, min_free_bytes=0))
        self.reader = NetworkRecorder(endpoint, self.recorder, **options)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.reader.run, args=[self._stop.is_set])
        self._thread.start()

    def wait(self, tokens):
        assert eventually(lambda: self.reader.counts["tokens"] >= tokens), dict(self.reader.counts)

    def close(self):
        self._stop.set()
        self._thread.join()
        self.reader.close()
        self.recorder.close()
        return [message.header for message in open_recording(self.path).messages()]


def test_a_recorder_that_joins_late_begins_with_the_keyframe_of_the_epoch(tmp_path):
    with Served() as node:
        node.publish(*map(make_group, range(4)))
        recording = Recording(node.endpoint, tmp_path / "d.mcap")
        recording.wait(4)
        node.publish(make_group(4), make_group(5))
        recording.wait(6)
        headers = recording.close()
    assert [header.seq for header in headers] == list(range(6))
    assert headers[0].keyframe
    assert recording.recorder.counts["missed"] == 0


@pytest.mark.parametrize("codec", ["h264", "h265", None])
def test_with_images_a_recording_begins_where_it_can_be_replayed(tmp_path, codec):
    """Groups are 1, 4, 4, ... frames with a keyframe every 8 groups; packets of video begin anew every 10 frames."""
    images = [frame.image for frame in frames_of("front", 60)]
    packets = encode_video(images, codec) if codec else [None] * 60
    frames = [Frame("front", n, n * 33_000_000, images[n], packets[n], codec) for n in range(60)]

    def publish(node, first, last):
        for number in range(first, last):
            group = make_group(number)
            for frame in frames[max(0, 4 * number - 3) : 4 * number + 1]:
                node.do(lambda publisher, frame=frame: publisher.publish_frame(frame))
            node.publish(group)

    with Served() as node:
        publish(node, 0, 4)
        recording = Recording(node.endpoint, tmp_path / "d.mcap", "lossless")
        node.wait_subscribers(1)
        assert eventually(lambda: recording.reader.subscription.infos)
        publish(node, 4, 14)
        recording.wait(6)
        headers = recording.close()
    assert [header.seq for header in headers] == list(range(8, 14))
    with open_drive(tmp_path / "d.mcap") as drive:
        found = [frame.frame_id for frame in drive]
    assert found == list(range(found[0], 53))
    assert found[0] == (20 if codec else 13)
    assert recording.recorder.counts["missed"] == 0


def test_images_of_which_none_is_a_key_frame_are_named_and_the_tokens_are_there(tmp_path):
    images = [frame.image for frame in frames_of("front", 30)]
    packets = encode_video(images, "h264", key_every=100)
    frames = [Frame("front", n, n * 33_000_000, images[n], packets[n], "h264") for n in range(1, 30)]
    with Served() as node:
        recording = Recording(node.endpoint, tmp_path / "d.mcap", "lossless")
        node.wait_subscribers(1)
        for frame in frames:
            node.do(lambda publisher, frame=frame: publisher.publish_frame(frame))
        node.publish(*map(make_group, range(4)))
        assert eventually(lambda: recording.reader.counts["before_keyframe"] == len(frames))
        headers = recording.close()
    assert [header.seq for header in headers] == list(range(4))
    assert recording.reader.without_key_frame == {"front": len(frames)}
    assert [missed.count for missed in open_recording(tmp_path / "d.mcap").missed()] == [len(frames)]


@pytest.mark.parametrize(("kept", "first"), [(1 << 20, 0), (1, 3)])
def test_tokens_without_images_are_recorded_though_images_were_asked_for(tmp_path, kept, first):
    """Also those of a node that no longer keeps its epoch, so that no keyframe comes."""
    with Served(max_epoch_bytes=kept) as node:
        node.publish(*map(make_group, range(3)))
        recording = Recording(node.endpoint, tmp_path / "d.mcap", "lossless")
        assert eventually(lambda: recording.reader.subscription.infos)
        number = 3
        while not recording.reader.counts["tokens"] and number < 100:  # taken while the reader is there, without images
            now_ns = time.monotonic_ns()
            node.publish(make_group(number, interval=200, capture_ns=[now_ns + n for n in range(4)]))
            number += 1
            time.sleep(0.05)
        recording.wait(number - first)
        assert [header.seq for header in recording.close()] == list(range(first, number))


def test_of_a_node_that_was_started_again_the_first_keyframe_is_recorded_too(tmp_path, ipc_path):
    with Served(bind=f"ipc://{ipc_path}") as node:
        recording = Recording(node.endpoint, tmp_path / "d.mcap")
        node.publish(make_group(0), make_group(1))
        recording.wait(2)
    with Served(bind=f"ipc://{ipc_path}") as node:
        node.publish(make_group(0), make_group(1))  # nobody is connected yet
        recording.wait(4)
        headers = recording.close()
    assert [(header.seq, header.keyframe) for header in headers] == [(0, True), (1, False)] * 2


def test_a_refused_recorder_says_so_and_records_once_it_is_let_in(tmp_path, caplog):
    generate(tmp_path / "node", "planner")
    generate(tmp_path / "stranger", "client")
    (tmp_path / "stranger" / "server.key").write_bytes((tmp_path / "node" / "server.key").read_bytes())
    keys = CurveClient.load(tmp_path / "stranger")
    with Served(curve=CurveServer.load(tmp_path / "node")) as node, caplog.at_level(logging.WARNING):
        recording = Recording(node.endpoint, tmp_path / "d.mcap", curve=keys)
        assert eventually(lambda: "event=refused" in caplog.text)
        (tmp_path / "stranger" / "client.key").rename(tmp_path / "late.key")
        allow(tmp_path / "late.key", tmp_path / "node")
        node.wait_subscribers(1)
        node.publish(make_group(0))
        recording.wait(1)
        assert len(recording.close()) == 1


def test_a_wrong_endpoint_says_what_is_expected(tmp_path):
    with Recorder(tmp_path / "d.mcap") as recorder, pytest.raises(ValueError, match="expected tcp://HOST:PORT"):
        NetworkRecorder("tcp:/nowhere", recorder)


def first_header(encoding, size, stream="front"):
    """Of the first image of a stream."""
    facts = {"seq": 0, "frame_id": 0, "capture_ns": 1, "publish_ns": 1}
    return FrameHeader(stream=stream, session=SESSION, encoding=encoding, image_size=size, **facts)


def test_a_control_endpoint_that_is_none_does_not_end_the_recording(tmp_path, caplog):
    """With images, of a stream without keyframes but the first, it asks for one. Each failure is told."""
    recorder = Recorder(tmp_path / "d.mcap", RecorderOptions(frames="lossless", min_free_bytes=0))
    with Served("other") as node:  # the real info of a stream it served could come in between
        reader = NetworkRecorder(node.endpoint, recorder)
        for stream in ("front", "rear"):
            reader.subscription.infos[stream] = make_info(stream, session=SESSION, control="nowhere", last_seq=4)
            reader._take_frame(FrameMessage(first_header("rgb8", [2, 2], stream), bytes(12)))
        assert eventually(lambda: reader._keyframes.failed == 2)
        reader.close()
    recorder.close()
    assert recorder.counts["frames"] == 2
    assert caplog.text.count("event=keyframe_failed requests=1") == 2


def odd_frames():
    """Frames that pass the protocol and are no pictures: (encoding, image_size, payload)."""
    return [
        ("nv12", [3, 3], bytes(13)),
        ("yuyv", [2, 3], bytes(12)),
        ("nv12", [1, 5], bytes(7)),
        ("jpeg", [2**31 - 1, 2**31 - 1], b"x"),
        ("rgb8", [1, 2**24], bytes(3 * 2**24)),
    ]


@pytest.mark.parametrize("odd", odd_frames(), ids=lambda odd: f"{odd[0]}-{odd[1]}")
def test_a_frame_that_is_no_picture_does_not_end_the_recording(tmp_path, odd):
    encoding, size, payload = odd
    recorder = Recorder(tmp_path / "d.mcap", RecorderOptions(frames="lossless", min_free_bytes=0))
    with Served() as node:
        reader = NetworkRecorder(node.endpoint, recorder)
        header = first_header(encoding, size)
        reader._take_frame(FrameMessage(header, payload))
        header = msgspec.structs.replace(header, seq=1, frame_id=1, encoding="rgb8", image_size=[2, 2])
        reader._take_frame(FrameMessage(header, bytes(12)))
        reader.close()
    recorder.close()
    assert not recorder.error
    assert recorder.counts["frames"] >= 1
