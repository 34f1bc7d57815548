"""Folders as the data sets lay them out, sizes, and files that cannot be read."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from streamtok.evaluation.dataset import ClipSet, find_clips, fit
from tests.kit.pictures import scene, write_video


def picture(path: Path, value: int = 90, size: tuple[int, int] = (32, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix.lower(), np.full((*size, 3), value, np.uint8))
    assert ok
    path.write_bytes(data.tobytes())


def names(root: Path, **options: bool) -> list[str]:
    return [clip.name for clip in find_clips([root], **options)]


def test_davis_gives_one_clip_per_sequence_and_no_masks(tmp_path: Path):
    for sequence in ("bear", "dog"):
        for number in range(3):
            picture(tmp_path / "DAVIS/JPEGImages/480p" / sequence / f"{number:05}.jpg", 20 * number)
            picture(tmp_path / "DAVIS/Annotations/480p" / sequence / f"{number:05}.png")
    found = find_clips([tmp_path / "DAVIS"])
    assert [clip.name for clip in found] == ["JPEGImages/480p/bear", "JPEGImages/480p/dog"]
    assert names(tmp_path / "DAVIS/JPEGImages/480p") == ["bear", "dog"]
    assert names(tmp_path / "DAVIS/JPEGImages/480p/bear") == ["bear"]
    clip = ClipSet(found, lines=None, frames=3, group=1).read(found[0])
    assert clip.fps == 24
    assert clip.frames[:, 0, 0, 0].tolist() == pytest.approx([0, 20, 40], abs=2)


def test_frames_of_a_sequence_are_in_the_order_of_their_numbers(tmp_path: Path):
    for number in (10, 9, 2):
        picture(tmp_path / "frames" / "drive" / f"img_{number}.png", number * 10)
    clips = ClipSet(find_clips([tmp_path]), lines=None, group=1)
    assert next(iter(clips)).frames[:, 0, 0, 0].tolist() == [20, 90, 100]


def test_tokenbench_gives_every_video_of_a_tree(tmp_path: Path):
    for name in ("bdd100k/a.mp4", "panda/deep/b.MP4", "panda/list.txt"):
        write_video(tmp_path / name, scene(2)) if not name.endswith("txt") else (tmp_path / name).write_text("b")
    assert names(tmp_path) == ["bdd100k/a", "panda/deep/b"]


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("coco", ["val2017/000000000139.jpg", "val2017/000000000285.jpg"]),
        ("imagenet", ["val/n01440764/ILSVRC2012_val_00000293.JPEG", "val/n01443537/ILSVRC2012_val_00000236.JPEG"]),
        ("ffhq", ["images1024x1024/00000/00000.png", "images1024x1024/01000/01000.png"]),
        ("celeba-hq", ["CelebA-HQ-img/0.jpg", "CelebA-HQ-img/1.jpg"]),
        ("voc", ["VOC2012/JPEGImages/2007_000027.jpg", "VOC2012/JPEGImages/2007_000032.jpg"]),
    ],
)
def test_picture_sets_give_one_clip_per_picture(tmp_path: Path, layout: str, files: list[str]):
    for file in files:
        picture(tmp_path / layout / file)
    clips = ClipSet(find_clips([tmp_path / layout]), lines=16)
    assert [clip.name for clip in clips] == [str(Path(file).with_suffix("")) for file in files]
    assert [clip.frames.shape for clip in clips] == [(1, 16, 24, 3)] * 2
    assert not clips.skipped


def test_the_layout_can_be_told(tmp_path: Path):
    for number in range(3):
        picture(tmp_path / "drive" / f"{number}.png")
    assert len(names(tmp_path)) == 3
    assert names(tmp_path, images=False) == ["drive"]


def test_files_of_one_name_stay_apart(tmp_path: Path):
    for place in ("a", "b"):
        picture(tmp_path / place / "0.png")
    assert [c.name for c in find_clips([tmp_path / "a/0.png", tmp_path / "b/0.png"])] == ["0", "0 (2)"]


def test_fit_averages_areas_and_crops_about_the_centre():
    image = 2 * np.arange(32, dtype=np.uint8).reshape(4, 8, 1).repeat(3, 2)
    small = fit(image, lines=2, multiple=2)
    assert small[..., 0].tolist() == [[9, 13, 17, 21], [41, 45, 49, 53]]
    assert fit(image, lines=None, multiple=4).tolist() == image.tolist()
    assert fit(image[:, :6], lines=None, multiple=4)[0, :, 0].tolist() == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("source", "lines", "expected"),
    [
        ((720, 1280), 256, (256, 448)),
        ((480, 640), 256, (256, 336)),
        ((1280, 720), 256, (448, 256)),
        ((120, 200), 256, (120, 200)),
        ((100, 203), 256, (96, 200)),
        ((800, 1280), None, (800, 1280)),
    ],
)
def test_sizes_after_fitting(source: tuple[int, int], lines: int | None, expected: tuple[int, int]):
    assert fit(np.zeros((*source, 3), np.uint8), lines, 8).shape[:2] == expected


def test_a_picture_below_the_grid_is_refused():
    with pytest.raises(ValueError, match="6x40 is smaller than the token grid's step of 8"):
        fit(np.zeros((6, 40, 3), np.uint8), 256, 8)


def test_frame_counts_are_cut_to_whole_groups(tmp_path: Path):
    write_video(tmp_path / "a.mp4", scene(12))
    clips = ClipSet(find_clips([tmp_path]), lines=None, frames=33, group=4)
    clip = next(iter(clips))
    assert len(clip.frames) == 9
    assert clip.fps == 24


def test_files_that_cannot_be_judged_are_named_and_passed_over(tmp_path: Path):
    picture(tmp_path / "thin.png", size=(8, 48))
    write_video(tmp_path / "good.mp4", scene(5))
    (tmp_path / "bad.mp4").write_bytes(b"not a video" * 50)
    (tmp_path / "empty.png").touch()
    clips = ClipSet(find_clips([tmp_path]), lines=None)
    assert [clip.name for clip in clips] == ["good"]
    assert set(clips.skipped) == {"bad", "empty", "thin"}
    assert "no frame that can be decoded" in clips.skipped["bad"]
    assert "judged at 8x48, sides of 11 pixels are needed" in clips.skipped["thin"]


def test_places_with_nothing_to_judge_are_errors(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="missing does not exist"):
        find_clips([tmp_path / "missing"])
    with pytest.raises(ValueError, match="no videos or pictures"):
        find_clips([tmp_path])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="unknown kind of file"):
        find_clips([tmp_path / "notes.txt"])
