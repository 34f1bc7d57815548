"""Image folders: layouts that people have, times by rule, damage counted."""

import contextlib
from decimal import Decimal

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtok.io.images.folder import list_images
from streamtok.io.images.times import UNITS, read_times, read_times_in_names
from streamtok.io.source import open_source

NUSCENES = "n015-2018-07-24-11-22-45+0800__CAM_FRONT__"


def save(folder, names, height=12, width=16):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        image = np.full((height, width, 3), 10 * number % 256, np.uint8)
        image[..., 0] = 200  # blue as OpenCV writes it: channels must come out in RGB order
        cv2.imwrite(str(folder / name), image)
    return folder


def play(spec):
    with open_source(str(spec)) as source:
        frames = list(source)
    return [(f.frame_id, f.capture_ns - source.start_ns) for f in frames], frames, source


def test_a_rate_and_natural_order(tmp_path):
    folder = save(tmp_path / "a", [f"frame_{n}.png" for n in range(12)])
    times, frames, source = play(f"images:{folder}?fps=20")
    assert times == [(n, n * 50_000_000) for n in range(12)]
    assert [frame.image[0, 0].tolist() for frame in frames] == [[10 * n, 10 * n, 200] for n in range(12)]
    assert (source.size, source.fps) == ((12, 16), 20)


def test_digits_that_are_no_numbers_are_letters_of_a_name(tmp_path):
    """A superscript two counts as a digit, and no whole number is read from it."""
    names = ["²3", "²10", "²", "①"]
    folder = save(tmp_path / "²", [f"{name}.png" for name in names])
    assert [image.path.stem for image in list_images(folder, fps=20)] == names


def test_kitti_raw_with_missing_frames_keeps_their_numbers(tmp_path):
    save(tmp_path / "image_02" / "data", [f"{n:010d}.png" for n in (0, 1, 2, 5, 6)])
    lines = [f"2011-09-26 13:02:2{5 + n // 10}.{n % 10}00000000" for n in range(8)]
    (tmp_path / "image_02" / "timestamps.txt").write_text("\n".join(lines) + "\n")
    for folder in ("image_02", "image_02/data"):
        times, _, _ = play(f"images:{tmp_path / folder}")
        assert times == [(n, n * 100_000_000) for n in (0, 1, 2, 5, 6)]


def test_kitti_odometry_has_one_file_for_all_cameras(tmp_path):
    save(tmp_path / "image_2", [f"{n:06d}.png" for n in range(3)])
    (tmp_path / "times.txt").write_text("0.000000e+00\n1.037360e-01\n2.074810e-01\n")
    assert play(f"images:{tmp_path / 'image_2'}")[0] == [(0, 0), (1, 103_736_000), (2, 207_481_000)]


def test_nuscenes_times_are_in_the_names(tmp_path):
    stamps = [1532402927612460, 1532402927662460, 1532402927762460]
    folder = save(tmp_path / "CAM_FRONT", [f"{NUSCENES}{stamp}.jpg" for stamp in stamps])
    assert play(f"images:{folder}")[0] == [(0, 0), (1, 50_000_000), (2, 150_000_000)]
    assert list_images(folder)[0].time_ns == stamps[0] * 1000


def test_euroc_table_names_its_files(tmp_path):
    stamps = [1403636579763555584 + n * 50_000_000 for n in range(3)]
    save(tmp_path / "cam0" / "data", [f"{stamp}.png" for stamp in stamps])
    table = "#timestamp [ns],filename\n" + "".join(f"{stamp},{stamp}.png\n" for stamp in stamps)
    (tmp_path / "cam0" / "data.csv").write_text(table)
    assert play(f"images:{tmp_path / 'cam0'}")[0] == [(n, n * 50_000_000) for n in range(3)]


def test_tum_list_beside_the_folder_sets_the_order(tmp_path):
    save(tmp_path / "rgb", ["b.png", "a.png"])
    (tmp_path / "rgb.txt").write_text("# colour images\n1305031102.175304 rgb/b.png\n1305031102.211214 rgb/a.png\n")
    images = list_images(tmp_path / "rgb")
    assert [image.path.name for image in images] == ["b.png", "a.png"]
    assert images[1].time_ns - images[0].time_ns == 35_910_000


