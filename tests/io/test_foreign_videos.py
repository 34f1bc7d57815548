"""Videos as others write them: turned, mirrored, cut, without times, of every codec and container that FFmpeg has."""

import io
import logging
import os
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from PIL import Image

from streamtok.io.codecs.nal_units import add_orientation
from streamtok.io.images.stills import decode_image_file
from streamtok.io.source import open_source
from streamtok.io.video import VideoReader
from streamtok.io.video.containers import open_container
from streamtok.io.video.frame_images import to_image
from streamtok.io.video.video_packets import VideoDecoder
from streamtok.preprocessing.orientation import DIRECTIONS, orient
from tests.kit.damage import SVT, rewrite
from tests.kit.videos import ORDERED, PLAIN, noisy, number_of, writable_codecs, write_any, write_video

COUNT = 20
TIMES = range(0, COUNT * 512, 512)
ONE = 1 << 16
UPRIGHT = struct.pack(">9i", ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
CANCELLED = bytes.fromhex("000001062f01c080")  # of H.264: no orientation holds from this picture on
CODECS = ["libx265", "mpeg2video", "mpeg4", "ffv1", "qtrle", "msmpeg4", "png", "prores"]
CONTAINERS = ["mkv", "mp4", "mov", "avi", "ts", "nut", "webm", "flv", "gif"]


def turn(path, orientation):
    """Have an MP4 say that it is stored in an orientation."""
    right_x, right_y, down_x, down_y = next(each for each, number in DIRECTIONS.items() if number == orientation)
    data = path.read_bytes()
    at = data.find(UPRIGHT, data.rfind(b"tkhd"))
    assert at > 0
    matrix = [right_x * ONE, right_y * ONE, 0, down_x * ONE, down_y * ONE, 0, 0, 0, 1 << 30]
    path.write_bytes(data[:at] + struct.pack(">9i", *matrix) + data[at + 36 :])
    return path


@pytest.mark.parametrize(
    ("codec", "orientation"), [*(("libx264", n) for n in range(1, 9)), ("libx265", 3), ("libx265", 7)]
)
def test_turned_videos_come_upright_and_so_do_their_packets(tmp_path, codec, orientation):
    options = PLAIN if codec == "libx264" else {"x265-params": "bframes=0:keyint=10:log-level=none:pools=1"}
    path = write_video(tmp_path / "a.mp4", noisy(COUNT), TIMES, codec, **options)
    with VideoReader(path) as video:
        stored = [one.image for one in video]
    with open_source(str(turn(path, orientation)), keep_packets=True) as source:
        frames = list(source)
        assert source.size == frames[0].image.shape[:2]
    assert all(np.array_equal(one.image, orient(image, orientation)) for one, image in zip(frames, stored, strict=True))
    decoder = VideoDecoder({"libx264": "h264", "libx265": "h265"}[codec])  # as recordings and readers have
    replayed = [one for n, frame in enumerate(frames) for one in decoder.decode(frame.packet, n)]
    replayed += decoder.flush()
    assert all(np.array_equal(one.image, frames[one.key].image) for one in replayed)
    assert len(replayed) == COUNT


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "hevc")])
def test_a_picture_is_cut_at_every_side_as_its_stream_says(tmp_path, codec, name):
    options = PLAIN if codec == "libx264" else {"x265-params": "bframes=0:log-level=none:pools=1"}
    whole, cropped = tmp_path / f"a.{name}", tmp_path / f"b.{name}"
    write_video(whole, noisy(COUNT), TIMES, codec, **options)
    with av.open(str(whole)) as container, cropped.open("wb") as file:
        stream = container.streams.video[0]
        crop = av.BitStreamFilterContext(f"{name}_metadata=crop_left=10:crop_right=4:crop_top=6:crop_bottom=2", stream)
        packets = [packet for packet in container.demux(stream) if packet.size]
        file.writelines(bytes(one) for packet in packets for one in crop.filter(packet))
    with VideoReader(whole) as one, VideoReader(cropped) as other:
        assert other.size == (one.size[0] - 8, one.size[1] - 14)
        assert all(np.array_equal(a.image[6:-2, 10:-4], b.image) for a, b in zip(one, other, strict=True))


