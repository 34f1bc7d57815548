"""Whatever damage does to a video: no wrong picture is delivered, none before the damage is lost, counters add up."""

import contextlib
import io
import itertools
import os
from fractions import Fraction
from functools import partial

import av
import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from streamtok.io.codecs.mpeg_headers import PICTURE
from streamtok.io.video import VideoReader
from streamtok.io.video.transport_stream import find_losses
from tests.kit.damage import (
    BLOCK,
    COUNT,
    ESCAPED,
    KINDS,
    PID,
    X264,
    X265,
    Videos,
    blank,
    change_one,
    cut,
    cut_one,
    flip,
    flip_one,
    pictures_before,
    pictures_begin,
    rewrite,
    split_blocks,
    write_kind,
    write_pictures,
)
from tests.kit.fields import write_field_pictures
from tests.kit.threads import beside
from tests.kit.videos import noisy, number_of, write_video

PACKETS = [name for name in KINDS if not name.endswith(".ts")]
STREAMS = [name for name in KINDS if name.endswith(".ts")]
SIZES = {188: (0, 0), 192: (4, 0), 204: (0, 16)}  # of packets: bytes before and behind what all have (M2TS, DVB)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{name: (path, {number: picture})} of a whole video of every kind, as FFmpeg decodes it."""
    folder, found = tmp_path_factory.mktemp("whole"), Videos()
    for name in KINDS:
        path = write_kind(folder, name)
        with av.open(str(path)) as container:
            images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        found[name] = path, dict(enumerate(images))
        assert len(images) == COUNT
    return found


def read(path):
    """The pictures of a video by what their pixels say, each with its time, and what was left out."""
    with VideoReader(path) as video:
        found = list(video)
        return {number_of(one.image): one for one in found}, len(found), sum(video.counts.values())


def decode_plainly(path):
    """The numbers of the pictures that FFmpeg alone gives, right or wrong, on one thread."""
    found = set()
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for packet in container.demux(video=0):
            with contextlib.suppress(av.FFmpegError):
                found.update(number_of(frame.to_ndarray(format="rgb24")) for frame in packet.decode())
    return found


def check(path, right, before):
    """Every picture that is delivered is that of the whole video, all of `before` are, and their times rise."""
    found, delivered, left_out = read(path)
    assert len(found) == delivered
    for number, one in found.items():
        assert (one.image == right[number]).all(), f"picture {number} is wrong"
    assert set(before) <= set(found)
    seconds = [one.seconds for one in found.values()]
    assert seconds == sorted(set(seconds))
    return found, delivered + left_out


def damage_packets(whole, name, kind, places, share, target):
    """A video with damaged packets is read as it must be."""
    path, right = whole[name]
    hit = sorted(places)

    def change(packets):
        if kind == "drop":
            return [packet for n, packet in enumerate(packets) if n not in hit]
        if kind == "twice":
            return [packet for n, packet in enumerate(packets) for _ in range(1 + (n in hit))]
        if kind == "swap":
            for n in hit:
                packets[n : n + 2] = packets[n : n + 2][::-1]
            return packets
        alter = {"cut": cut, "flip": flip, "blank": blank}[kind]
        return [(alter(data, share) if n in hit else data, pts) for n, (data, pts) in enumerate(packets)]

    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    order = [sorted(times).index(time) for time in times]
    early = {number for number in order[: hit[0]] if all(number < later for later in order[hit[0] :])}
    damaged = rewrite(path, target, change, later=5)
    if kind == "cut" and name == "mpeg2.mkv" and hit[0] - 1 not in decode_plainly(damaged):
        early.discard(hit[0] - 1)  # FFmpeg may lose the picture before one that it refuses
    found, total = check(damaged, right, early)
    with av.open(str(target)) as container:  # an MP4 that begins late shows less, as its edit list says
        total += sum(packet.is_discard for packet in container.demux(video=0) if packet.size)
    if kind in ("cut", "flip", "blank"):
        assert total == COUNT
    assert total >= COUNT - (len(hit) if kind in ("drop", "twice") else 0) - (kind == "swap") * COUNT
    return found


