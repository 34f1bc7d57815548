"""What commands say of recorded drives: the reason where nothing can be read, counts that can be true, and no damage
where there is none."""

import json
import sqlite3

import pytest

from streamtok.commands import info, tokenize
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from tests.kit.drives import START_NS
from tests.kit.mcap_variants import Contents, Message, VariantWriter
from tests.kit.recordings import header
from tests.kit.recordings import info as stream_info
from tests.kit.shots import STEP_NS, regular, restamp, ros_message, write, write_rosbag


def told(path, capsys):
    """The JSON of `streamtok info`, and what it says."""
    assert info.main([str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert info.main([str(path)]) == 0
    return report, capsys.readouterr().out


def test_why_a_file_has_no_topics_is_said(tmp_path, capsys):
    path = write(tmp_path / "d.mcap", regular(5))
    path.write_bytes(path.read_bytes()[:30])
    assert info.main([str(path)]) == 1
    assert "no topics at all (it has no end: cut off" in capsys.readouterr().err


@pytest.mark.parametrize("features", [[], ["chunks"], ["chunks", "message index", "chunk index"]])
def test_a_file_without_statistics_is_not_called_damaged(tmp_path, capsys, features):
    shots = [Message(0, shot.log_ns, ros_message(shot)) for shot in regular(10)]
    contents = Contents([("sensor_msgs/msg/Image", "ros2msg", b"")], [("/cam/image_raw", "cdr", 1)], shots)
    (tmp_path / "d.mcap").write_bytes(VariantWriter(contents, frozenset(features)).write())
    report, said = told(tmp_path / "d.mcap", capsys)
    assert (report["cameras"]["cam"]["frames"], report["damage"]) == (10, [])
    assert "note:" not in said


def test_keyframes_are_a_number(tmp_path, capsys):
    with Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, min_free_bytes=0)) as recorder:
        recorder.add_stream(stream_info("cam0"))
        recorder.write_group(*header(0, "cam0"))
    keyframes = told(tmp_path / "d.mcap", capsys)[0]["streams"]["cam0"]["keyframes"]
    assert (keyframes, type(keyframes)) == (1, int)


@pytest.mark.parametrize("stamp_ns", [0, 1, START_NS - 53 * 365 * 86_400 * 10**9, START_NS + 86_400 * 10**12])
def test_a_clock_that_jumps_by_years_loses_no_thousands_of_millions(tmp_path, capsys, stamp_ns):
    stamps = {number: stamp_ns + number * STEP_NS for number in range(10)}
    report, _ = told(write(tmp_path / "d.mcap", restamp(regular(40), stamps)), capsys)
    assert (report["cameras"]["cam"]["frames"], report["cameras"]["cam"]["lost"]) == (40, 0)


@pytest.mark.parametrize("row", [1 << 30, 1 << 62])
def test_a_row_number_that_damage_made_is_not_counted_to(tmp_path, capsys, row):
    path = write_rosbag(tmp_path / "d.db3", regular(40))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE messages SET id = ? WHERE id = 30", (row,))
    database.close()
    path.write_bytes(path.read_bytes() + b"\0" * 100)  # it no longer ends with a page
    report, _ = told(path, capsys)
    camera = report["cameras"]["cam"]
    assert (camera["images"], camera["lost"]) == (40, 0)
    assert not [text for text in report["damage"] if any(word.isdecimal() and int(word) > 40 for word in text.split())]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_of_drives_may_begin_with_a_byte_order_mark(tmp_path, capsys, encoding):
    drives = [write(tmp_path / f"{name}.mcap", regular(5)) for name in "ab"]
    (tmp_path / "drives.txt").write_text("\r\n".join(map(str, drives)), encoding=encoding)
    given = ["--list", str(tmp_path / "drives.txt"), "--out", str(tmp_path / "out"), "--quiet", "--json"]
    assert tokenize.main([*given, "--model", "nano", "--size", "32x32"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 2


@pytest.mark.parametrize(("hours", "words"), [(2, "7200 s behind"), (-30, "108000 s ahead of"), (0, "")])
def test_cameras_with_clocks_hours_apart_have_their_own_times_and_it_is_said(tmp_path, capsys, hours, words):
    others = regular(40, START_NS - hours * 3600 * 10**9)
    report, said = told(write(tmp_path / "d.mcap", regular(40), others=others), capsys)
    for camera in report["cameras"].values():
        assert (camera["frames"], camera["seconds"], camera["frames_per_second"], camera["lost"]) == (40, 3.9, 10, 0)
    assert report["cameras"]["cam"]["clock_reason"] == ""
    assert (f"timed by header time ({words} other cameras, which is kept)" in said) == bool(words)