def test_a_timestamps_file_can_be_named(tmp_path):
    folder = save(tmp_path / "a", ["0.png", "1.png"])
    (tmp_path / "mine.txt").write_text("10\n12\n")
    assert play(f"images:{folder}?timestamps={tmp_path / 'mine.txt'}")[0] == [(0, 0), (1, 2_000_000_000)]


def test_without_times_the_error_says_what_to_do(tmp_path):
    folder = save(tmp_path / "a", ["0.png", "1.png"])
    with pytest.raises(ValueError, match=r"timestamps.txt .*fps=10"):
        open_source(f"images:{folder}")


def test_a_folder_with_the_images_of_two_cameras_says_so_and_one_of_them_is_read(tmp_path, caplog):
    folder = save(tmp_path / "a", [f"{side}_{n}.png" for n in range(3) for side in ("left", "right")])
    assert len(play(f"images:{folder}?fps=10")[0]) == 6
    assert "left_0.png and right_0.png have the same number" in caplog.text
    caplog.clear()
    with open_source(f"images:{folder}?fps=10&names=right_*") as source:
        assert [image.path.name for image in source.images] == ["right_0.png", "right_1.png", "right_2.png"]
    save(folder, ["left__7.png", "left__8.png"])
    assert [image.path.name for image in list_images(folder, fps=1, log="left", names="*7*")] == ["left__7.png"]
    assert len(list_images(folder, fps=1, names="")) == 8
    assert not caplog.text
    (folder / "x.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no images \(.*\) named up_\*; it holds .png 8, .heic 1"):
        open_source(f"images:{folder}?fps=10&names=up_*")


@pytest.mark.parametrize("pattern", ["left_%d.png", "left_%04d.png", "left_*.png", "left_%02d.png?fps=25"])
def test_a_pattern_of_names_says_how_a_series_is_read(tmp_path, pattern):
    with pytest.raises(FileNotFoundError, match=r"for a series write images:.*\?names=left_\*.png&fps=25"):
        open_source(str(tmp_path / pattern))