def damage_blocks(whole, name, kind, place, count, size, target):
    """A transport stream with damaged packets is read as it must be."""
    path, right = whole[name]
    blocks, mine = split_blocks(path)
    at = mine[1 + int(place * (len(mine) - 2))]
    lost = [n for n in mine if n >= at][:count]
    if kind == "drop":
        blocks = [block for n, block in enumerate(blocks) if n not in lost]
    elif kind == "twice":
        blocks.insert(at, blocks[at])
    elif kind == "blank":
        blank_blocks = range(at, min(at + 2 * count, len(blocks)))
        blocks[at : blank_blocks.stop] = [blocks[at][:9].ljust(BLOCK, b"\0"), *[bytes(BLOCK)] * (len(blank_blocks) - 1)]
    elif kind == "swap":
        blocks[lost[0]], blocks[lost[-1]] = blocks[lost[-1]], blocks[lost[0]]
    elif kind == "cut":
        blocks = [*blocks[:at], blocks[at][: count * 9]]
    elif kind == "gap":
        blocks[at] = blocks[at][:20] + blocks[at][20 + count * 9 :]
    else:
        blocks[at] = flip(blocks[at], (count - 1) / 200)
    before, after = SIZES[size]
    target.write_bytes(b"".join(bytes(before) + block + bytes(after) for block in blocks))
    order = pictures_before(path, at)
    shown = [number for number in order if all(number < other for other in set(range(COUNT)) - set(order))]
    found, total = check(target, right, shown[:-1])  # the last may have what was lost behind it in its own packet
    assert total <= COUNT + 1
    return found


OF_PACKETS = {
    "name": st.sampled_from(PACKETS),
    "kind": st.sampled_from(["drop", "twice", "cut", "swap", "flip", "blank"]),
    "places": st.sets(st.integers(0, COUNT - 3), min_size=1, max_size=3),
    "share": st.floats(0.02, 0.98),
}
OF_BLOCKS = {
    "name": st.sampled_from(STREAMS),
    "kind": st.sampled_from(["drop", "twice", "cut", "gap", "blank", "swap", "flip"]),
    "place": st.floats(0, 1),
    "count": st.integers(1, 15),  # packets count to 16: so many may be lost, or change places, unnoticed
    "size": st.sampled_from(sorted(SIZES)),
}


def try_packets(whole, tmp_path, name, kind, places, share):
    if kind == "flip" and not name.startswith("sums"):
        kind = "cut"  # a changed bit that a decoder accepts shows in a stream with checksums alone
    if kind == "blank" and (name not in ESCAPED or (0 in places and share > 0.7)):
        kind = "cut"  # zeros may be good; a few behind the first slice may be the way of its stream
    if kind in ("swap", "twice") and name.startswith("mjpeg"):
        kind = "drop"  # nothing says which of two whole pictures was first, or that they are one
    forgets = name == "mpeg2.mkv" and any(place % 10 == 1 for place in places)
    if kind == "cut" and (forgets or name in ("mpeg1.mp4", "mpeg2-ordered.mkv")):
        kind = "drop"  # FFmpeg loses the picture before one that it refuses
    if kind == "cut" and name.startswith("av1"):
        kind = "drop"  # FFmpeg writes no packets of AV1 that it cannot read
    damage_packets(whole, name, kind, places, share, tmp_path / f"damaged-{name}")


def try_blocks(whole, tmp_path, name, kind, place, count, size):
    if kind == "flip" and not name.startswith("sums"):
        kind = "drop"
    if kind == "blank" and place < 0.3:
        kind = "gap"  # FFmpeg finds no transport stream in zeros
    damage_blocks(whole, name, kind, place, count, size, tmp_path / f"damaged-{name}")


@settings(max_examples=40)
@given(**OF_PACKETS)
@example(name="late.mkv", kind="swap", places={7}, share=0.5)  # before a key frame that resets no decoder
@example(name="h265.mkv", kind="blank", places={4}, share=0.9375)  # its last two bytes
@example(name="mpeg2.mkv", kind="twice", places={11}, share=0.5)
@example(name="mpeg1.mp4", kind="drop", places={1, 11}, share=0.5)  # of which others do not count on
@example(name="mpeg1.mp4", kind="drop", places={34, 35, 36}, share=0.5)  # all before the last reference picture
@example(name="av1.mkv", kind="drop", places={1, 11}, share=0.5)  # pictures that others are shown instead of
@example(name="leading.mkv", kind="drop", places={17, 18}, share=0.5)  # a key frame, and not the pictures that need it
def test_damaged_packets_cost_what_they_touched_and_no_more(whole, tmp_path, name, kind, places, share):
    try_packets(whole, tmp_path, name, kind, places, share)


