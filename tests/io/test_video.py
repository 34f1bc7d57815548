"""Video files: exact times and pictures, damage left out and counted, packets kept."""

import os
import struct
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamtok.drives.clips import why_clips
from streamtok.io.source import open_source
from streamtok.io.video import VideoReader
from streamtok.io.video.containers import open_container
from streamtok.io.video.source import VideoSource
from streamtok.io.video.video_packets import VideoDecoder
from tests.kit.damage import write_pictures
from tests.kit.mp4 import join_mp4
from tests.kit.videos import ORDERED, PLAIN, TICKS, noisy, number_of, numbered, write_video
from tests.kit.web import Server, part_of


@pytest.mark.parametrize("options", [ORDERED, PLAIN], ids=["b-frames", "plain"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("usual", [600, 60_000], ids=["20 per second", "one in 5 s"])
def test_uneven_times_are_exact_and_pictures_in_order(tmp_path, options, suffix, usual):
    ticks = np.cumsum(np.random.default_rng(1).integers(usual // 2, usual * 3 // 2, 30)).tolist()
    path = write_video(tmp_path / f"drive.{suffix}", numbered(30), ticks, **options)
    with open_source(str(path)) as source:
        frames = list(source)
        assert source.size == (64, 96)
    assert [frame.frame_id for frame in frames] == list(range(30))
    assert [number_of(frame.image) for frame in frames] == list(range(30))
    want = [float((tick - ticks[0]) * TICKS) for tick in ticks]
    got = [(frame.capture_ns - source.start_ns) / 1e9 for frame in frames]
    tolerance = 0.001 if suffix == "mkv" else 1e-8  # mkv keeps whole milliseconds
    assert np.abs(np.array(got) - want).max() <= tolerance


def test_pictures_before_the_first_time_of_a_container_come_before_it(tmp_path):
    ticks = range(-4 * 512, 16 * 512, 512)  # Matroska gives none for those before 0
    path = write_video(tmp_path / "a.mkv", noisy(20), ticks, "libx264", {"avoid_negative_ts": "disabled"}, **PLAIN)
    with open_source(str(path)) as source:
        frames = list(source)
    assert [(frame.frame_id, number_of(frame.image)) for frame in frames] == [(n, n) for n in range(20)]
    assert np.abs([(frame.capture_ns - source.start_ns) / 4e7 - n for n, frame in enumerate(frames)]).max() < 0.1


def test_opening_again_gives_the_same_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(12), range(0, 12 * 512, 512), **ORDERED)
    source = open_source(str(path), max_frames=9)
    runs = []
    for _ in range(2):
        with source:
            runs.append([(f.frame_id, f.capture_ns - source.start_ns, f.image.tobytes()) for f in source])
        source = open_source(str(path), max_frames=9)
    assert runs[0] == runs[1]
    assert len(runs[0]) == 9


def test_a_truncated_file_gives_what_is_there(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(40), range(0, 40 * 512, 512), **PLAIN)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with open_source(str(path)) as source:
        ids = [frame.frame_id for frame in source]
    assert 5 < len(ids) < 40
    assert ids == list(range(len(ids)))


@pytest.fixture
def index_first(tmp_path):
    """A video of 40 pictures whose index comes first, as dashcams and downloads have it, and what lies where."""
    ticks, layout = range(0, 40 * 512, 512), {"movflags": "faststart"}
    path = write_video(tmp_path / "a.mp4", numbered(40), ticks, container_options=layout, **PLAIN)
    with av.open(str(path)) as container:
        return path, [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("keep_packets", [False, True])
def test_an_mp4_that_is_cut_off_counts_every_picture_that_is_not_there(index_first, keep_packets):
    path, packets = index_first
    at, size = packets[23]
    path.write_bytes(path.read_bytes()[: at + size // 2])
    with VideoReader(path, keep_packets=keep_packets) as video:
        assert [number_of(picture.image) for picture in video] == list(range(23))
        assert video.counts == {"damaged": 17}
    path.write_bytes(path.read_bytes()[: packets[0][0]])
    with VideoReader(path, keep_packets=keep_packets) as video:
        assert list(video) == []
        assert video.counts == {"damaged": 40}


FOOTER = bytes.fromhex("060e2b34020501010d01020101040400")  # the last partition of MXF


@pytest.mark.parametrize(("name", "index", "kept"), [("a.mp4", b"moof", 30), ("a.mxf", FOOTER, 40)])
def test_a_file_that_is_cut_off_inside_an_index_gives_what_comes_before(tmp_path, name, index, kept):
    """As recorders leave it that write in fragments, or that were writing the footer."""
    codec, layout = ("mpeg2video", {}) if index == FOOTER else ("libx264", {"movflags": "frag_keyframe+empty_moov"})
    path = write_video(tmp_path / name, numbered(40), None, codec, layout, g="10", sc_threshold="0")
    data = path.read_bytes()
    for more in (1, 70, 160):
        path.write_bytes(data[: data.rfind(index) + more])
        with VideoReader(path) as video:
            assert [number_of(picture.image) for picture in video] == list(range(kept))
            assert number_of(video.read_frame(7).image) == 7


@pytest.mark.parametrize("size", [8, 400])
def test_zeros_over_the_head_of_a_fragment_are_told_with_what_is_not_read_behind_them(tmp_path, size, caplog):
    layout = {"movflags": "frag_keyframe+empty_moov"}
    path = write_video(tmp_path / "a.mp4", numbered(40), None, "libx264", layout, g="10", sc_threshold="0")
    data = path.read_bytes()
    hole = data.find(b"moof", data.find(b"moof") + 4) - 4
    path.write_bytes(data[:hole] + bytes(size) + data[hole + size :])
    with VideoReader(path) as video:
        assert [number_of(picture.image) for picture in video] == list(range(10))
        assert video.counts["damaged"] > 0
    assert f"zeros overwrite what is at byte {hole}" in caplog.text
    path.write_bytes(data + bytes(size))  # as some cameras fill up their files
    with VideoReader(path) as video:
        assert len(list(video)) == 40
        assert video.counts["damaged"] == 0


def test_zeros_in_the_head_of_a_fragment_are_told_and_counted(tmp_path, caplog):
    layout = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = write_video(tmp_path / "a.mp4", numbered(40), None, "libx264", layout, g="10", sc_threshold="0")
    data = bytearray(path.read_bytes())
    hole = data.find(b"moof", data.find(b"moof") + 4) - 4
    data[hole + 8 : hole + int.from_bytes(data[hole : hole + 4], "big")] = bytes(data[hole + 3] - 8)
    path.write_bytes(data)
    with VideoReader(path) as video:
        assert [number_of(picture.image) for picture in video] == [n for n in range(40) if not 10 <= n < 20]
        assert video.counts["damaged"] > 0
    assert f"zeros overwrite what is at byte {hole}" in caplog.text


def test_zeros_at_the_end_before_what_is_no_fragment_are_no_hole(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(40))
    path.write_bytes(path.read_bytes() + bytes(500) + b"a moof of old")
    with VideoReader(path) as video:
        assert len(list(video)) == 40
        assert video.counts["damaged"] == 0


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "frag_keyframe"])
def test_the_first_fragment_does_not_tell_how_long_a_file_is(tmp_path, flags):
    path = write_video(tmp_path / "a.mp4", numbered(40), None, "libx264", {"movflags": flags}, g="10", sc_threshold="0")
    cut = path.with_name("cut.mp4")
    cut.write_bytes(path.read_bytes()[: path.read_bytes().rfind(b"moof") + 40])
    with VideoReader(cut) as video:
        assert video.expected_frames == 0
    assert why_clips([str(path), str(cut)]) == ""


@pytest.mark.parametrize("on_web", [False, True])
def test_to_refuse_a_file_without_an_index_it_is_not_read_again(tmp_path, on_web):
    size = 64 << 20
    head = struct.pack(">I", 28) + b"ftypisom" + struct.pack(">I", 512) + b"isomiso2mp41"
    head += b"\0" * (28 - len(head)) + struct.pack(">I4sQ", 1, b"mdat", size)
    path = tmp_path / "a.mp4"
    path.write_bytes(head)
    os.truncate(path, size)
    sent = Counter()

    def answer(_, headers):
        status, told, body = part_of(path.read_bytes(), headers)
        parts = (body[at : at + 65536] for at in range(0, len(body), 65536))
        return status, told, (part for part in parts if not sent.update(bytes=len(part)))

    def read_bytes():
        return int(Path("/proc/self/io").read_text().split()[1])

    with Server(answer) as web:
        before = read_bytes()
        with pytest.raises((ValueError, OSError), match=r"index \(moov\)|no video"):
            open_container(f"{web.base}/a.mp4" if on_web else str(path))
        if on_web:  # FFmpeg reads on to the end, rather than ask for it
            assert sent["bytes"] < 1.5 * size
        else:
            assert read_bytes() - before < size // 4


@pytest.mark.parametrize("keep_packets", [False, True])
def test_a_packet_that_is_no_access_unit_costs_the_pictures_up_to_the_next_key_frame(index_first, keep_packets):
    path, packets = index_first
    data = bytearray(path.read_bytes())
    data[packets[14][0] : packets[14][0] + 4] = b"\x7f\xff\xff\xff"  # a length that goes beyond the packet
    path.write_bytes(data)
    with VideoReader(path, keep_packets=keep_packets) as video:
        pictures = list(video)
    assert [picture.number for picture in pictures] == [*range(14), *range(20, 40)]
    assert [number_of(picture.image) for picture in pictures] == [*range(14), *range(20, 40)]
    assert [picture.packet is not None for picture in pictures] == [keep_packets] * 34
    assert video.counts == {"damaged": 6}


def test_a_stream_that_starts_between_key_frames_starts_at_one(tmp_path):
    path = write_video(tmp_path / "a.h264", numbered(40), range(0, 40 * 512, 512), **PLAIN)
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    path.write_bytes(b"".join(packets[:1] + packets[3:]))
    with VideoReader(path) as video:
        numbers = [number_of(picture.image) for picture in video]
    assert numbers[0] == 0
    assert set(range(10, 40)) <= set(numbers)
    path.write_bytes(b"".join(packets[5:]))
    with VideoReader(path) as video:
        assert next(number_of(picture.image) for picture in video) in (10, 20)


def test_a_raw_stream_has_the_rate_that_is_asked_for(tmp_path):
    path = write_video(
        tmp_path / "dashcam.hevc",
        numbered(10),
        range(0, 10 * 512, 512),
        "libx265",
        **{"x265-params": "bframes=0:log-level=none:pools=1"},
    )
    with open_source(f"{path}?fps=20") as source:
        frames = list(source)
    assert [frame.capture_ns - source.start_ns for frame in frames] == [n * 50_000_000 for n in range(10)]
    assert [number_of(frame.image) for frame in frames] == list(range(10))


def test_kept_packets_decode_to_the_same_pictures(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(25), range(0, 25 * 512, 512), **PLAIN)
    with open_source(str(path), keep_packets=True) as source:
        frames = list(source)
    assert {frame.codec for frame in frames} == {"h264"}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    images = [p.to_ndarray(format="rgb24") for f in frames for p in decoder.decode(av.Packet(f.packet))]
    images += [p.to_ndarray(format="rgb24") for p in decoder.decode(None)]
    assert np.array_equal(images, [frame.image for frame in frames])


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "h265")])
def test_an_mp4_whose_camera_changed_its_size_is_read_and_kept(tmp_path, codec, name):
    """Its parts have descriptions of their own, and their packets need them."""
    options = PLAIN if codec == "libx264" else {"x265-params": "keyint=10:bframes=0:log-level=none"}
    clips = noisy(20), noisy(20, 128, 160)
    parts = [write_pictures(tmp_path / f"{n}.mp4", clip, codec, options) for n, clip in enumerate(clips)]
    right = [frame.to_ndarray(format="rgb24") for part in parts for frame in av.open(str(part)).decode(video=0)]
    with VideoReader(join_mp4(parts, tmp_path / "a.mp4"), keep_packets=True) as video:
        found = list(video)
        assert video.counts == {"damaged": 0}
    assert [one.image.shape for one in found] == [(64, 96, 3)] * 20 + [(128, 160, 3)] * 20
    assert all(np.array_equal(one.image, image) for one, image in zip(found, right, strict=True))
    decoder = VideoDecoder(name)
    decoded = [each for one in found for each in decoder.decode(one.packet, one.number)] + list(decoder.flush())
    assert [each.key for each in decoded if each.image is not None] == list(range(40))
    assert all(np.array_equal(each.image, right[each.key]) for each in decoded)


def test_packets_out_of_order_are_not_kept(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(12), range(0, 12 * 512, 512), **ORDERED)
    with open_source(str(path), keep_packets=True) as source:
        assert all(frame.packet is None for frame in source)


def test_real_time_waits_for_each_frame_and_close_ends_the_wait(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(3), [0, 640, 640 * 2000], **PLAIN)
    with open_source(str(path), realtime=True) as source:
        assert source.read().frame_id == 0
        assert source.read().frame_id == 1
        assert source.read(timeout=0.01) is None
        assert source.state == "up"
    assert source.state == "ended"


def test_what_is_no_video_says_so(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 50)
    with pytest.raises(ValueError, match="cannot be read as a video"):
        open_source(str(tmp_path / "a.mp4")).open()
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_source(str(tmp_path / "b.mp4"))
    with pytest.raises(FileNotFoundError, match="'foo' is no kind of source"):
        open_source("foo:bar")
    with pytest.raises(ValueError, match="images:"):
        open_source(str(tmp_path))
    (tmp_path / "a.mcap").write_bytes(b"x")
    with pytest.raises(ValueError, match="streamtok replay"):
        open_source(str(tmp_path / "a.mcap"))
    with pytest.raises(ValueError, match="1 to 64"):
        open_source("synthetic:", "front left")


def test_a_picture_alone_is_a_video_of_one_frame(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), numbered(1)[0])
    with open_source(str(tmp_path / "a.png")) as source:
        assert [number_of(frame.image) for frame in source] == [0]