def test_a_message_that_turns_a_picture_leaves_the_rest_of_its_packet(tmp_path):
    path = write_video(tmp_path / "a.h264", noisy(2), TIMES[:2], **PLAIN)
    with av.open(str(path)) as container:
        data = bytes(next(container.demux(video=0)))
    turned = add_orientation(data, "h264", 6)
    assert len(turned) < len(data) + 16
    decoder = av.CodecContext.create("h264", "r")
    (frame,) = [*decoder.decode(av.Packet(turned)), *decoder.decode(None)]
    assert to_image(frame).shape == (96, 64, 3)


@pytest.mark.parametrize(("encoder", "codec", "head"), [("libx264", "h264", "06"), ("libx265", "hevc", "4e01")])
def test_a_message_that_is_cut_off_ends_no_stream(tmp_path, encoder, codec, head):
    path = write_video(tmp_path / f"a.{codec}", noisy(COUNT), TIMES, encoder, **PLAIN)
    with av.open(str(path)) as container:
        units = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for message in ("", "ff", "ffff01", "ff" * 300, "0601", "2f", "2f03"):
        decoder = VideoDecoder(codec)
        cut = bytes.fromhex(f"000001{head}{message}")
        fed = [one for n, unit in enumerate(units) for one in decoder.decode(cut * (n == 5) + unit, n)]
        assert sorted(one.key for one in [*fed, *decoder.flush()]) == list(range(COUNT))


RAW_STREAMS = [("libx264", "h264", {}), ("libx265", "hevc", {"x265-params": "log-level=none"})]
RAW_STREAMS += [("mpeg1video", "m1v", ORDERED), ("mpeg2video", "m2v", ORDERED), ("mpeg4", "m4v", ORDERED)]