@settings(max_examples=40)
@given(**OF_BLOCKS)
@example(name="plain.ts", kind="twice", place=0.56, count=1, size=188)
@example(name="h265.ts", kind="blank", place=0.95, count=9, size=188)
@example(name="h265.ts", kind="drop", place=0.5, count=1, size=192)
@example(name="h265.ts", kind="drop", place=0.5, count=1, size=204)
def test_damaged_transport_streams_lose_what_was_touched_and_no_more(whole, tmp_path, name, kind, place, count, size):
    try_blocks(whole, tmp_path, name, kind, place, count, size)


@pytest.mark.slow
@settings(max_examples=2000, derandomize=False)
@given(**OF_PACKETS)
def test_damaged_packets_at_length(whole, tmp_path, name, kind, places, share):
    try_packets(whole, tmp_path, name, kind, places, share)


@pytest.mark.slow
@settings(max_examples=2000, derandomize=False)
@given(**OF_BLOCKS)
def test_damaged_transport_streams_at_length(whole, tmp_path, name, kind, place, count, size):
    try_blocks(whole, tmp_path, name, kind, place, count, size)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_program_stream_that_is_cut_off_gives_what_came_before_and_counts_the_rest(tmp_path, codec):
    options = {"x265-params": X265} if codec == "libx265" else X264 | {"bf": "2"}
    path = write_pictures(tmp_path / "a.mpg", noisy(COUNT), codec, options)  # one time for several pictures
    data = path.read_bytes()
    with VideoReader(path) as video:
        right = {number_of(one.image): one.image for one in video}
    assert len(right) == COUNT
    for end in range(len(data) // 3, len(data), 997):
        path.write_bytes(data[:end])
        with VideoReader(path) as video, av.open(str(path)) as container:
            found = list(video)
            there = sum(packet.size > 0 for packet in container.demux(video=0))
            assert there - 1 <= len(found) + video.counts["damaged"] <= there  # what is cut off may be no picture
        assert len(found) >= there - 12  # those of the last pack
        sure = found if codec == "libx264" else found[:-1]  # nothing says that H.265 with start codes is cut off
        assert all(np.array_equal(one.image, right[number_of(one.image)]) for one in sure)


@pytest.mark.parametrize("suffix", ["mpg", "hevc"])
def test_pictures_before_the_damage_keep_their_numbers(tmp_path, suffix):
    path = write_pictures(tmp_path / f"a.{suffix}", noisy(COUNT), "libx265", {"x265-params": f"{X265}:bframes=3"})
    data = path.read_bytes()
    for at in range(len(data) // 3, len(data) - 2000, len(data) // 12):
        path.write_bytes(data[:at] + bytes(400) + data[at + 400 :])
        with VideoReader(path) as video:
            found = [(number_of(one.image), one.number) for one in video]
        before = [one for n, one in enumerate(found) if one[0] == n]
        assert before == [(n, n) for n in range(len(before))], at


@pytest.mark.parametrize("name", ["mpeg2.mkv", "mpeg1.mp4", "mpeg2-ordered.mkv"])
def test_a_picture_of_mpeg_2_that_is_missing_shows(whole, tmp_path, name):
    for place in range(COUNT - 2):
        damage_packets(whole, name, "drop", {place}, 1.0, tmp_path / name)


@pytest.mark.parametrize("name", ["av1.mkv", "av1.mp4"])
def test_a_changed_bit_in_av1_shows_at_the_end_of_its_tile(whole, tmp_path, name):
    path, right = whole[name]
    right = {image.tobytes() for image in right.values()}
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(video=0) if packet.size]
    hits = [n for n, size in enumerate(sizes) if size > 64]  # those that only show a picture are smaller
    unseen = 0
    for hit in hits:
        with VideoReader(rewrite(path, tmp_path / name, partial(flip_one, hit=hit, share=0.6))) as video:
            unseen += any(one.image.tobytes() not in right for one in video)
    assert unseen <= len(hits) / 10  # few ends are the right ones by chance


def cut_field(data, kept):
    """A picture of two fields with the first or the second alone."""
    first, second = data.find(PICTURE), data.rfind(PICTURE)
    return data[:second] if kept == "first" else data[:first] + data[second:]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_field_pictures_of_mpeg_2_are_read_and_one_that_is_missing_shows(tmp_path, suffix):
    path = write_field_pictures(tmp_path / f"a.{suffix}", noisy(COUNT), group=8)
    with VideoReader(path) as video:
        right = [one.image for one in video]
        assert video.counts == {"damaged": 0}
    assert [number_of(image) for image in right] == [n // 8 * 8 for n in range(COUNT)]
    damaged = tmp_path / f"b.{suffix}"
    for hit in (8, 11, 16):
        for change in (partial(cut_field, kept="first"), partial(cut_field, kept="second"), partial(cut, share=0.6)):
            rewrite(path, damaged, partial(change_one, hit=hit, change=change), later=0)
            with VideoReader(damaged) as video:
                found = list(video)
                assert len(found) + video.counts["damaged"] == COUNT
            assert [one.number for one in found][:hit] == list(range(hit))
            assert all(np.array_equal(one.image, right[one.number]) for one in found)


def test_field_pictures_of_a_transport_stream_cost_what_lost_packets_touched(tmp_path):
    path = write_field_pictures(tmp_path / "a.ts", noisy(COUNT), group=8)
    with VideoReader(path) as video:
        right = [one.image for one in video]
    assert len(right) == COUNT
    blocks, mine = split_blocks(path)
    for place in mine[10::7]:
        (tmp_path / "b.ts").write_bytes(b"".join(blocks[:place] + blocks[place + 1 :]))
        with VideoReader(tmp_path / "b.ts") as video:
            found = {round(one.seconds * 25): one.image for one in video}
        before = pictures_before(path, place)[:-1]
        assert set(before) <= set(found)
        assert all(np.array_equal(image, right[number]) for number, image in found.items())


def test_a_packet_of_which_nothing_is_left_is_accounted_for(whole, tmp_path):
    for share in (0.125, 0.02):
        damage_packets(whole, "h265.mkv", "cut", {0, 12}, share, tmp_path / "a.mkv")


def test_a_key_frame_behind_a_packet_that_is_cut_off_is_right(tmp_path):
    """FFmpeg's decoder of H.264 keeps what it read of the block in which it stopped."""
    path = write_pictures(tmp_path / "a.avi", noisy(COUNT), "libx264", {**X264, "bf": "0", "coder": "0"})
    with VideoReader(path) as video:
        right = [one.image for one in video]
    for share in np.linspace(0.05, 0.5, 12):
        rewrite(path, tmp_path / "b.avi", partial(cut_one, hit=9, share=share))
        with VideoReader(tmp_path / "b.avi") as video:
            found = list(video)
        assert [number_of(one.image) for one in found] == [n for n in range(COUNT) if n != 9]
        assert all(np.array_equal(one.image, right[number_of(one.image)]) for one in found), share


def fill_slices(data, size):
    """An access unit of MP4 whose units are filled up with zeros to a multiple of `size`, as some encoders do."""
    filled = b""
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        unit = data[4:end] + bytes(-(end - 4) % size)
        filled, data = filled + len(unit).to_bytes(4, "big") + unit, data[end:]
    return filled


@pytest.mark.parametrize("size", [2, 4])
def test_slices_that_are_filled_up_to_even_sizes_are_whole(whole, tmp_path, size):
    path, _ = whole["slices.mp4"]
    target = tmp_path / "a.mp4"
    rewrite(path, target, lambda packets: [(fill_slices(data, size), pts) for data, pts in packets], later=0)
    with VideoReader(target) as video:
        assert [number_of(one.image) for one in video] == list(range(COUNT))
        assert video.counts["damaged"] == 0


def test_a_refreshed_stream_is_clean_again_where_it_says_so(whole, tmp_path):
    found = damage_packets(whole, "refreshed.mkv", "drop", {12}, 0.5, tmp_path / "a.mkv")
    assert set(range(12)) <= set(found)
    assert len(found) >= COUNT - 20


def test_a_whole_transport_stream_has_no_losses(whole):
    for name in STREAMS:
        losses = find_losses(whole[name][0], PID)
        assert (losses.touched, losses.missing) == (set(), set())


@pytest.mark.parametrize("name", STREAMS)
def test_lost_packets_of_a_transport_stream_from_a_pipe_cost_what_they_touched(whole, tmp_path, name):
    """Which is read once, so that the marks of the demuxer tell of them: the right packet's, or the one before."""
    path, right = whole[name]
    blocks, mine = split_blocks(path)
    first = pictures_begin(path)[1]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for seed in range(8):
        lost = set(np.random.default_rng(seed).choice([n for n in mine if n >= first], 3, replace=False).tolist())
        data = b"".join(block for n, block in enumerate(blocks) if n not in lost)
        with beside(pipe.write_bytes, data):
            found, _, _ = read(pipe)
        assert found
        assert all((one.image == right[number]).all() for number, one in found.items()), seed


def test_a_clock_that_starts_anew_loses_nothing(whole, tmp_path):
    path, right = whole["plain.ts"]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(path.read_bytes() * 2)
    with VideoReader(joined) as video:
        found = list(video)
        assert video.counts == {"damaged": 0}
        assert video.read_frame(COUNT + 1 + 7).seconds == Fraction(COUNT + 7, 25)
    assert [one.number for one in found] == [*range(COUNT), *range(COUNT + 1, 2 * COUNT + 1)]
    assert [one.seconds for one in found] == [Fraction(n, 25) for n in range(2 * COUNT)]
    assert all((one.image == right[n % COUNT]).all() for n, one in enumerate(found))


def test_a_clock_that_starts_anew_before_the_first_picture_is_read(whole, tmp_path):
    """As where two recordings were joined, of the first of which only pictures without their key frame are left."""
    path, _ = whole["plain.ts"]
    blocks, _ = split_blocks(path)
    begins = pictures_begin(path)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(blocks[: begins[0]] + blocks[begins[27] : begins[29]] + blocks))
    with VideoReader(joined) as video:
        found = list(video)
        assert [one.seconds for one in video.read_range(0)] == [one.seconds for one in found]
    assert [number_of(one.image) for one in found] == list(range(COUNT))


def test_a_long_hole_in_a_transport_stream_ends_where_packets_go_on(tmp_path):
    path = write_pictures(tmp_path / "a.ts", noisy(COUNT), "libx264", {**X264, "bf": "0"})
    blocks, _ = split_blocks(path)
    begins = pictures_begin(path)
    hole, lost = begins[5], range(begins[23], begins[24])
    kept = [block for n, block in enumerate(blocks) if n >= hole and n not in lost]
    (tmp_path / "b.ts").write_bytes(b"".join(blocks[:hole]) + bytes(1000 * BLOCK) + b"".join(kept))
    losses = find_losses(tmp_path / "b.ts", PID)
    assert losses.missing == {(1000 + begins[5]) * BLOCK, (1000 + begins[24] - len(lost)) * BLOCK}


@pytest.mark.parametrize(
    "name", ["plain.mkv", "ordered.mp4", "h265.mkv", "leading.mkv", "mpeg2-ordered.mkv", "av1.mp4"]
)
@pytest.mark.parametrize("start", [5, 13])
def test_a_clip_trimmed_without_encoding_has_every_picture_that_is_shown(whole, tmp_path, name, start):
    path, right = whole[name]
    trimmed = tmp_path / "trimmed.mp4"  # which has an edit list, and a key frame before it
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(path)) as source, av.open(str(trimmed), "w", options=options) as container:
        stream = source.streams.video[0]
        out = container.add_stream_from_template(stream, opaque=True)
        period = round(Fraction(1, 25) / stream.time_base)
        for number, packet in enumerate(source.demux(stream)):
            if packet.size:
                packet.pts, packet.stream = packet.pts - start * period, out
                packet.dts = (number - 4 - start) * period
                container.mux(packet)
    with VideoReader(trimmed) as video:
        found = list(video)
        assert video.counts["damaged"] == 0
    assert [number_of(one.image) for one in found] == list(range(start, COUNT))
    assert all((one.image == right[start + n]).all() for n, one in enumerate(found))