@pytest.mark.parametrize("fps", [None, 10])
@pytest.mark.parametrize(
    ("form", "codec"),
    [("mp4", "libx264"), ("avi", "libx264"), ("mxf", "libx264"), ("h264", "libx264"), ("avi", "mpeg4")],
)
@pytest.mark.parametrize("options", [{"bf": "2", "g": "10"}, {"bf": "0", "g": "10"}], ids=["ordered", "plain"])
def test_what_is_passed_over_up_to_a_key_frame_keeps_its_numbers_and_is_no_damage(tmp_path, options, form, codec, fps):
    images, tick, rate = numbered(40), Fraction(1, 25), fps or 25
    path = write_video(tmp_path / f"a.{form}", images, range(40), codec, time_base=tick, **options)
    with VideoReader(path, fps=fps) as video:
        pictures = iter(video)
        seen = [next(pictures) for _ in range(3)]
        video.pass_over(Fraction(15, rate))
        seen += list(pictures)
        numbers = [frame.number for frame in seen]
        assert [number_of(frame.image) for frame in seen] == numbers
        assert [frame.seconds * rate for frame in seen] == numbers
        assert (numbers[:3], numbers[-10:]) == ([0, 1, 2], list(range(30, 40)))
        assert 10 not in numbers
        assert video.counts["damaged"] == 0


class SlowVideo(VideoSource):
    """A video of 25 pictures per second on a machine that decodes 20."""

    def _next(self):
        time.sleep(0.05)
        return super()._next()


def test_a_video_in_real_time_that_decodes_too_slowly_goes_on_at_a_key_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(40), range(0, 40 * 512, 512), **PLAIN)
    with SlowVideo(path, realtime=True) as source:
        assert source.read().frame_id == 0
        source.start_ns -= 10**9  # the 25th is due now
        source.skip_to(time.monotonic_ns())
        assert source.read().frame_id == 30
        assert source.counts["damaged"] == 0
