"""The synthetic drive: any frame at any time, the same to the byte, and something to look at."""

import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest

from streamtok.io.base import EndOfSource
from streamtok.io.source import open_source
from streamtok.io.synthetic import SyntheticDrive
from streamtok.io.synthetic.world import World, hash_to_unit


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 47), (96, 48)])
def test_a_frame_depends_on_seed_number_and_size_alone(height, width):
    drive = SyntheticDrive(height, width, seed=3)
    forward = [drive.frame(n) for n in (0, 7, 5000)]
    again = SyntheticDrive(height, width, seed=3)
    backward = [again.frame(n) for n in (5000, 7, 0)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.shape == (height, width, 3)
        assert a.dtype == np.uint8
        assert np.array_equal(a, b)
    assert not np.array_equal(forward[0], SyntheticDrive(height, width, seed=4).frame(0))


def test_another_process_and_a_copy_draw_the_same_frame():
    drive = SyntheticDrive(48, 64, seed=6)
    want = zlib.crc32(drive.frame(77))
    assert zlib.crc32(pickle.loads(pickle.dumps(drive)).frame(77)) == want
    code = "import zlib; from streamtok.io.synthetic import SyntheticDrive as D; "
    code += "print(zlib.crc32(D(48, 64, seed=6).frame(77)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == want


def test_the_rate_changes_when_frames_are_taken_not_what_is_there():
    slow, fast = SyntheticDrive(48, 64, fps=10, seed=1), SyntheticDrive(48, 64, fps=30, seed=1)
    assert np.array_equal(slow.frame(20), fast.frame(60))


def test_a_clip_is_its_frames():
    drive = SyntheticDrive(48, 64, seed=2)
    clip = drive.clip(10, 3, step=5)
    assert np.array_equal(clip, np.stack([drive.frame(n) for n in (10, 15, 20)]))


def test_consecutive_frames_move_and_scenes_differ():
    drive = SyntheticDrive(96, 160, seed=1)
    a, b, far = (drive.frame(n).astype(int) for n in (0, 1, 900))
    assert 0.3 < np.abs(a - b).mean() < np.abs(a - far).mean()
    assert a.std() > 25


def test_the_car_never_rolls_backwards_and_the_day_turns():
    world = World(5)
    places = [world.position(t) for t in np.arange(0, 200, 0.1)]
    assert np.all(np.diff(places) > 0)
    dark = [world.light(t).dark for t in np.arange(0, 400, 5.0)]
    assert min(dark) == 0
    assert max(dark) == 1


def test_hours_into_the_drive_there_is_still_a_road():
    drive = SyntheticDrive(64, 96, seed=1)
    assert drive.frame(30 * 3600 * 10).std() > 10


def test_hash_is_even_and_pinned():
    values = hash_to_unit(1, np.arange(4000), 7)
    assert abs(values.mean() - 0.5) < 0.02
    assert hash_to_unit(1, 2, 3)[0] == 0.5395699000245424


def test_source_numbers_and_times_frames_and_ends():
    with open_source("synthetic:48x64@25?seed=9&frames=4", "front") as source:
        frames = list(source)
        assert (source.size, source.fps, source.live) == ((48, 64), 25.0, False)
    assert [f.frame_id for f in frames] == [0, 1, 2, 3]
    assert [f.capture_ns - source.start_ns for f in frames] == [0, 40_000_000, 80_000_000, 120_000_000]
    assert all(f.stream == "front" for f in frames)
    with pytest.raises(EndOfSource):
        source.read()


def test_passing_over_frames_leaves_the_later_ones_as_they_are(tmp_path):
    import cv2

    for n in range(9):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((16, 16, 3), n * 9, np.uint8))
    for spec in ("synthetic:32x48@10?frames=9", f"images:{tmp_path}?fps=10"):
        with open_source(spec) as source:
            all_frames = {frame.frame_id: frame.image for frame in source}
        with open_source(spec) as source:
            source.read()
            source.skip_to(source.start_ns + 400_000_000)
            source.skip_to(source.start_ns)
            rest = list(source)
            assert source.counts["frames"] == 6
        assert [frame.frame_id for frame in rest] == [4, 5, 6, 7, 8]
        assert all(np.array_equal(frame.image, all_frames[frame.frame_id]) for frame in rest)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("synthetic:48", "synthetic:HxW@FPS"),
        ("synthetic:48x64@x", "synthetic:HxW@FPS"),
        ("synthetic:48x64?sed=1", "seed, frames"),
        ("synthetic:48x64?seed=a", "seed='a'"),
        ("synthetic:8x64", "16 to 8192"),
        ("synthetic:48x64@0", "more than 0"),
        ("synthetic:48x64?frames=0", "1 or more"),
    ],
)
def test_wrong_specs_say_what_is_allowed(spec, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        open_source(spec)