@pytest.mark.parametrize(("codec", "suffix", "options"), RAW_STREAMS)
def test_a_raw_stream_has_the_rate_of_its_headers(tmp_path, codec, suffix, options):
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=50, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for image in noisy(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    for given, fps in (("", 50), ("?fps=20", 20)):
        with open_source(f"{path}{given}") as source:
            found = [(number_of(one.image), one.capture_ns - source.start_ns) for one in source]
            assert source.fps == fps
            assert found == [(n, n * 10**9 // fps) for n in range(COUNT)]


@pytest.mark.parametrize("suffix", ["ts", "mpg", "flv", "avi"])
def test_the_frequency_of_a_clock_is_no_rate(tmp_path, suffix):
    times = [40 * n + n % 7 for n in range(COUNT)]
    path = write_video(tmp_path / f"a.{suffix}", noisy(COUNT), times, time_base=Fraction(1, 1000), rate=1000)
    with VideoReader(path) as video:
        assert video.fps is None or video.fps < 50


def test_a_high_rate_is_that_of_the_pictures(tmp_path):
    path = write_video(tmp_path / "a.mp4", noisy(COUNT), range(COUNT), time_base=Fraction(1, 2000), rate=2000)
    with VideoReader(path) as video:
        assert (video.fps, video.expected_frames) == (2000, COUNT)


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", "avi"), ("libx264", "asf"), ("mpeg2video", "asf"), ("libx264", "mxf")]
)
@pytest.mark.parametrize("uneven", [False, True])
def test_containers_without_times_of_presentation_give_pictures_in_order_and_at_their_times(
    tmp_path, codec, suffix, uneven
):
    path, left_out = tmp_path / f"a.{suffix}", {4, 5, 9} if uneven and suffix == "avi" else ()
    times = [n for n in range(COUNT + len(left_out)) if n not in left_out]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=ORDERED)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for time, image in zip(times, noisy(COUNT), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(path) as video:
        found = [(number_of(one.image), one.seconds) for one in video]
        assert found == [(number, Fraction(time, 25)) for number, time in enumerate(times)]
        assert video.counts == {"damaged": 0}


def test_a_stream_that_ffmpeg_does_not_know_by_its_first_bytes_is_known_by_its_name(tmp_path):
    data = write_video(tmp_path / "a.ts", noisy(COUNT), TIMES, **PLAIN).read_bytes()
    (tmp_path / "b.TS").write_bytes(np.random.default_rng(0).bytes(5000) + data)
    with VideoReader(tmp_path / "b.TS") as video:
        assert [number_of(one.image) for one in video] == list(range(COUNT))
        assert number_of(video.read_frame(7).image) == 7


def test_a_pipe_of_no_video_is_not_opened_again_for_its_name(tmp_path):
    os.mkfifo(tmp_path / "a.ts")
    threading.Thread(target=lambda: (tmp_path / "a.ts").write_bytes(bytes(5000)), daemon=True).start()
    with pytest.raises(ValueError, match="no frame that can be decoded"):
        VideoReader(tmp_path / "a.ts")


def test_a_size_that_changes_is_that_of_each_picture(tmp_path):
    parts = [write_video(tmp_path / f"{h}.h264", noisy(5, h), TIMES[:5], **PLAIN).read_bytes() for h in (64, 80)]
    (tmp_path / "a.h264").write_bytes(b"".join(parts))
    with VideoReader(tmp_path / "a.h264", fps=25) as video:
        assert [one.image.shape[0] for one in video] == [64] * 5 + [80] * 5
        assert video.counts == {"damaged": 0}


def test_text_that_is_not_utf8_does_not_matter(tmp_path):
    path = write_video(tmp_path / "a.mkv", noisy(3), TIMES[:3], **PLAIN)
    data = path.read_bytes().replace(b"Lavf", b"L\xe9\xff\xfe")
    assert data != path.read_bytes()
    path.write_bytes(data)
    with VideoReader(path) as video:
        assert len(list(video)) == 3


def test_a_message_of_h265_that_is_malformed_costs_nothing(tmp_path):
    params = {"x265-params": "bframes=0:keyint=10:log-level=none:pools=1"}
    path = write_video(tmp_path / "a.hevc", noisy(COUNT), TIMES, "libx265", **params)
    data = path.read_bytes()
    at = data.find(b"\x4e\x01\x05")  # x265 tells its options in a message; a longer one is announced here
    assert at > 0
    path.write_bytes(data[: at + 2] + b"\x89\xff\xff\x10" + data[at + 6 :])
    with VideoReader(path) as video:
        assert [number_of(one.image) for one in video] == list(range(COUNT))


def test_what_cannot_be_read_says_why(tmp_path):
    path = write_video(tmp_path / "a.mp4", noisy(5), TIMES[:5], **PLAIN)
    data = path.read_bytes()
    fragments = {"movflags": "empty_moov+frag_keyframe"}
    whole = write_video(tmp_path / "b.mp4", noisy(5), TIMES[:5], container_options=fragments, **PLAIN).read_bytes()
    told = {
        "its index .moov. is missing": data[: data.rfind(b"moov") - 4],
        "codec is not known": data.replace(b"avc1", b"zzzz"),
        "it is empty": b"",
        "its index .moov. is .* cut off": data[: data.rfind(b"moov") + 40],
        "a fragment, whose header is another file": whole[whole.find(b"moof") - 4 :],
    }
    for text, changed in told.items():
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=text):
            open_source(str(path)).open()
    (tmp_path / "a.yuv").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(ValueError, match="raw pixels do not say their size"):
        open_source(str(tmp_path / "a.yuv")).open()
    key = "00112233445566778899aabbccddeeff"
    locks = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    write_video(path, noisy(5), TIMES[:5], container_options=locks, **PLAIN)
    with pytest.raises(ValueError, match="is encrypted"):
        open_source(str(path)).open()


@pytest.mark.parametrize("pixels", ["gray", "gray10le"])
@pytest.mark.parametrize(("limited", "black", "white"), [(True, 16, 235), (False, 0, 255)])
def test_grey_is_as_bright_as_its_stream_says(tmp_path, pixels, limited, black, white):
    """As thermal cameras send it, 4:0:0 of H.265."""
    said = f"range={'limited' if limited else 'full'}:lossless=1:bframes=0:log-level=none:pools=1"
    path, shift = tmp_path / "a.hevc", 2 if pixels == "gray10le" else 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": said})
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        stream.codec_context.color_range = 1 if limited else 2
        values = np.repeat(np.array([[black, white]], np.uint16 if shift else np.uint8), 48, 1).repeat(64, 0) << shift
        frame = av.VideoFrame.from_ndarray(values, format=pixels)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with open_source(str(path)) as source:
        image = source.read().image
    assert np.ptp(image[:, :48]) == np.ptp(image[:, 48:]) == 0
    assert np.abs(image[0, [0, -1], 0] - np.array([0, 255])).max() <= 1


@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_colours_that_ffmpeg_cannot_convert_are_told(tmp_path, matrix):
    path, changed = write_video(tmp_path / "a.mp4", noisy(5), TIMES[:5], **PLAIN), tmp_path / "b.mp4"
    with av.open(str(path)) as container, av.open(str(changed), "w") as target:
        stream = container.streams.video[0]
        copied = target.add_stream_from_template(stream)
        said = BitStreamFilterContext(f"h264_metadata=matrix_coefficients={matrix}", stream, copied)
        for packet in (one for read in container.demux(stream) if read.size for one in said.filter(read)):
            packet.stream = copied
            target.mux(packet)
    with pytest.raises(ValueError, match=rf"b.mp4: FFmpeg cannot convert its colours \(matrix {matrix}\)"):
        open_source(str(changed)).open()


def test_the_stream_that_is_marked_is_read_and_it_is_said(tmp_path, caplog):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25, options=PLAIN) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.height, stream.width, stream.pix_fmt = 64, 96 + 32 * number, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number else av.stream.Disposition(0)
        for number, stream in enumerate(streams):
            for image in noisy(3, 64, 96 + 32 * number):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    with caplog.at_level(logging.WARNING, "streamtok.io"), VideoReader(path) as video:
        assert {one.image.shape for one in video} == {(64, 128, 3)}
        list(video)
    assert caplog.text.count("event=several_streams") == 1
    with VideoReader(path, stream=0) as video:
        assert {one.image.shape for one in video} == {(64, 96, 3)}