def test_a_stream_that_begins_at_a_key_frame_has_what_is_shown_before_it(whole, tmp_path):
    path, right = whole["leading.mkv"]
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    begins = next(n for n, packet in enumerate(packets) if n and packet.is_keyframe)
    shown = sorted(packet.pts for packet in packets)
    wanted = sorted(shown.index(packet.pts) for packet in packets[begins:])
    assert wanted[0] < shown.index(packets[begins].pts)
    found, _, left_out = read(rewrite(path, tmp_path / "a.mkv", lambda packets: packets[begins:]))
    assert (sorted(found), left_out) == (wanted, 0)
    assert all((one.image == right[number]).all() for number, one in found.items())


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "msmpeg4v2", "flv", "h263p", "libx264"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_each_picture_counts_once_where_packets_have_no_times(tmp_path, codec, share):
    """A decoder may refuse a packet and give a picture of it all the same."""
    path, images = tmp_path / "a.avi", noisy(COUNT)
    write_pictures(path, images, codec, {"g": "10"})
    for hit in (8, 11, 23):
        rewrite(path, tmp_path / "b.avi", lambda packets, hit=hit: cut_one(packets, hit, share), later=0)
        with VideoReader(tmp_path / "b.avi") as video:
            assert len(list(video)) + video.counts["damaged"] == COUNT, hit


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_no_wrong_picture_comes_where_packets_have_no_times_and_another_order(tmp_path, codec):
    path, images = tmp_path / "a.avi", noisy(COUNT)
    write_pictures(path, images, codec, {**X264, "bf": "2", "b": "5M"})
    with VideoReader(path) as video:
        right = {one.image.tobytes() for one in video}
    for hit in range(4, 20):
        rewrite(path, tmp_path / "b.avi", lambda packets, hit=hit: cut_one(packets, hit, 0.5))
        with VideoReader(tmp_path / "b.avi") as video:
            assert all(one.image.tobytes() in right for one in video), hit


