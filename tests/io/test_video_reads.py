"""One reader for all: by number and from a time on as in order, and the same pictures of a damaged file everywhere."""

import hashlib
import logging
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.evaluation.dataset import ClipSet, find_clips
from streamtok.io.source import count_from_start, open_source
from streamtok.io.video import VideoReader
from streamtok.io.video.picture_numbers import PictureNumbers
from streamtok.training.cache import load_cache
from streamtok.training.config import DataConfig
from streamtok.training.footage import Footage, survey
from tests.kit.videos import ORDERED, PLAIN, damage, noisy, number_of, numbered, write_video

COUNT = 45
X265 = "bframes=3:keyint=10:min-keyint=10:log-level=none:pools=1"
REFRESHED = {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}
OPEN = {**ORDERED, "x264-params": "open-gop=1:b-pyramid=normal"}
KINDS = {
    "h264.mp4": ("libx264", {**ORDERED, "bf": "3"}),
    "open-gop.mkv": ("libx264", OPEN),
    "refreshed.mp4": ("libx264", REFRESHED),
    "refreshed.ts": ("libx264", REFRESHED),
    "h264.ts": ("libx264", {**ORDERED, "bf": "3"}),
    "h265.mp4": ("libx265", {"x265-params": X265}),
    "h265.mkv": ("libx265", {"x265-params": f"{X265}:open-gop=0"}),
    "mpeg4.mp4": ("mpeg4", {"bf": "2", "g": "10"}),
    "mjpeg.mkv": ("mjpeg", {}),
    "mjpeg.avi": ("mjpeg", {}),
    "raw.h264": ("libx264", ORDERED),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """{name: path}: a whole video of every kind, and with "damaged " before the name one that is damaged."""
    folder, noise = tmp_path_factory.mktemp("videos"), np.random.default_rng(5).integers(-20, 20, (COUNT, 64, 96, 3))
    images = np.clip(numbered(COUNT) + noise, 0, 255).astype(np.uint8)
    found = {}
    for name, (codec, options) in KINDS.items():
        found[name] = write_video(folder / name, images, range(0, COUNT * 512, 512), codec, **options)
        if not name.endswith(".ts"):  # whose packets are scattered
            found[f"damaged {name}"] = damage(found[name], 13, 27, target=folder / f"damaged-{name}")
    return found


def facts(frames):
    return {frame.number: (frame.seconds, hashlib.sha256(frame.image).hexdigest()) for frame in frames}


READ = {}


def in_order(path):
    """What reading the file in order gives, and how many numbers that passes."""
    if path not in READ:
        with VideoReader(path) as video:
            READ[path] = facts(video), len(list(video)) + sum(video.counts.values()) // 2
    return READ[path]


@settings(max_examples=60)
@given(data=st.data())
def test_any_range_is_that_of_a_read_in_order(videos, data):
    path = videos[data.draw(st.sampled_from(sorted(videos)))]
    whole, total = in_order(path)
    with VideoReader(path) as video:
        for _ in range(data.draw(st.integers(1, 3))):
            first = data.draw(st.integers(0, COUNT + 2))
            stop = data.draw(st.none() | st.integers(first + 1, COUNT + 4))
            video.counts.clear()
            end = total if stop is None else min(stop, total)
            want = {number: fact for number, fact in whole.items() if first <= number < end}
            assert facts(video.read_range(first, stop)) == want
            assert video.counts["damaged"] == max(0, end - first) - len(want)


@pytest.mark.parametrize("name", KINDS)
def test_each_picture_by_its_number(videos, name):
    whole, _ = in_order(videos[name])
    assert list(whole) == list(range(COUNT))
    with VideoReader(videos[name]) as video:
        for number in (0, 9, 10, 31, 5, COUNT - 1):
            frame = video.read_frame(number)
            assert facts([frame]) == {number: whole[number]}
            assert number_of(frame.image) == number
        with pytest.raises(IndexError, match=f"no picture {COUNT}"):
            video.read_frame(COUNT)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("first", [0, 7, 20, 38])
def test_from_a_time_on(videos, name, first):
    whole, _ = in_order(videos[name])
    with VideoReader(videos[name]) as video:
        found = list(video.read_from(Fraction(first, 25), first, first + 6))
    assert facts(found) == {number: whole[number] for number in range(first, first + 6)}


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith(("h264.mp4", "open", "mpeg4", "mjpeg"))])
@pytest.mark.parametrize("hit", [3, 11, 12, 20, 21, 26, 40])
def test_pictures_behind_damage_are_those_of_the_whole_file(videos, name, hit, tmp_path):
    """Where pictures are shown in another order than packets come, damage behind a key frame outlasts it."""
    whole, _ = in_order(videos[name])
    with VideoReader(damage(videos[name], hit, target=tmp_path / name)) as video:
        found = facts(video)
    assert len(found) + video.counts["damaged"] == COUNT
    assert 0 < video.counts["damaged"] <= 20
    assert found == {number: whole[number] for number in found}


