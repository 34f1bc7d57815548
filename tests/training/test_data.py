"""What is read and stored, and that a batch is a function of seed and step, cut at the right places."""

import logging

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.io.synthetic import SyntheticDrive
from streamtok.training.batches import DRIFT, Course, Sampler
from streamtok.training.cache import load_cache, sizes_for
from streamtok.training.config import DataConfig, PhaseConfig
from streamtok.training.footage import list_media, split_holdout, survey
from tests.kit.training import write_avi

CPU = torch.device("cpu")
PLAIN = DataConfig(scales=(48,), flip=0, reverse=0, brightness=0, strides=(1,), threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos of different sizes, one image in a sub-folder, one damaged video, one file that is neither."""
    path = tmp_path_factory.mktemp("data")
    write_avi(path / "wide.avi", SyntheticDrive(48, 80, seed=1).clip(0, 12))
    write_avi(path / "tall.avi", SyntheticDrive(96, 64, seed=2).clip(0, 8))
    (path / "more").mkdir()
    cv2.imwrite(str(path / "more" / "still.png"), SyntheticDrive(64, 64, seed=3).frame(0)[..., ::-1])
    (path / "broken.mp4").write_bytes(b"no video at all" * 50)
    (path / "notes.txt").write_text("not media")
    return path


def cache_of(paths, config=PLAIN, smallest=32):
    return load_cache([str(p) for p in paths], config, smallest, CPU)


def test_folders_are_searched_for_videos_and_images(folder):
    names = [path.rsplit("/", 1)[-1] for path in list_media((str(folder), "synthetic:48x64@30"))]
    assert names == ["broken.mp4", "still.png", "tall.avi", "wide.avi", "synthetic:48x64@30"]


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        list_media((str(tmp_path / "nowhere"),))
    with pytest.raises(ValueError, match="no video or image"):
        list_media((str(tmp_path),))


def test_a_damaged_video_is_named_and_skipped(folder, caplog):
    with caplog.at_level(logging.WARNING, "streamtok.training"):
        cache = cache_of(list_media((str(folder),)))
    assert cache.names == ("still", "tall", "wide")
    assert any("broken.mp4" in record.getMessage() for record in caplog.records)


def test_a_video_cut_off_in_the_middle_keeps_its_frames(folder, tmp_path):
    whole = (folder / "wide.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 2 // 3])
    cache = cache_of([tmp_path / "cut.avi"])
    assert 1 <= cache.stored[0].frames < 12


def test_only_damaged_files_is_an_error(folder):
    with pytest.raises(ValueError, match="none of the 1 files"):
        cache_of([folder / "broken.mp4"])


def frames_of(path, most):
    return (frame for _, frame in survey(path, most, most).read())


def test_max_frames_and_synthetic_drives():
    frames = list(frames_of("synthetic:48x64@30?seed=4", 5))
    np.testing.assert_array_equal(np.stack(frames), SyntheticDrive(48, 64, seed=4).clip(0, 5))


def test_sizes_keep_the_aspect_and_never_enlarge_more_than_a_crop_needs():
    assert sizes_for(480, 640, (192, 256, 512), 128) == [(192, 256), (256, 341)]
    assert sizes_for(1280, 720, (256, 256), 128) == [(455, 256)]
    assert sizes_for(60, 90, (192, 256), 128) == [(128, 192)]
    assert sizes_for(150, 200, (192, 256), 128) == [(150, 200)]


def test_cache_holds_the_frames_as_they_are(folder):
    cache = cache_of([folder / "wide.avi", folder / "tall.avi"], DataConfig(scales=(48, 64), threads=2))
    wide = torch.from_numpy(np.stack(list(frames_of(str(folder / "wide.avi"), 99))))
    assert torch.equal(cache.clip("wide", 48), wide.permute(0, 3, 1, 2))
    assert cache.clip("tall", 48).shape == (8, 3, 72, 48)
    assert cache.frames == 20


def test_holdout_by_beginning_of_name():
    paths = ["a/one.mp4", "a/two.mp4", "b/onward.mp4"]
    assert split_holdout(paths, ("on",)) == (["a/two.mp4"], ["a/one.mp4", "b/onward.mp4"])
    with pytest.raises(ValueError, match="three"):
        split_holdout(paths, ("three",))
    with pytest.raises(ValueError, match="keeps every clip from training"):
        split_holdout(paths[:1], ("on",))


@pytest.fixture(scope="module")
def sampler():
    clips = ["synthetic:48x64@30?seed=1&frames=20", "synthetic:56x48@30?seed=2&frames=14"]
    return Sampler(cache_of(clips), PLAIN, seed=3)


def test_a_batch_is_the_crop_that_its_plan_says(sampler):
    plan = sampler.draw(7, 4, 5, 32)
    video = sampler.cut(plan, 0, 5, 32)
    for row, got in zip(plan.places, video, strict=True):
        offset, height, width, start, stride, top, left = row[:7]
        stored = next(s for s in sampler.cache.stored if s.offset == offset)
        clip = sampler.cache.pixels[offset : offset + stored.frames * height * width].view(-1, height, width, 3)
        want = clip[start : start + 5 * stride : stride, top : top + 32, left : left + 32].permute(3, 0, 1, 2)
        torch.testing.assert_close(got, want.float() / 127.5 - 1)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**6),
    frames=st.sampled_from([1, 5, 9]),
    chances=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=4),
)
def test_every_augmented_crop_lies_inside_its_clip_and_repeats(seed, step, frames, chances):
    flip, reverse, still, pan = chances
    config = DataConfig(scales=(48,), strides=(1, 2), flip=flip, reverse=reverse, still=still, pan=pan, pan_speed=3)
    cache = _CACHE.setdefault("c", cache_of(["synthetic:48x64@30?seed=1&frames=18", "synthetic:64x48@30?frames=11"]))
    sampler = Sampler(cache, config, seed)
    plan = sampler.draw(step, 3, frames, 32)
    for place in plan.places.tolist():
        offset, height, width, start, stride, top, left, down, right, _ = place
        stored = next(s for s in cache.stored if s.offset == offset)
        times = [start + stride * t for t in range(frames)]
        assert min(times) >= 0
        assert max(times) < stored.frames
        for first, drift, side in ((top, down, height), (left, right, width)):
            edges = [first + drift * t // DRIFT for t in range(frames)]
            assert min(edges) >= 0
            assert max(edges) + 32 <= side
    again = Sampler(cache, config, seed).draw(step, 3, frames, 32)
    assert np.array_equal(plan.places, again.places)
    assert np.array_equal(plan.colours, again.colours)
    assert sampler.cut(plan, 0, frames, 32).abs().max() <= 1


_CACHE: dict = {}


def test_flip_and_reverse_are_what_they_say(sampler):
    plan = sampler.draw(7, 1, 5, 32)
    base = sampler.cut(plan, 0, 5, 32)
    flipped, reversed_ = plan.places.copy(), plan.places.copy()
    flipped[:, 9] = 1
    reversed_[:, 3], reversed_[:, 4] = plan.places[:, 3] + 4, -1
    assert torch.equal(sampler.cut(type(plan)(flipped, plan.colours), 0, 5, 32), base.flip(-1))
    assert torch.equal(sampler.cut(type(plan)(reversed_, plan.colours), 0, 5, 32), base.flip(2))


def test_carried_clips_go_on_where_they_stopped(sampler):
    phase, course = PhaseConfig(frames=5, crop=32, batch=2, carry=0.99, max_segments=3), Course()
    first, fresh = course.next_batch(sampler, 10, phase)
    assert (first.shape[2], fresh, course.segments) == (5, False, 3)
    parts = [first]
    for step in (11, 12):
        video, continuing = course.next_batch(sampler, step, phase)
        assert (video.shape[2], continuing) == (4, True)
        parts.append(video)
    assert course.segments == 0
    whole = sampler.cut(sampler.draw(10, 2, 13, 32), 0, 13, 32)
    assert torch.equal(torch.cat(parts, 2), whole)
    assert course.next_batch(sampler, 13, phase)[1] is False


def test_a_picture_is_held_and_panned_slowly(folder):
    """It is a clip of one frame, which no other draw of more frames can use."""
    cache = cache_of([folder / "more" / "still.png", folder / "wide.avi"])
    held = Sampler(cache, DataConfig(scales=(48,), still=1.0, pan=0.5, pan_speed=2, brightness=0), seed=1)
    plans = [held.draw(step, 4, 9, 32) for step in range(40)]
    places = np.concatenate([plan.places for plan in plans])
    assert set(places[:, 0]) == {stored.offset for stored in cache.stored}
    assert not places[:, 4].any()
    drifts = np.abs(places[:, 7:9]).max(1)
    assert 0.1 < ((drifts > 0) & (drifts < DRIFT // 2)).mean() < 0.5  # under half a pixel a frame
    row = next(i for i, plan in enumerate(plans) if (np.abs(plan.places[:, 7:9]).max(1) == 0).any())
    still = held.cut(plans[row], 0, 9, 32)[np.abs(plans[row].places[:, 7:9]).max(1) == 0]
    assert torch.equal(still, still[:, :, :1].expand_as(still))
    moving = Sampler(cache, DataConfig(scales=(48,), still=0.0), seed=1)
    assert {int(place[0]) for step in range(20) for place in moving.draw(step, 4, 9, 32).places} == {
        next(stored.offset for stored in cache.stored if cache.names[stored.clip] == "wide")
    }


def test_images_are_mixed_in(sampler):
    mixed = Sampler(sampler.cache, DataConfig(scales=(48,), image_fraction=0.5), seed=0)
    lengths = [
        Course().next_batch(mixed, step, PhaseConfig(frames=5, crop=32, batch=2))[0].shape[2] for step in range(60)
    ]
    assert set(lengths) == {1, 5}
    assert 15 < lengths.count(1) < 45


def test_clips_too_short_for_a_phase_say_so(sampler):
    with pytest.raises(ValueError, match="no clip has 33 frames"):
        sampler.draw(0, 2, 33, 32)