def test_folders_of_folders_name_the_ones_with_images(tmp_path):
    save(tmp_path / "front", ["0.png"])
    with pytest.raises(ValueError, match="front"):
        open_source(f"images:{tmp_path}?fps=1")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_source(f"images:{tmp_path / 'none'}?fps=1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n2\n3\n", "3 times for 2 images"),
        ("1\nx\n", "line 2"),
        ("", "no times"),
        ("1 c.png\n", "names none"),
        ("1700000000 100000000\n1700000001 300000000\n", "names none"),  # s and ns
    ],
)
def test_timestamps_that_do_not_fit_are_refused(tmp_path, text, words):
    folder = save(tmp_path / "a", ["a.png", "b.png"])
    (folder / "timestamps.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        list_images(folder)


def test_damaged_images_and_times_that_run_backwards_are_counted_and_leave_a_gap(tmp_path):
    folder = save(tmp_path / "a", [f"{n}.png" for n in range(6)])
    (folder / "2.png").write_bytes(b"broken")
    (folder / "timestamps.txt").write_text("1.0\n1.1\n1.2\n1.3\n1.05\n1.5\n")
    times, _, source = play(f"images:{folder}")
    assert [frame_id for frame_id, _ in times] == [0, 1, 3, 5]
    assert source.counts["damaged"] == 1
    assert source.counts["backwards"] == 1
    assert source.size == (12, 16)


def test_original_files_are_kept_when_asked(tmp_path):
    folder = save(tmp_path / "a", ["0.png", "1.jpg"])
    with open_source(f"images:{folder}?fps=5", keep_packets=True) as source:
        frames = list(source)
    assert [frame.codec for frame in frames] == ["png", "jpeg"]
    assert frames[1].packet == (folder / "1.jpg").read_bytes()


@pytest.mark.parametrize(
    ("texts", "ns"),
    [
        (["1532402927612460", "1532402927662460"], 1532402927612460000),
        (["1403636579763555584", "1403636579813555584"], 1403636579763555584),
        (["1532402927612", "1532402927662"], 1532402927612000000),
        (["1305031102.175304", "1305031102.211214"], 1305031102175304000),
        (["1970-01-02 00:00:01.5"], 86_401_500_000_000),
        (["1970-01-02T02:00:01.5+02:00"], 86_401_500_000_000),
        (["1970/01/01T22:30:00.25-0130"], 86_400_250_000_000),
        (["1970-01-02T00:00:01,5Z"], 86_401_500_000_000),
        (["10", "12"], 10_000_000_000),
        (["0", "33.3", "66.7"], 0),
    ],
)
def test_times_as_people_write_them(texts, ns):
    assert read_times(texts).ns[0] == ns


def test_text_that_is_no_time_is_refused():
    assert read_times_in_names(["frame_000001", "frame_000002"]) is None
    for text in ("", "abc", "nan"):
        with pytest.raises(ValueError, match="no time"):
            read_times([text])


def test_images_that_are_passed_over_are_not_read(tmp_path):
    save(tmp_path, [f"{number:03d}.png" for number in range(6)])
    (tmp_path / "002.png").write_bytes(b"no image")
    with open_source(f"images:{tmp_path}?fps=10") as source:
        assert source.read().frame_id == 0
        source.skip_to(source.start_ns + 250_000_000)
        assert [frame.frame_id for frame in source] == [3, 4, 5]
        assert source.counts["damaged"] == 0
    (tmp_path / "005.png").write_bytes(b"no image")
    with open_source(f"images:{tmp_path}?fps=10") as source:
        source.skip_to(source.start_ns + 10**9)
        assert list(source) == []  # it ends, though no image was read


@given(
    unit=st.sampled_from(list(UNITS)),
    start_ns=st.one_of(st.integers(0, 40 * 86_400 * 10**9), st.integers(10**18, 2 * 10**18)),
    fps=st.floats(1.01, 199),
    notation=st.sampled_from(["{:f}", "{:e}", "{:.0f}"]),
    count=st.integers(2, 12),
)
def test_any_unit_of_any_clock_is_found_from_the_steps_or_refused(unit, start_ns, fps, notation, count):
    """Since boot, since the start or since 1970, as integers or in any notation: never another unit than the true."""
    step = max(1, round(10**9 / fps / UNITS[unit])) * UNITS[unit]
    true_ns = [start_ns // UNITS[unit] * UNITS[unit] + n * step for n in range(count)]
    texts = [notation.format(Decimal(ns) / UNITS[unit]) for ns in true_ns]
    assert read_times(texts, unit).ns == true_ns
    found = None
    with contextlib.suppress(ValueError):
        found = read_times(texts)
    contested = unit in ("ms", "ns") and 7 < start_ns / 86_400e9 < 48  # also a Unix time, in a unit 1000 times as long
    assert contested if found is None else found.ns == true_ns


@pytest.mark.parametrize(
    ("first", "step"), [(20240501120000, 1), (20240501120000250, 33), (133500000000000000, 333_333)]
)
def test_numbers_that_are_no_time_of_any_clock_are_refused(first, step):
    """A date written as digits, or units of 100 ns: no clock has run for so long."""
    with pytest.raises(ValueError, match="not clear"):
        read_times([str(first + n * step) for n in range(5)])


@pytest.mark.parametrize("step", ["1e-30", "2500", "2500000", "9e12"])
def test_a_unit_that_is_not_clear_is_refused_with_what_to_do(step):
    with pytest.raises(ValueError, match=r"not clear.*unit=s, ms, us or ns"):
        read_times([str(Decimal(step) * n) for n in range(5)])


@pytest.mark.parametrize("named", [False, True])
def test_a_clock_that_begins_anew_goes_on_with_a_gap_and_a_single_wrong_time_is_left_out(named, tmp_path, caplog):
    folder = save(tmp_path / "a", [f"{n}.png" for n in range(20)])
    times = [5_000_000_000 + n * 50_000_000 for n in range(12)] + [1_000_000_000 + n * 50_000_000 for n in range(8)]
    times[5] = 4_000_000_000
    lines = [f"{time_ns} {n}.png" if named else str(time_ns) for n, time_ns in enumerate(times)]
    (folder / "times.txt").write_text("\n".join(lines))
    found, _, source = play(f"images:{folder}")
    assert found == [(n + (n > 11), n * 50_000_000) for n in range(20) if n != 5]
    assert source.counts["backwards"] == 1
    assert caplog.text.count("clock_restarts") == 1


def test_a_table_with_more_columns_says_which_are_time_and_name(tmp_path):
    folder = save(tmp_path / "a", ["x.png", "y.png"])
    (folder / "data.csv").write_text("index,t_us,width,filename\n0,5000000,640,y.png\n1,5100000,640,x.png\n")
    assert [image.path.name for image in list_images(folder)] == ["y.png", "x.png"]
    assert play(f"images:{folder}")[0] == [(0, 0), (1, 100_000_000)]


@pytest.mark.parametrize(
    "lines",
    [
        ['"1700000000.0","a 1.png"', '"1700000000.1","a 2.png"'],
        ["1700000000.0, a 1.png", "1700000000.1, a 2.png"],
        ["1700000000.0,\ta 1.png", "1700000000.1,\ta 2.png"],
        ["1700000000.0,a 1.png;", "1700000000.1,a 2.png;"],
        ["# image timestamps", "1700000000.0,a 1.png", "1700000000.1,a 2.png"],
        ["# time of each image, in seconds", "1700000000.0\ta 1.png", "1700000000.1\ta 2.png"],
        ["timestamp,filename", "a 1.png,1700000000.0", "a 2.png,1700000000.1"],
        ["1700000000.0,a 1.png", "1700000000.1,a 2.png", "# end of, timestamps"],
        ["a 1.png;1700000000.0", "a 2.png;1700000000.1"],
        ["2023-11-14T22:13:20Z,a 1.png", "2023-11-14T22:13:20.1Z,a 2.png"],
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_other_programs_write_them(lines, encoding, tmp_path):
    folder = save(tmp_path / "a", ["a 1.png", "a 2.png"])
    (folder / "times.txt").write_text("\r\n".join(lines), encoding=encoding)
    images = list_images(folder)
    assert [image.path.name for image in images] == ["a 1.png", "a 2.png"]
    assert [image.time_ns for image in images] == [1_700_000_000_000_000_000, 1_700_000_000_100_000_000]


@pytest.mark.parametrize(
    "lines",
    [
        ["0 0.0", "1 0.1", "2 0.2"],
        ["0,0", "1,100000000", "2,200000000"],
        ["frame;time_ms", "0;0", "1;100", "2;200"],
        ["id\ttimestamp\tfilename", "7\t0\t0.png", "8\t100000\t1.png", "9\t200000\t2.png"],
        ["id timestamp (us) filename", "7 0 0.png", "8 100000 1.png", "9 200000 2.png"],
        ["id,time (ms),filename", "7,0,0.png,", "8,100,1.png,", "9,200,2.png,"],
        ["id,time (ms),filename,remark", "7,0,0.png", "8,100,1.png", "9,200,2.png"],
        ["0,0;0.png", "0,1;1.png", "0,2;2.png"],
        ["0.png\t0,0", "1.png\t0,1", "2.png\t0,2"],
        ["timestamp exposure", "0.0 1", "0.1 2", "0.2 1"],
        ["0.0 1", "0.1 2", "0.2 1"],
        ["0.0 0.01", "0.1 0.02", "0.2 0.03"],
        ["0 0.0 3.1", "1 0.1 4.1", "2 0.2 3.1"],
        ["frame,utc", "0,2024-05-01T12:00:00Z", "1,2024-05-01T12:00:00.1Z", "2,2024-05-01T12:00:00.2Z"],
    ],
)
def test_the_column_of_times_is_found(lines, tmp_path):
    folder = save(tmp_path / "a", ["0.png", "1.png", "2.png"])
    (folder / "times.txt").write_text("\n".join(lines))
    assert play(f"images:{folder}")[0] == [(n, n * 100_000_000) for n in range(3)]


@pytest.mark.parametrize("heading", ["timestamp exposure", "# time [s] gain [dB]"])
def test_a_column_of_a_camera_setting_holds_no_names(heading, tmp_path):
    folder = save(tmp_path / "a", ["0.png", "1.png", "2.png"])
    (folder / "times.txt").write_text("\n".join([heading, "0.0 1", "0.1 2", "0.2 0"]))
    found = [(image.path.name, image.time_ns) for image in list_images(folder)]
    assert found == [("0.png", 0), ("1.png", 100_000_000), ("2.png", 200_000_000)]


@pytest.mark.parametrize("heading", ["timestamp rgb", "# timestamp cam0", "time picture", "# times in"])
def test_a_column_whose_heading_may_be_anything_holds_the_names_that_are_there(heading, tmp_path):
    folder = save(tmp_path / "a", ["0.png", "1.png", "2.png"])
    (folder / "times.txt").write_text("\n".join([heading, "0.0 1", "0.1 2", "0.2 0"]))
    assert [image.path.name for image in list_images(folder)] == ["1.png", "2.png", "0.png"]


@pytest.mark.parametrize("headings", [["# camera timestamps [s]"], ["# timestamps in seconds"], ["# frame times"]])
@pytest.mark.parametrize("lines", [["0.0 a.png", "0.1 b.png"], ["a.png 0.0", "b.png 0.1"]])
def test_a_heading_in_prose_names_no_columns(headings, lines, tmp_path):
    folder = save(tmp_path / "f", ["a.png", "b.png", "c.png"])
    (folder / "times.txt").write_text("\n".join(headings + lines))
    found = [(image.path.name, image.time_ns) for image in list_images(folder)]
    assert found == [("a.png", 0), ("b.png", 100_000_000)]


@pytest.mark.parametrize("form", ["{0}.png {1}", "{1} {0}", "{1},{0}.png", "{1};{0}"])
@pytest.mark.parametrize("order", [[2, 0, 3, 1, 2], [2, 0, 0, 1, 3], [0, 0, 1, 1, 2, 2, 3, 3]])
def test_a_list_that_names_an_image_twice_names_images(form, order, tmp_path):
    folder = save(tmp_path / "a", [f"{n:04d}.png" for n in range(4)])
    (folder / "times.txt").write_text("\n".join(form.format(f"{n:04d}", at / 10) for at, n in enumerate(order)))
    found = [(int(image.path.stem), image.time_ns) for image in list_images(folder)]
    assert found == [(n, at * 10**8) for at, n in enumerate(order)]


@pytest.mark.parametrize("lines", [["# time frame", "0.0 2", "0.1 0", "0.2 1"], ["0 5 0", "1 6 100", "2 7 200"]])
def test_numbers_that_may_be_names_or_parts_of_times_are_refused(lines, tmp_path):
    folder = save(tmp_path / "a", [f"{n:04d}.png" for n in range(3)])
    (folder / "times.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="names none of the 3 images"):
        list_images(folder)


@pytest.mark.parametrize("first", [7, 50])
def test_numbers_that_are_names_of_files_are_names(first, tmp_path):
    folder = save(tmp_path / "a", [f"{first + n}.png" for n in range(4)])
    (folder / "times.txt").write_text("\n".join(f"{n + 1} {first + n}" for n in range(4)))
    assert [image.time_ns for image in list_images(folder, unit="s")] == [(n + 1) * 10**9 for n in range(4)]
    (folder / "times.txt").write_text("\n".join(f"{first + n} {n / 10}" for n in range(4)))
    assert [image.time_ns for image in list_images(folder)] == [n * 10**8 for n in range(4)]


@pytest.mark.parametrize(
    ("text", "refused"), [("3\n2\n1\n", True), ("3\n3\n3\n", False), ("1\n1\n2\n", False), ("2\n1\n", False)]
)
def test_times_most_of_which_fall_are_in_another_order(text, refused, tmp_path):
    folder = save(tmp_path / "a", [f"{n}.png" for n in range(text.count("\n"))])
    (folder / "times.txt").write_text(text)
    with pytest.raises(ValueError, match="most of its times fall") if refused else contextlib.nullcontext():
        list_images(folder, unit="s")


def test_times_since_boot_and_lost_digits(tmp_path, caplog):
    folder = save(tmp_path / "a", [f"{n}.png" for n in range(6)])
    file = folder / "timestamps.txt"
    file.write_text("\n".join(str(99_999_800_000_000 + n * 100_000_000) for n in range(6)))
    assert play(f"images:{folder}")[0] == [(n, n * 100_000_000) for n in range(6)]
    assert "10 pictures per second" in caplog.text
    file.write_text("# t_us\n" + "\n".join(str(n * 2500) for n in range(6)))
    with pytest.raises(ValueError, match=r"timestamps.txt: .* us \(one picture every 0.0025 s\)"):
        play(f"images:{folder}")
    assert play(f"images:{folder}?unit=us")[0][-1] == (5, 12_500_000)
    file.write_text("timestamp [us]\n" + "\n".join(str(n * 2500) for n in range(6)))
    assert play(f"images:{folder}")[0][-1] == (5, 12_500_000)
    file.write_text("\n".join(f"{1.7e9 + n / 10:.7e}" for n in range(6)))
    with pytest.raises(ValueError, match=r"only 1 differ.*fps="):
        play(f"images:{folder}")
    with pytest.raises(ValueError, match=r"'minutes'.*allowed: s, ms, us, ns"):
        play(f"images:{folder}?unit=minutes")