@pytest.mark.parametrize("name", ["h264.mp4", "open-gop.mkv", "h265.mkv", "mpeg4.mp4", "mjpeg.avi"])
def test_ingest_encode_evaluate_and_train_see_the_same_pictures_of_a_damaged_file(videos, name):
    path = videos[f"damaged {name}"]
    with open_source(str(path)) as source:
        ingested = {frame.frame_id: frame.image for frame in source}
    lost = source.counts["damaged"]
    assert lost == COUNT - len(ingested) > 0
    with open_source(str(path)) as opened:
        encoded = {frame.frame_id: frame.image for frame in count_from_start(opened)}
    assert opened.counts["damaged"] == lost
    assert list(encoded) == list(ingested)
    clips = ClipSet(find_clips([path]), lines=None, frames=COUNT, group=1)
    clip, counts = next(iter(clips)), Counter()
    assert clips.damaged == {clip.name: lost}
    trained = list(survey(str(path), COUNT, COUNT).read(counts))
    assert counts["damaged"] == lost
    for other in (encoded.values(), clip.frames, [image for _, image in trained]):
        assert np.array_equal(list(other), list(ingested.values()))


def test_what_is_trained_on_does_not_go_on_over_a_damaged_picture(videos):
    path, counts = str(videos["damaged mjpeg.mkv"]), Counter()
    read = list(Footage(path, COUNT, (64, 96), (range(20), range(COUNT - 20, COUNT))).read(counts))
    assert [(run, number_of(image)) for run, image in read] == [
        *((0, n) for n in range(13)),
        *((1, n) for n in range(14, 20)),
        *((2, n) for n in range(25, 27)),
        *((3, n) for n in range(28, 45)),
    ]
    assert counts == {"damaged": 2}


def test_training_says_what_it_leaves_out(videos, caplog):
    config = DataConfig(scales=(64,), max_frames=COUNT, stretch=COUNT, threads=1)
    with caplog.at_level(logging.INFO, "streamtok.training"):
        cache = load_cache([str(videos["damaged mjpeg.mkv"])], config, 32, torch.device("cpu"))
    assert cache.stored[0].runs == (13, 13, 17)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "event=damaged_frames" in told
    assert "left_out=2 kept=43" in told
    assert "damaged=2 bytes" in told


def test_pictures_of_a_program_stream_have_one_number_and_time_however_they_are_read(tmp_path):
    """FFmpeg guesses times behind a seek, which leads into a picture there."""
    path = write_video(tmp_path / "a.mpg", noisy(60), range(60), "mpeg2video", time_base=Fraction(1, 25), g="12")
    with VideoReader(path) as video:
        right = list(video)
        again = [video.read_frame(one.number) for one in right]
    assert [(one.number, one.seconds) for one in again] == [(one.number, one.seconds) for one in right]
    assert all(np.array_equal(one.image, other.image) for one, other in zip(again, right, strict=True))


def test_a_video_that_is_cut_off_counts_in_a_range_what_is_not_there(tmp_path):
    layout = {"movflags": "faststart"}
    path = write_video(tmp_path / "a.mp4", numbered(30), range(0, 30 * 512, 512), container_options=layout, **PLAIN)
    whole, _ = in_order(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    with VideoReader(path) as video:
        there = max(frame.number for frame in video) + 1
        assert video.counts == {"damaged": 30 - there}
        video.counts.clear()
        assert facts(video.read_range(there - 3, 28)) == {n: whole[n] for n in range(there - 3, there)}
        assert video.counts == {"damaged": 28 - there}


def test_fields_of_one_picture_count_once_where_nothing_is_damaged():
    numbers, found = PictureNumbers(even=True), []
    for pts in range(0, 20, 2):
        numbers.add_packet(pts)
        numbers.add_packet(pts + 1)
        found.append(numbers.number(pts, disturbed=not found))
    assert found == list(range(10))
    assert numbers.end(disturbed=False) == 10