def check_any(path):
    """The pictures and times of a video are those that FFmpeg gives; False where it gives none."""
    try:
        container, stream = open_container(str(path))
        with container:
            wanted = [(frame.pts, frame.time_base, to_image(frame)) for frame in container.decode(stream)]
    except (av.FFmpegError, ValueError):
        return False
    with VideoReader(path) as video:
        found = list(video)
    assert len(found) == len(wanted), path
    for number, (one, (pts, base, image)) in enumerate(zip(found, wanted, strict=True)):
        assert np.array_equal(one.image, image), (path, number)
        if path.suffix != ".avi" and pts is not None:  # whose times FFmpeg guesses
            assert one.seconds - found[0].seconds == (pts - wanted[0][0]) * base, (path, number)
    return bool(wanted)


@pytest.mark.parametrize("codec", CODECS)
def test_videos_are_read_as_ffmpeg_decodes_them(tmp_path, codec):
    paths = [tmp_path / f"a.{suffix}" for suffix in CONTAINERS]
    assert sum(write_any(path, codec) and check_any(path) for path in paths)


@pytest.mark.slow
def test_videos_of_every_codec_and_container_are_read_as_ffmpeg_decodes_them(tmp_path):
    read = 0
    for codec in writable_codecs():
        for suffix in CONTAINERS:
            path = tmp_path / f"{codec.name}.{suffix}"
            read += write_any(path, codec.name) and check_any(path)
    assert read > 150


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_motion_jpeg_with_exif_in_its_pictures_is_read_upright(tmp_path, orientation):
    tag = Image.Exif()
    tag[0x010F], tag[0x0112] = "a camera", orientation
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuvj420p"
        for number, image in enumerate(noisy(3)):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "jpeg", exif=tag, quality=92)
            packet = av.Packet(file.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
            container.mux(packet)
    with VideoReader(tmp_path / "a.mkv") as video:
        last = list(video)[-1].image
    wanted = decode_image_file(file.getvalue())[0]
    assert last.shape == wanted.shape
    assert np.abs(last.astype(int) - wanted).mean() < 4  # OpenCV's and FFmpeg's JPEG differ a little


def check_turned(path, units, count):
    """Pictures of a raw file: the first `count` are turned, the others are not."""
    path.write_bytes(b"".join(units))
    with VideoReader(path) as video:
        assert [len(one.image) for one in video] == [96] * count + [64] * (len(units) - count)


def test_an_orientation_of_h264_holds_as_long_as_it_says(tmp_path):
    path = write_video(tmp_path / "a.h264", noisy(COUNT), TIMES, **{**PLAIN, "g": "30"})
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        turning = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", stream)
        packets = [packet for packet in file.demux(stream) if packet.size]
        plain = [bytes(packet) for packet in packets]
        once = [bytes(turned) for packet in packets for turned in turning.filter(packet)]
    assert once[1:] == plain[1:]
    check_turned(path, once, COUNT)
    check_turned(path, once + plain, COUNT)  # a new sequence says it anew, or is upright
    check_turned(path, [*once, add_orientation(plain[0], "h264", 1), *plain[1:]], COUNT)
    check_turned(path, [*once[:12], add_orientation(plain[12], "h264", 1), *plain[13:]], 12)
    check_turned(path, [*once[:12], CANCELLED + plain[12], *plain[13:]], 12)
    each = [add_orientation(unit, "h264", 6) for unit in plain[:7]]  # as packets of this package: for one picture
    check_turned(path, each + plain[7:], 7)
    check_turned(path, [once[0], *each[1:], *plain[7:]], 7)


def test_an_orientation_of_h265_holds_until_it_says_another(tmp_path):
    path = write_video(tmp_path / "a.hevc", noisy(COUNT), TIMES, "libx265", **PLAIN)
    data = path.read_bytes()
    path.write_bytes(add_orientation(data, "hevc", 6) + add_orientation(data, "hevc", 1))
    with VideoReader(path) as video:
        assert [len(one.image) for one in video] == [96] * COUNT + [64] * COUNT


def test_the_exif_of_a_picture_of_motion_jpeg_concerns_it_alone(tmp_path):
    turned, plain = Image.Exif(), Image.Exif()
    turned[0x0112] = 6
    files = [io.BytesIO() for _ in range(6)]
    for file, tag in zip(files, [turned] * 3 + [plain] * 3, strict=True):
        Image.fromarray(noisy(1)[0]).save(file, "jpeg", exif=tag)
    check_turned(tmp_path / "a.mjpeg", [file.getvalue() for file in files], 3)


def test_a_stream_that_begins_inside_a_file_is_told(tmp_path, caplog):
    path = write_video(tmp_path / "a.ts", noisy(200), range(0, 200 * 512, 512), b="8M", **PLAIN)
    options = {"mpegts_service_id": "7", "mpegts_start_pid": "300", "mpegts_pmt_start_pid": "4352"}
    other = write_video(tmp_path / "b.ts", noisy(COUNT), TIMES, container_options=options, **PLAIN)
    path.write_bytes(path.read_bytes() + other.read_bytes())
    with VideoReader(path) as video:
        assert len(list(video)) == 200
    assert f"file={path} event=another_stream" in caplog.text


def name_no_matrix(data):
    """AV1 of which the sequence header names BT.709 for primaries, transfer and matrix; with RGB (0) for the matrix."""
    bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
    assert bits[:400].count("1" + 3 * "00000001") <= 1
    changed = bits[:400].replace("1" + 3 * "00000001", "1" + 2 * "00000001" + "00000000") + bits[400:]
    return int(changed, 2).to_bytes(len(data), "big")


def test_av1_that_names_a_colour_matrix_which_its_pixels_cannot_have_is_read(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "streamtok.io")
    names = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"}
    whole = write_video(tmp_path / "whole.mkv", noisy(20), codec="libsvtav1", **SVT, **names)
    wrong = rewrite(whole, tmp_path / "a.ivf", lambda packets: [(name_no_matrix(data), pts) for data, pts in packets])
    with av.open(str(wrong)) as container:
        assert container.streams.video[0].codec_context.colorspace == 0
    with VideoReader(wrong) as video:
        assert [(frame.number, number_of(frame.image)) for frame in video] == [(n, n) for n in range(20)]
        assert video.counts["damaged"] == 0
    told = [record.getMessage() for record in caplog.records if record.name == "streamtok.io"]
    assert [text.split()[1] for text in told] == ["event=not_checked"]


def test_damage_shows_in_av1_whose_container_has_a_sequence_header_that_nothing_reads(tmp_path):
    images = np.random.default_rng(0).integers(80, 165, (20, 128, 128, 3), np.uint8)
    path = write_video(tmp_path / "a.mp4", images, codec="libsvtav1", **SVT)
    with VideoReader(path) as video:
        right = {frame.number: frame.image for frame in video}
    with av.open(str(path)) as container:
        header = container.streams.video[0].codec_context.extradata
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size > 1000]
    data = bytearray(path.read_bytes())
    data[data.find(header) + 5] ^= 1 << 4  # the length of the header
    for at, size in places:
        middle = at + size // 2
        path.write_bytes(data[:middle] + np.random.default_rng(at).bytes(20) + data[middle + 20 :])
        with VideoReader(path) as video:
            assert all(np.array_equal(frame.image, right[frame.number]) for frame in video)
            assert video.counts["damaged"] > 0