@pytest.mark.parametrize(
    ("codec", "suffix"), [("jpeg2000", "mkv"), ("qtrle", "mov"), ("png", "mov"), ("prores", "mov")]
)
def test_a_packet_that_is_cut_off_is_left_out_whatever_its_codec(tmp_path, codec, suffix):
    path, target = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    write_pictures(path, noisy(COUNT), codec, {"strict": "-2", "g": "10"})
    with VideoReader(path) as video:
        right = [one.image for one in video]
    for share in (0.02, 0.3, 0.6, 0.95):
        rewrite(path, target, lambda packets, share=share: cut_one(packets, 11, share), later=0)
        with VideoReader(target) as video:
            found = {one.number: one.image for one in video}
            assert 11 not in found
            assert all(np.array_equal(image, right[number]) for number, image in found.items())
            assert len(found) + video.counts["damaged"] == COUNT


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("mpeg4", "mkv"), ("mpeg4", "avi"), ("libvpx-vp9", "webm"), ("libvpx", "webm"), ("libsvtav1", "mp4")],
)
@pytest.mark.parametrize("uneven", [False, True])
def test_pictures_of_a_camera_that_left_some_out_are_all_good(tmp_path, codec, suffix, uneven):
    """Their times have holes, as those of a file that lost packets: of most codecs nobody can tell."""
    rng = np.random.default_rng(3)
    steps = 512 * rng.choice([1, 1, 1, 1, 1, 2], COUNT)
    if uneven and suffix != "avi":
        steps = rng.integers(400, 1500, COUNT)
    path = write_video(tmp_path / f"a.{suffix}", noisy(COUNT), np.cumsum(steps).tolist(), codec, g="10")
    with VideoReader(path) as video:
        assert (len(list(video)), video.counts["damaged"]) == (COUNT, 0)


