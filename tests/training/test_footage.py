"""What is taken of videos longer than data.max_frames, that the log says so, and that memory is counted before."""

import logging

import numpy as np
import pytest
import torch

from streamtok.io.synthetic import SyntheticDrive
from streamtok.settings.errors import SettingsError
from streamtok.training.batches import Sampler
from streamtok.training.cache import load_cache
from streamtok.training.config import DataConfig
from streamtok.training.loop import load_data
from tests.kit.training import config as run_config
from tests.kit.videos import write_video

CPU = torch.device("cpu")
PLAIN = DataConfig(scales=(48,), max_frames=60, stretch=20, flip=0, reverse=0, brightness=0, strides=(1,), threads=1)


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def long_video(request, tmp_path_factory):
    """250 frames, each with its number as its grey level; an .mkv does not say how many there are."""
    path = tmp_path_factory.mktemp("long") / f"drive.{request.param}"
    grey = [np.full((48, 64, 3), number, np.uint8) for number in range(250)]
    return write_video(path, grey, codec="mpeg4", rate=30, b="10M")


def numbers(cache):
    return cache.clip("drive", 48).float().mean((1, 2, 3)).round().int().tolist()


def assert_rises_by_one(found, first):
    assert np.abs(np.array(found) - np.arange(first, first + len(found))).max() <= 2  # the codec's error


def test_a_long_video_gives_stretches_from_its_beginning_to_its_end(long_video, caplog):
    with caplog.at_level(logging.INFO, "streamtok.training"):
        cache = load_cache([str(long_video)], PLAIN, 32, CPU)
    assert cache.stored[0].runs == (20, 20, 20)
    found = numbers(cache)
    for start, first in ((0, 0), (20, 115), (40, 230)):
        assert_rises_by_one(found[start : start + 20], first)
    told = [record.getMessage() for record in caplog.records]
    assert any(
        "event=shortened" in text and "drive.m" in text and "frames=60 of=250 stretches=3" in text for text in told
    )
    assert any("event=cache" in text and "frames=60 of=250" in text for text in told)


def test_no_clip_goes_on_over_a_cut(long_video):
    sampler = Sampler(load_cache([str(long_video)], PLAIN, 32, CPU), PLAIN, seed=1)
    starts = set()
    for step in range(60):
        plan = sampler.draw(step, 4, 9, 32)
        starts |= {int(start) for start in plan.places[:, 3]}
        assert np.array_equal(plan.places, sampler.draw(step, 4, 9, 32).places)
    assert {start // 20 for start in starts} == {0, 1, 2}
    assert max(start % 20 for start in starts) == 20 - 9
    with pytest.raises(ValueError, match="the longest: 20"):
        sampler.draw(0, 1, 21, 32)


@pytest.mark.parametrize("max_frames", [250, 400])
def test_a_video_that_is_no_longer_is_taken_whole(long_video, max_frames, caplog):
    whole = DataConfig(scales=(48,), max_frames=max_frames, stretch=20, threads=1)
    with caplog.at_level(logging.INFO, "streamtok.training"):
        cache = load_cache([str(long_video)], whole, 32, CPU)
    assert cache.stored[0].runs == (250,)
    assert_rises_by_one(numbers(cache), 0)
    assert "event=shortened" not in caplog.text


def test_synthetic_drives_are_spread_too():
    cache = load_cache(["synthetic:48x64@30?seed=4&frames=100"], PLAIN, 32, CPU)
    drive = SyntheticDrive(48, 64, seed=4)
    taken = [*range(20), *range(40, 60), *range(80, 100)]
    got = cache.clip("synthetic:48x64@30?seed=4&frames=100", 48).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(got, np.stack([drive.frame(number) for number in taken]))


def test_stretches_are_as_long_as_the_clips_of_every_phase(tmp_path, long_video):
    clips = {"paths": [str(long_video)], "scales": [48], "max_frames": 60, "stretch": 10, "strides": [1, 2]}
    run = run_config(tmp_path, data=clips, phases=[{"frames": 13, "crop": 32, "batch": 1}])
    assert load_data(run, CPU)[0].stored[0].runs == (30, 30)  # 13 frames with stride 2 span 25


def test_clips_that_do_not_fit_into_memory_are_refused_before_they_are_decoded():
    endless = DataConfig(scales=(4000,), max_frames=10**6, threads=1)
    with pytest.raises(SettingsError, match=r"lower data.max_frames \(1000000 of each video\), or give fewer"):
        load_cache(["synthetic:4000x4000@30"], endless, 32, CPU)
