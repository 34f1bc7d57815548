"""Folders of images as data sets have them: what of their times is missing, set back or damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamtok.drives.drive_names import list_drives
from streamtok.drives.open_drive import open_drive
from tests.kit.drives import START_NS
from tests.kit.shots import STEP_NS, regular, write
from tests.kit.videos import numbered, write_video

COUNT = 30


def put_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)


def date(number: int) -> str:
    return f"2011-09-26 13:02:{number * STEP_NS / 1e9:012.9f}"


def write_kitti(folder: Path, lines: list[str], numbers: range | list[int] = range(COUNT), form: str = "{}") -> Path:
    """One camera of KITTI; `form` is what surrounds the lines of timestamps.txt."""
    for number in numbers:
        put_image(folder / "image_02" / "data" / f"{number:010d}.png", number)
    (folder / "image_02" / "timestamps.txt").write_text(form.format("\r\n".join(lines)), encoding="utf-8")
    return folder


def write_euroc(folder: Path, numbers: list[int]) -> Path:
    for number in numbers:
        put_image(folder / "mav0" / "cam0" / "data" / f"{START_NS + number * STEP_NS}.png", number)
    return folder


def write_tum(folder: Path, listed: Callable[[int], bool]) -> Path:
    for number in range(COUNT):
        put_image(folder / "rgb" / f"{number:05d}.png", number)
    lines = [f"{(START_NS + n * STEP_NS) / 1e9:.6f} rgb/{n:05d}.png" for n in range(COUNT) if listed(n)]
    (folder / "rgb.txt").write_text("# timestamp filename\n" + "\n".join(lines))
    return folder


def read(path: Path) -> tuple[list[int], list[int], dict, str]:
    """(numbers in the pictures, frame ids, account, notes) of a drive of one camera."""
    with open_drive(path) as drive:
        frames = list(drive)
        (account,) = drive.account().values()
    assert account["images"] == account["frames"] + account["damaged"] + account["backwards"] + account["untimed"]
    return [int(f.image[0, 0, 0]) for f in frames], [f.frame_id for f in frames], account, " ".join(drive.notes)


def wrap(times: list[float]) -> str:
    rows = [", ".join(map(str, times[n : n + 4])) for n in range(0, len(times), 4)]
    return "[\n  " + ",\n  ".join(rows) + "\n]\n"


ALL = list(range(COUNT))
DATES = [date(number) for number in ALL]
BLANK = [date(number) if number not in range(10, 14) else "  " for number in ALL]


@pytest.mark.parametrize("form", ["{}", "\ufeff{}\r\n", "# a heading\r\n{}", "\r\n{}\r\n\r\n"])
def test_however_the_file_of_times_was_written(tmp_path, form):
    numbers, ids, account, _ = read(write_kitti(tmp_path / "d", DATES, form=form))
    assert (numbers, ids, account["lost"]) == (ALL, ALL, 0)


@pytest.mark.parametrize("name", ["timestamps.csv", "times.csv"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
@pytest.mark.parametrize("heading", ["frame{0}time", "id{0}filename{0}stamp"])
def test_tables_of_times_are_read_however_their_columns_are_set_apart(tmp_path, name, between, heading):
    for number in ALL:
        put_image(tmp_path / f"{number:06d}.png", number)
    file = "{0}{1:06d}.png" if "file" in heading else ""
    rows = [f"{n}{file}{{0}}{n / 10:.3f}".format(between, n) for n in ALL]
    (tmp_path / name).write_text("\n".join([heading.format(between), *rows]))
    with open_drive(tmp_path) as drive:
        assert [frame.capture_ns for frame in drive] == [n * 100_000_000 for n in ALL]


def test_a_blank_line_is_a_gap_unless_its_image_is_there(tmp_path):
    there = [number for number in ALL if number not in range(10, 14)]
    numbers, ids, account, _ = read(write_kitti(tmp_path / "gone", BLANK, there))
    assert (numbers, ids, account["lost"], account["guessed"]) == (there, there, 4, 0)
    numbers, ids, account, notes = read(write_kitti(tmp_path / "there", BLANK))
    assert (numbers, ids, account["lost"], account["guessed"]) == (ALL, ALL, 0, 4)
    assert "between their neighbours'" in notes


def test_a_few_images_behind_the_last_line_of_times_are_left_out_and_said(tmp_path):
    numbers, _, account, notes = read(write_kitti(tmp_path, DATES[:-3]))
    assert numbers == ALL[:-3]
    assert account["untimed"] == 3
    assert "without a time" in notes


@pytest.mark.parametrize("dates", [DATES[::10], DATES[:-4], BLANK[:15]])
def test_times_of_far_fewer_images_are_not_taken_for_those_of_the_first(tmp_path, dates):
    with pytest.raises(ValueError, match="times for 30 images; expected one line per image"):
        read(write_kitti(tmp_path, dates))


@pytest.mark.parametrize("form", [json.dumps, lambda times: json.dumps(times, indent=1), wrap])
def test_a_list_of_times_in_json_is_read_however_its_lines_are_broken(tmp_path, form):
    for number in ALL:
        put_image(tmp_path / "front_camera" / f"{number:02d}.jpg", number)
    times = [1557539924.5 + number / 10 for number in ALL]
    (tmp_path / "front_camera" / "timestamps.json").write_text(form(times))
    with open_drive(tmp_path) as drive:
        frames = list(drive)
    assert [frame.capture_ns for frame in frames] == [round(time * 10) * 10**8 for time in times]
    assert [frame.frame_id for frame in frames] == ALL


@pytest.mark.parametrize(
    "form",
    [
        lambda times: {f"{time}.jpg": time for time in times},
        lambda times: {"timestamps": times},
        lambda times: [{"t": time} for time in times],
        lambda times: [times],
        lambda times: [],
    ],
)
def test_json_of_another_shape_is_no_file_of_times(tmp_path, form):
    times = [1557539924500000000 + number * STEP_NS for number in ALL]
    for number, time in enumerate(times):
        put_image(tmp_path / "front" / f"{time}.png", number)
    (tmp_path / "front" / "timestamps.json").write_text(json.dumps(form(times)))
    with open_drive(tmp_path) as drive:
        assert [frame.capture_ns for frame in drive] == times


@pytest.mark.parametrize("inside", ["data_rect", "data_rgb"])
def test_times_of_kitti_360_are_found(tmp_path, inside):
    write_kitti(tmp_path / "data_2d_raw" / "drive_0000_sync", DATES)
    (tmp_path / "data_2d_raw/drive_0000_sync/image_02/data").rename(
        tmp_path / "data_2d_raw/drive_0000_sync/image_02" / inside
    )
    assert read(tmp_path)[0] == ALL


def test_cameras_of_kitti_360_are_one_drive(tmp_path):
    for run in ("2013_05_28_drive_0000_sync", "2013_05_28_drive_0002_sync"):
        for camera, inside in (("image_00", "data_rect"), ("image_01", "data_rect"), ("image_02", "data_rgb")):
            for number in range(COUNT):
                put_image(tmp_path / run / camera / inside / f"{number:010d}.png", number)
            (tmp_path / run / camera / "timestamps.txt").write_text("\n".join(map(date, range(COUNT))))
    first, second = list_drives(str(tmp_path))
    assert (Path(first).name, Path(second).name) == ("2013_05_28_drive_0000_sync", "2013_05_28_drive_0002_sync")
    with open_drive(first) as drive:
        assert len(drive.streams) == 3
        assert len(list(drive)) == 3 * COUNT


@pytest.mark.parametrize("runs", [("camera-day1", "camera-day2"), ("camera_1", "camera_2", "camera_3")])
def test_recordings_of_several_days_are_a_drive_each_whatever_their_folders_are_called(tmp_path, runs):
    for day, run in enumerate(runs):
        for number in range(COUNT):
            time = START_NS / 1e9 + 86_400 * (day // 2 if len(runs) > 2 else day) + number / 10
            for camera in ("left", "right"):
                put_image(tmp_path / run / camera / f"{time:.6f}.png", number)
    assert [Path(drive).name for drive in list_drives(str(tmp_path))] == [*runs]


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_grey_pictures_of_16_bits_are_said_to_be_distances_perhaps(tmp_path, suffix):
    write_tum(tmp_path, lambda number: True)
    for number in range(COUNT):
        path = tmp_path / "depth" / f"{(START_NS + number * STEP_NS) / 1e9:.6f}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        depth = np.full((8, 8), 5000, np.uint16)
        Image.fromarray(depth).save(path) if suffix == "png" else np.save(path, depth)
    with open_drive(tmp_path) as drive:
        assert len(list(drive)) == 2 * COUNT
        assert ["depth: grey pictures of 16 bits" in note for note in drive.notes].count(True) == 1
        assert not any(note.startswith("rgb:") for note in drive.notes)


@pytest.mark.parametrize(
    ("video", "beside", "said"),
    [
        ("videos/observation.images.top/chunk-000/file-000.mp4", "meta/info.json", "several episodes"),
        ("videos/chunk-000/observation.images.top/episode_000000.mp4", "meta/info.json", "of LeRobot"),
        ("0/video.hevc", "0/global_pose/frame_times", "frame_times"),
        ("route--0/fcamera.hevc", "route--0/rlog.zst", "rlog.zst"),
        ("front.mp4", "front.timestamps.parquet", "front.timestamps.parquet"),
        ("front.mp4", "timestamps.txt", "timestamps.txt"),
        ("front.mp4", "frontTimestamps.csv.zst", "frontTimestamps.csv.zst"),
        ("front.mp4", "calibration.yaml", ""),
        ("front.mp4", "tokens.parquet", ""),
        ("front.mp4", "postage_stamp.png", ""),
        ("front.mp4", "run-time.log", ""),
        ("front.mp4", "Times New Roman.ttf", ""),
        ("front.mp4", "times.png", ""),
        ("front.mp4", "stampede.md", ""),
        ("front.mp4", "rlog-tool.py", ""),
        ("front.mp4", "sometimes.txt", ""),
    ],
)
def test_times_beside_a_video_that_are_not_used_are_said(tmp_path, video, beside, said):
    for name in (video, beside):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    write_video(tmp_path / "a.mp4", numbered(5)).rename(tmp_path / video)
    (tmp_path / beside).write_text("{}")
    for name in (tmp_path, tmp_path / video):
        with open_drive(name) as drive:
            assert (said in " ".join(drive.notes)) if said else not drive.notes


def test_images_without_times_are_named_however_deep_they_lie(tmp_path):
    folder = tmp_path / "raw" / "kitchen" / "00" / "traj0" / "images0"
    for number in ALL:
        put_image(folder / f"im_{number}.png", number)
    with pytest.raises(ValueError, match=rf"images0: no times for its {COUNT} images"):
        open_drive(tmp_path)


def test_a_folder_of_clips_is_no_vehicle_with_a_hundred_cameras(tmp_path):
    for number in range(64):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video")
    assert list_drives(str(tmp_path)) == [str(tmp_path)]
    (tmp_path / "64.mp4").write_bytes(b"no video")
    assert len(list_drives(str(tmp_path))) == 65
    with pytest.raises(ValueError, match=r"65 drives that do not belong together.*more than 64 videos are clips"):
        open_drive(tmp_path)


@pytest.mark.parametrize(
    ("names", "lengths", "reason"),
    [
        (["episode_000000", "episode_000001"], [20, 20], "named as episodes"),
        (["file-000", "file-001"], [20, 20], "named as episodes"),
        (["cabc30fc-e7726578", "b1c66a42-6f7d68ca"], [20, 20], "named as episodes"),
        (["20190809122700", "20190809122800"], [20, 20], "one camera at several times"),
        (["campus_1", "campus_2"], [20, 40], "different lengths"),
        (["2019-08-09_12-27-front", "2019-08-09_12-28-front"], [20, 20], "one camera at several times"),
        (["2023_0501_123000_0001F", "2023_0501_123300_0002F"], [20, 20], "one camera at several times"),
        (["REC_2023_05_01_12_30_00_F", "REC_2023_05_01_12_31_00_F"], [20, 20], "one camera at several times"),
        (["NO20230501-123000-000001F", "NO20230501-123100-000002F"], [20, 20], "one camera at several times"),
        (["front_1682944200", "front_1682944260"], [20, 20], "one camera at several times"),
        (
            [f"{name}-5dcf-4b53-a351-bf2c5deb6124.camera_front" for name in ("25cd4769", "2edf278f")],
            [20, 20],
            "one cam",
        ),
        (["GX010123", "GX020123"], [20, 20], "named as episodes"),
        (["IMG_0001", "IMG_0002"], [20, 20], "named as episodes"),
        (["2023-05-01_12-30-00_22008760", "2023-05-01_12-30-00_24400334"], [20, 20], ""),
        (["2023-05-01_12-30-00_22008760", "2023-05-01_12-30-01_24400334"], [20, 20], ""),
        (["front_1682944200", "rear_1682944201"], [20, 20], ""),
        (["1682944200", "1682944260"], [20, 20], "one camera at several times"),
        (["cam_1682944200", "cam_1682944201"], [20, 20], ""),
        (["Camera1682944200", "Camera1682944201"], [20, 20], ""),
        (["1682944200", "1798765432"], [20, 20], ""),
        (["1430922071234", "1430922071777"], [20, 20], ""),
        (["city", "highway"], [20, 40], "different lengths"),
        (["2019-08-09_12-27-front", "2019-08-09_12-27-back"], [20, 20], ""),
        (["cam_001", "cam_002"], [20, 40], ""),
        (["camA", "cameraB"], [20, 40], ""),
        (["23404442", "29838012"], [20, 20], ""),
        (["12345678901234", "12345678901299"], [20, 20], ""),
        (["0a1b2c3d", "0a1b2c3e"], [20, 20], ""),
        (["sensor_000", "sensor_001"], [20, 20], ""),
        (["fcamera", "ecamera", "dcamera"], [20, 20, 5], ""),
    ],
)
def test_videos_in_a_folder_are_cameras_or_clips_by_their_names_and_lengths(tmp_path, names, lengths, reason):
    for name, count in zip(names, lengths, strict=True):
        write_video(tmp_path / f"{name}.mp4", numbered(count), range(0, count * 512, 512))
    assert len(list_drives(str(tmp_path))) == (len(names) if reason else 1)
    if reason:
        with pytest.raises(ValueError, match=f"{len(names)} drives that do not belong together .*{reason}"):
            open_drive(tmp_path)
    else:
        with open_drive(tmp_path) as drive:
            assert drive.streams == sorted(names)


def test_videos_that_differ_in_their_suffix_alone_are_a_drive_each(tmp_path):
    for name in ("front.mp4", "front.mkv"):
        write_video(tmp_path / name, numbered(5), range(0, 5 * 512, 512))
    assert len(list_drives(str(tmp_path))) == 2


def test_a_file_that_is_cut_off_splits_no_vehicle(tmp_path):
    for name, count in (("a", 20), ("b", 40)):
        write_video(tmp_path / f"{name}.ts", numbered(count), range(0, count * 512, 512))
    assert list_drives(str(tmp_path)) == [str(tmp_path)]


def test_a_pipe_or_a_folder_called_as_a_video_is_none(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").mkdir()
    write_video(tmp_path / "front.mp4", numbered(5), range(0, 5 * 512, 512))
    assert list_drives(str(tmp_path)) == [str(tmp_path)]
    with open_drive(tmp_path) as drive:
        assert [frame.stream for frame in drive] == 5 * ["front"]


def test_a_video_that_is_a_link_to_nothing_is_reported(tmp_path):
    (tmp_path / "front.mp4").symlink_to("not_fetched")
    write_video(tmp_path / "left.mp4", numbered(5), range(0, 5 * 512, 512))
    with open_drive(tmp_path) as drive, pytest.raises(FileNotFoundError, match=r"front\.mp4"):
        list(drive)


def test_folders_in_a_folder_called_data_are_found(tmp_path):
    for camera in ("cam01", "cam03"):
        for number in range(COUNT):
            put_image(tmp_path / "data" / "000076" / camera / f"{1616343525200 + 500 * number}.png", number)
    with open_drive(tmp_path) as drive:
        assert sorted(drive.streams) == ["cam01", "cam03"]


def test_a_gap_in_the_times_is_a_gap_where_nothing_numbers_the_images(tmp_path):
    there = [number for number in ALL if number not in range(4, 9)]
    numbers, ids, account, _ = read(write_euroc(tmp_path / "d", there))
    assert (numbers, ids, account["lost"]) == (there, there, 5)


def test_images_that_a_list_lacks_are_told(tmp_path):
    numbers, _, account, notes = read(write_tum(tmp_path / "d", lambda number: number % 3 > 0))
    assert numbers == [number for number in ALL if number % 3]
    assert (account["images"], account["untimed"], account["lost"]) == (30, 10, 0)
    assert "10 images without a time are left out, the first 00000.png" in notes


def test_a_clock_that_was_set_back_loses_nothing(tmp_path):
    lines = [date(number if number < 15 else number - 9) for number in ALL]
    numbers, ids, account, notes = read(write_kitti(tmp_path / "d", lines))
    assert (numbers, ids, account["lost"]) == (ALL, ALL, 0)
    assert "the clock was set back by 0.8" in notes


def test_an_image_that_is_left_out_is_not_missing_as_well(tmp_path):
    _, _, account, _ = read(write_kitti(tmp_path / "d", [date(6 if number == 7 else number) for number in ALL]))
    assert (account["frames"], account["backwards"], account["lost"]) == (29, 1, 0)


def test_a_preview_hides_no_images(tmp_path):
    folder = write_kitti(tmp_path / "d", DATES)
    for path in (
        folder / "preview.png",
        folder / "image_02" / "preview.png",
        folder / "image_02/data/._0000000000.png",
    ):
        put_image(path, 0)
    assert read(folder)[0] == ALL


def test_what_lies_beside_a_recording_is_named(tmp_path):
    write(tmp_path / "d.mcap", regular(5))
    write_euroc(tmp_path / "frames", ALL)
    with open_drive(tmp_path) as drive:
        assert len(list(drive)) == 5
        assert "1 other drives in the folder are left out: frames" in " ".join(drive.notes)
    assert list_drives(str(tmp_path)) == [str(tmp_path / "d.mcap"), str(tmp_path / "frames")]


def test_a_folder_whose_recordings_are_all_empty_says_so(tmp_path):
    (tmp_path / "d_0.mcap").touch()
    with pytest.raises(ValueError, match=r"holds no drive.*d_0.mcap is empty"):
        open_drive(tmp_path)


def test_links_between_folders_show_no_drive_twice(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / "day" / one).mkdir(parents=True, exist_ok=True)
        (tmp_path / "day" / one / "other").symlink_to(tmp_path / "day" / other)
    write(tmp_path / "day" / "b" / "d.mcap", regular(5))
    assert list_drives(str(tmp_path / "day")) == [str(tmp_path / "day" / "b")]


def test_links_in_circles_show_no_camera_twice(tmp_path):
    for camera in ("front", "rear"):
        for number in range(5):
            put_image(tmp_path / "e" / camera / f"{START_NS + number * STEP_NS}.png", number)
    (tmp_path / "e" / "up").symlink_to(tmp_path / "e")
    (tmp_path / "e" / "front" / "other").symlink_to(tmp_path / "e" / "rear")
    for path in (tmp_path / "e", tmp_path):
        with open_drive(path) as drive:
            assert sorted(drive.streams) == ["front", "rear"]


@pytest.mark.parametrize("below", [".", "2026/05/06"])
def test_what_is_wrong_with_a_folder_is_said_once(tmp_path, caplog, below):
    write_tum(tmp_path / below / "front", lambda number: number % 10 != 4)
    put_image(tmp_path / below / "maps" / "data" / "a.png", 0)
    with open_drive(tmp_path) as drive:
        assert drive.streams == ["rgb"]
    assert caplog.text.count("event=images_without_time") == 1
    assert caplog.text.count("event=left_out") == 1