@pytest.mark.parametrize("level", ["3", "4"])
def test_a_changed_byte_of_ffv1_shows_in_its_checksums(tmp_path, level):
    path, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    write_pictures(path, noisy(COUNT), "ffv1", {"level": level, "strict": "-2", "g": "10", "slices": "4"})
    with VideoReader(path) as video:
        right = [one.image for one in video]
        assert len(right) == COUNT
    for share in (0.0, 0.3, 0.6, 0.9, 1.0):
        rewrite(path, target, lambda packets, share=share: flip_one(packets, 11, share), later=0)
        with VideoReader(target) as video:
            found = {one.number: one.image for one in video}
        assert set(found) == set(range(COUNT)) - set(range(11, 20)), share
        assert all(np.array_equal(image, right[number]) for number, image in found.items())


def test_a_motion_jpeg_without_its_beginning_is_left_out(tmp_path):
    path, target = tmp_path / "a.mkv", tmp_path / "b.mjpeg"
    write_pictures(path, noisy(4), "mjpeg", {})
    with av.open(str(path)) as container:
        files = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    with VideoReader(path) as video:
        right = [one.image for one in video]
    for lost in (2, 25, 60):
        target.write_bytes(files[0][lost:] + b"".join(files[1:]))
        with VideoReader(target) as video:
            found = [one.image for one in video]
        assert np.array_equal(found, right[2:])  # FFmpeg's parser has the second in one packet with what is left


