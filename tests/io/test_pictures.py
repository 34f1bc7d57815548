"""Decoded pictures in files: sizes, times and names."""

import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from streamtok.io.picture_writer import open_pictures
from tests.kit.disk import full_disk

TIMES_MS = [0, 33, 67, 140, 173, 206, 240]


def picture(index: int, size: tuple[int, int]) -> np.ndarray:
    """A smooth picture, as codecs like it, that differs from frame to frame."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([rows * 2 + index * 9, columns * 2, 0 * rows + index * 20], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("size", [(48, 64), (47, 65), (1, 2)])
def test_video_keeps_times_size_and_picture(tmp_path, suffix, size):
    path = tmp_path / f"a.{suffix}"
    pictures = open_pictures(path, size, 30.0)
    for index, time_ms in enumerate(TIMES_MS):
        pictures.write(picture(index, size), time_ms * 1_000_000)
    pictures.close()
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [round(float(frame.pts * frame.time_base) * 1000) for frame in frames] == TIMES_MS
    for index, frame in enumerate(frames):
        got = frame.to_ndarray(format="rgb24")
        assert got.shape == (*size, 3)
        assert np.abs(got.astype(int) - picture(index, size)).mean() < 8
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_video_that_a_full_disk_ends_leaves_nothing(tmp_path):
    pictures, noise = open_pictures(tmp_path / "a.mp4", (48, 64), 30.0), np.random.default_rng(1)
    with full_disk(20_000):
        with pytest.raises(OSError, match="too large"):
            [pictures.write(noise.integers(0, 256, (48, 64, 3), np.uint8), n * 33_000_000) for n in range(1000)]
        pictures.abort()
    assert not list(tmp_path.iterdir())


def test_a_video_without_room_for_its_end_leaves_nothing(tmp_path):
    """What is encoded waits in the encoder, and is written by `close`."""
    pictures = open_pictures(tmp_path / "a.mp4", (48, 64), 30.0)
    for number in range(4):
        pictures.write(picture(number, (48, 64)), number * 33_000_000)
    with full_disk(100), pytest.raises(OSError, match="too large"):
        pictures.close()
    assert not list(tmp_path.iterdir())


def test_no_video_takes_the_place_of_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(FileExistsError, match="no file may replace"):
        open_pictures(tmp_path / "a.mp4", (48, 64), 30.0)
    assert [each.is_fifo() for each in tmp_path.iterdir()] == [True]


def test_frames_that_share_a_time_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = open_pictures(Path("12:30:00.mp4"), (16, 16), None)
    for index in range(4):
        pictures.write(picture(index, (16, 16)), 5_000)
    pictures.close()
    with av.open(str(tmp_path / "12:30:00.mp4")) as container:
        assert len(list(container.decode(video=0))) == 4


def test_folder_is_lossless_with_times(tmp_path):
    pictures = open_pictures(tmp_path / "out", (17, 9), 10)
    for index in range(3):
        pictures.write(picture(index, (17, 9)), index * 7)
    pictures.close()
    assert (tmp_path / "out" / "timestamps.txt").read_text().split() == ["0", "7", "14"]
    for index in range(3):
        got = cv2.imread(str(tmp_path / "out" / f"frame_{index:06d}.png"))[..., ::-1]
        np.testing.assert_array_equal(got, picture(index, (17, 9)))
    with pytest.raises(ValueError, match="not empty"):
        open_pictures(tmp_path / "out", (17, 9), 10)


def test_one_png_holds_one_picture(tmp_path):
    pictures = open_pictures(tmp_path / "a.png", (8, 8), None)
    pictures.write(picture(0, (8, 8)), 0)
    with pytest.raises(ValueError, match="folder"):
        pictures.write(picture(1, (8, 8)), 1)


def test_an_abort_leaves_nothing(tmp_path):
    pictures = open_pictures(tmp_path / "a.mp4", (16, 16), 30)
    pictures.write(picture(0, (16, 16)), 0)
    pictures.abort()
    assert list(tmp_path.iterdir()) == []


def test_names_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match=r"\.gif"):
        open_pictures(tmp_path / "a.gif", (8, 8), None)
    with pytest.raises(FileNotFoundError, match="create it first"):
        open_pictures(tmp_path / "no" / "a.mp4", (8, 8), None)


def test_a_picture_that_the_encoder_refuses_is_told_by_file_and_size(tmp_path):
    with pytest.raises(OSError, match=r"cannot encode .*wide\.mp4, 32x40000: .*too large, or no memory"):
        open_pictures(tmp_path / "wide.mp4", (32, 40_000), 30).write(np.zeros((32, 40_000, 3), np.uint8), 0)