def write_fields(path, images, cut_at=1.0, mark=b"AVI1"):
    """Motion JPEG whose pictures are two fields, a JPEG each, which a mark may tell; the third picture is cut."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuvj422p"
        for number, image in enumerate(images):
            data = b""
            for parity in (0, 1):
                file = io.BytesIO()
                Image.fromarray(image[parity::2]).save(file, "jpeg", subsampling=1)
                head = b"\xff\xd8\xff\xe0\0\x10" + mark + bytes([parity + 1]) + bytes(9)
                data += head + file.getvalue()[20:]  # instead of JFIF's
            packet = av.Packet(cut(data, cut_at) if number == 2 else data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
            container.mux(packet)
    return path


@pytest.mark.parametrize(("suffix", "mark"), [("avi", b"AVI1"), ("mkv", b"AVI1"), ("avi", b"none")])
def test_a_field_of_motion_jpeg_that_is_cut_off_is_left_out(tmp_path, suffix, mark):
    path = write_fields(tmp_path / f"a.{suffix}", noisy(6), mark=mark)
    with av.open(str(path)) as container:
        right = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for share in (0.2, 0.45, 0.8, 0.95, 1.0):
        with VideoReader(write_fields(tmp_path / f"b.{suffix}", noisy(6), share, mark)) as video:
            found = {one.number: one.image for one in video}
        assert set(found) == set(range(6)) - ({2} if share < 1 else set()), share
        assert all(np.array_equal(image, right[number]) for number, image in found.items()), share


def test_a_preview_behind_a_picture_of_motion_jpeg_need_not_be_whole(tmp_path):
    path = write_pictures(tmp_path / "a.mkv", noisy(4), "mjpeg", {})
    preview = cv2.imencode(".jpg", noisy(1)[0, ::2, ::2])[1].tobytes()
    with VideoReader(path) as video:
        right = [one.image for one in video]
    thumbnail = b"\xff\xe1" + (2 + len(preview)).to_bytes(2, "big") + preview  # in the head of the picture
    for inside, behind in itertools.product((b"", thumbnail), (preview, cut(preview, 0.6))):
        change = partial(lambda one, new: one[:2] + new[0] + one[2:] + new[1], new=(inside, behind))
        rewrite(path, tmp_path / "b.mkv", lambda packets, change=change: [(change(one), pts) for one, pts in packets])
        with VideoReader(tmp_path / "b.mkv") as video:
            assert all(np.array_equal(one.image, image) for one, image in zip(video, right, strict=True))


def test_a_gif_that_is_cut_off_gives_its_whole_pictures(tmp_path):
    images = [Image.fromarray(image).quantize(64) for image in noisy(COUNT)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=40)
    data = (tmp_path / "a.gif").read_bytes()
    with VideoReader(tmp_path / "a.gif") as video:
        right = [one.image for one in video]
    assert len(right) == COUNT
    for size in range(len(data) // 2, len(data) - 2, 997):
        (tmp_path / "b.gif").write_bytes(data[:size])
        with VideoReader(tmp_path / "b.gif") as video:
            found = list(video)
        assert len(found) >= COUNT * size // len(data) - 1
        assert all(np.array_equal(one.image, right[one.number]) for one in found), size
