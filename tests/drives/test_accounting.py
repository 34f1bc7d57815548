"""Every image of a drive is a frame, or named as left out with the reason, whatever happened to its times and files."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.drives.open_drive import open_drive
from streamtok.recording.mcap_file import McapFile, RawMessage
from streamtok.tokens.inspecting import inspect
from streamtok.types import Frame
from tests.kit.drives import START_NS, picture, write_bag1, write_bag2, write_mcap
from tests.kit.shots import STEP_NS, Read, Shot, read, regular, restamp, write, write_rosbag


def test_stamps_that_stand_still_for_long_do_not_set_the_clock_back(tmp_path):
    shots = restamp(regular(200), dict.fromkeys(range(40, 200), START_NS + 40 * STEP_NS))
    found = read(write(tmp_path / "d.mcap", shots))
    assert found.numbers == list(range(200))
    assert found.times == sorted(set(found.times))
    assert not any("set back" in note for note in found.notes)


ALL = list(range(80))
SIM = 10 * 10**9
KINDS = {
    "regular": (regular(80), "header"),
    "stamps stand still": (restamp(regular(80), dict.fromkeys(ALL, START_NS)), "publish"),
    "whole seconds": (restamp(regular(80), {n: START_NS + n // 10 * 10**9 for n in ALL}), "publish"),
    "no stamps": (restamp(regular(80), dict.fromkeys(ALL, 0)), "publish"),
    "zeros before /clock": (restamp(regular(80, SIM), dict.fromkeys(range(5), 0)), "header"),
    "before 1970": (regular(80, -9 * 10**9), "publish"),
    "a few before 1970": (restamp(regular(80, SIM), dict.fromkeys(range(10, 80, 20), -5)), "header"),
    "some zeros": (restamp(regular(80, SIM), dict.fromkeys(range(10, 80, 20), 0)), "header"),
    "stands still for a while": (restamp(regular(80), dict.fromkeys(range(40, 46), START_NS + 40 * STEP_NS)), "header"),
    "set back": (restamp(regular(80), {n: START_NS + (n - 35) * STEP_NS for n in range(40, 80)}), "header"),
    "set back by little": (restamp(regular(80), {n: START_NS + (n - 7) * STEP_NS for n in range(40, 80)}), "header"),
    "looped": (restamp(regular(80), {n: START_NS + n % 20 * STEP_NS for n in ALL}), "header"),
    "set forward": (restamp(regular(80, SIM), {n: START_NS + n * STEP_NS for n in range(40, 80)}), "header"),
    "set forward with the clock of logging": (
        [
            dataclasses.replace(shot, stamp_ns=stamp, log_ns=stamp + 7_000_000)
            for shot in regular(80)
            for stamp in [shot.number * STEP_NS + (START_NS if shot.number >= 20 else SIM)]
        ],
        "header",
    ),
    "from zero on": (regular(80, 0), "header"),
    "two at a time the wrong way round": (
        [regular(80)[n ^ 1] for n in ALL],
        "header",
    ),
    "stray": (restamp(regular(80), {40: START_NS - 10**15}), "header"),
    "bursts": ([Shot(n, 0, START_NS + n // 10 * 10**9 + n % 10 * 1_000_000) for n in ALL], "publish"),
    "long bursts": ([Shot(n, 0, START_NS + n // 27 * 10**9 * 3 + n % 27 * 900_000) for n in ALL], "publish"),
    "beyond 63 bits": ([dataclasses.replace(shot, log_ns=(1 << 63) + shot.log_ns) for shot in regular(80)], "header"),
    "a new rate": (
        restamp(regular(80), {n: START_NS + (3 * n - 80) * STEP_NS for n in range(40, 80)}),
        "header",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_image_is_lost_to_its_times(tmp_path, kind):
    shots, clock = KINDS[kind]
    found = read(write(tmp_path / "d.mcap", shots))
    left_out = {"stray": [40]}.get(kind, [])
    assert found.numbers == [number for number in ALL if number not in left_out]
    assert found.account["clock"] == clock
    assert bool(found.account["clock_reason"]) == (clock != "header")
    lost = {"a new rate": 12, "stray": 1}.get(kind, 0)
    assert found.account["lost"] <= lost
    if not lost:
        assert found.ids == list(range(80))


@pytest.mark.parametrize("kind", ["regular", "set forward", "set back", "looped"])
def test_a_clock_that_was_set_adds_no_time_to_a_drive(tmp_path, kind):
    report = inspect(write(tmp_path / "d.mcap", KINDS[kind][0])).report
    assert 7.5 <= report["cameras"]["cam"]["seconds"] <= 7.9


@pytest.mark.parametrize("seconds", [6, 3600, 86_400])
def test_a_clock_that_was_set_forward_while_the_log_went_on_adds_no_time_to_a_drive(tmp_path, seconds):
    shots = restamp(regular(80), {n: START_NS + n * STEP_NS + seconds * 10**9 for n in range(40, 80)})
    report = inspect(write(tmp_path / "d.mcap", shots)).report
    assert 7.7 <= report["cameras"]["cam"]["seconds"] <= 7.9


@pytest.mark.parametrize("log_ns", [0, 1, START_NS - 10**16, START_NS + 10**13, (1 << 64) - 1])
def test_an_image_that_was_logged_at_a_wrong_time_keeps_its_place(tmp_path, log_ns):
    shots = regular(80)
    shots[40:42] = [dataclasses.replace(shot, log_ns=log_ns) for shot in shots[40:42]]
    found = read(write(tmp_path / "d.mcap", shots))
    assert (found.numbers, found.ids, found.account["lost"]) == (ALL, ALL, 0)
    assert found.times == [shot.stamp_ns for shot in shots]


DELAYS = {
    "any order": np.random.default_rng(1).integers(0, 10, 250),
    "worse later": np.random.default_rng(1).integers(0, [12] * 60 + [40] * 190),
    "a few late ones": np.minimum(np.random.default_rng(1).pareto(1.2, 250) * 2, 60),
}


@pytest.mark.parametrize("back_ns", [0, 100 * 10**9])
@pytest.mark.parametrize("delays", DELAYS)
def test_no_image_is_lost_to_a_network_that_delivers_in_any_order(tmp_path, delays, back_ns):
    late = (DELAYS[delays] * STEP_NS).astype(int).tolist()
    shots = [
        dataclasses.replace(shot, log_ns=shot.stamp_ns + late, stamp_ns=shot.stamp_ns - back_ns * (shot.number >= 150))
        for shot, late in zip(regular(250), late, strict=True)
    ]
    found = read(write(tmp_path / "d.mcap", sorted(shots, key=lambda shot: shot.log_ns)))
    assert sorted(found.numbers) == list(range(250))


def test_a_copy_is_a_copy_and_takes_no_number(tmp_path):
    shots = regular(80)
    late = [dataclasses.replace(shot, log_ns=shot.log_ns + 150_000_000) for shot in shots]
    merged = sorted(shots + late, key=lambda shot: shot.log_ns)
    found = read(write(tmp_path / "d.mcap", merged))
    assert (found.numbers, found.ids) == (ALL, ALL)
    assert (found.account["duplicates"], found.account["lost"]) == (80, 0)


@pytest.mark.parametrize("kind", ["mcap", "db3", "bag"])
def test_a_clock_that_was_set_back_with_that_of_logging_mixes_nothing(tmp_path, kind):
    times = [START_NS + number % 14 * STEP_NS for number in range(40)]  # a simulation that was reset twice
    frames = [Frame("cam", n, time_ns, picture(n)) for n, time_ns in enumerate(times)]
    path = {"mcap": write_mcap, "db3": write_bag2, "bag": write_bag1}[kind](tmp_path / "d", frames)
    with open_drive(path) as drive:
        found = list(drive)
        assert [frame.capture_ns for frame in found] == times
        assert all(np.array_equal(one.image, other.image) for one, other in zip(found, frames, strict=True))
        assert drive.account()["cam"]["guessed"] == 0


@pytest.mark.parametrize("kind", ["mcap", "db3", "bag"])
def test_batches_of_one_camera_that_fill_each_other_up_are_sorted(tmp_path, kind):
    numbers = np.arange(100).reshape(5, 10, 2).transpose(0, 2, 1).ravel().tolist()  # two threads write one half each
    frames = [Frame("cam", n, START_NS + n * STEP_NS, picture(n)) for n in numbers]
    with open_drive({"mcap": write_mcap, "db3": write_bag2, "bag": write_bag1}[kind](tmp_path / "d", frames)) as drive:
        assert [(frame.capture_ns - START_NS) // STEP_NS for frame in drive] == list(range(100))
        assert not any("set back" in note for note in drive.notes)


def write_runs(folder: Path, options: dict[str, str], joined: bool) -> list[Frame]:
    """Two runs of a simulation, which begin with the same pictures at the same time, in one file or in two parts."""
    runs = [
        [Frame("cam", n, START_NS + n * STEP_NS, picture(n if n < 8 else n + 40 * r)) for n in range(30)]
        for r in (0, 1)
    ]
    for number, run in enumerate(runs):
        write_mcap(folder / f"d_{number}.mcap", run, **options)
    if not joined:
        listed = {"rosbag2_bagfile_information": {"relative_file_paths": ["d_0.mcap", "d_1.mcap"]}}
        (folder / "metadata.yaml").write_text(json.dumps(listed))
        return runs[0] + runs[1]
    files = [McapFile(folder / f"d_{number}.mcap") for number in (0, 1)]
    copy_messages(files[0], folder / "d.mcap", [each for file in files for each in file.messages(as_written=True)])
    for file in files:
        file.path.unlink()
    return runs[0] + runs[1]


def copy_messages(file: McapFile, path: Path, messages: Iterable[RawMessage]) -> None:
    """A file with the channels of another, and these messages."""
    from mcap.writer import Writer

    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=1 << 14)
        writer.start()
        for number, schema in file.schemas.items():
            assert number == writer.register_schema(schema.name, schema.encoding, schema.data)
        for number, channel in file.channels.items():
            assert number == writer.register_channel(channel.topic, channel.message_encoding, channel.schema_id)
        for message in messages:
            writer.add_message(message.channel_id, message.log_time, bytes(message.data), message.publish_time)
        writer.finish()


@pytest.mark.parametrize("later_ns", [0, 150_000_000])
@pytest.mark.parametrize(("codec", "begin"), [("h264", 20), ("vp9", 24), ("vp9", 26)])
def test_packets_of_video_that_two_parts_have_are_copies_if_the_second_begins_with_them(
    tmp_path, codec, begin, later_ns
):
    frames = [Frame("cam", n, START_NS + n * STEP_NS, picture(n)) for n in range(60)]
    options = {"kind": "CompressedVideo", "codec": codec}
    whole = McapFile(write_mcap(tmp_path / "whole.mcap", frames, **options))
    messages = list(whole.messages())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for part, (first, end) in enumerate(((0, 40), (begin, 60))):
        logged = [each._replace(log_time=each.log_time + part * later_ns) for each in messages[first:end]]
        copy_messages(whole, tmp_path / "one" / f"d_{part}.mcap", logged)
        write_mcap(tmp_path / "two" / f"d_{part}.mcap", frames[first:end], **options)  # coded for itself
    for name, images, copies in (("one", 60, 40 - begin), ("two", 100 - begin, 0)):
        with open_drive(tmp_path / name) as drive:
            found, account = list(drive), drive.account()["cam"]
        assert (len(found), account["duplicates"], account["damaged"]) == (images, copies, 0)
        for frame in found:
            assert np.abs(frame.image.astype(int) - picture((frame.capture_ns - START_NS) // STEP_NS)).mean() < 8


@pytest.mark.parametrize("joined", [True, False], ids=["one file", "parts"])
@pytest.mark.parametrize("codec", ["", "h264", "vp9"])
def test_runs_that_begin_with_the_same_pictures_lose_none(tmp_path, codec, joined):
    frames = write_runs(tmp_path, {"kind": "CompressedVideo", "codec": codec} if codec else {}, joined)
    with open_drive(tmp_path) as drive:
        found = list(drive)
        assert [frame.capture_ns for frame in found] == [frame.capture_ns for frame in frames]
        for one, other in zip(found, frames, strict=True):
            assert np.abs(one.image.astype(int) - other.image).mean() < 8
        assert drive.account()["cam"]["duplicates"] == 0


@pytest.mark.parametrize("kind", ["mcap", "db3", "bag"])
def test_images_that_two_parts_have_are_copies(tmp_path, kind):
    frames = [Frame("cam", n, START_NS + n * STEP_NS, picture(n)) for n in range(60)]
    for part, shared in enumerate((frames[:40], frames[20:])):
        if kind == "db3":
            write_bag2(tmp_path / f"{part}", shared)
            os.replace(tmp_path / f"{part}" / f"{part}.db3", tmp_path / f"d_{part}.db3")
        else:
            {"mcap": write_mcap, "bag": write_bag1}[kind](tmp_path / f"d_{part}.{kind}", shared)
    with open_drive(tmp_path) as drive:
        assert [frame.capture_ns for frame in drive] == [frame.capture_ns for frame in frames]
        account = drive.account()["cam"]
    assert (account["images"], account["duplicates"], account["lost"]) == (80, 20, 0)


def read_numbered(path: Path, shots: Iterable[tuple[int, int]]) -> tuple[list[int], int, str]:
    """Numbers and losses of a ROS 1 bag with images of (number, time), and what is noted."""
    frames = [Frame("cam", number, time_ns, picture(place)) for place, (number, time_ns) in enumerate(shots)]
    with open_drive(write_bag1(path, frames)) as drive:
        return [frame.frame_id for frame in drive], drive.account()["cam"]["lost"], " ".join(drive.notes)


def test_a_counter_that_jumps_further_than_time_goes_on_from_there(tmp_path):
    shots = [(n, START_NS + n * STEP_NS) for n in range(60) if n not in (10, 20, 21, 40)]  # it jumps where two are lost
    ids, lost, notes = read_numbered(tmp_path / "d.bag", [(n if n < 20 else n + 4_000_000_000, at) for n, at in shots])
    assert (lost, ids) == (4, [100 + n for n, _ in shots])
    assert "jumps by 4000000002 images within 0.300 s" in notes


@pytest.mark.parametrize("jump", [-130, -30, 20, 500])
def test_a_counter_that_begins_anew_wherever_is_no_loss_and_time_tells_what_is_missing(tmp_path, jump):
    there = [n for n in range(60) if not 30 <= n < 33]
    shots = [(n + (jump if n >= 33 else 0), START_NS + n * STEP_NS) for n in there]
    ids, lost, notes = read_numbered(tmp_path / "d.bag", shots)
    assert (ids, lost) == ([100 + n for n in there], 3)
    assert "its counter jumps" in notes


@pytest.mark.parametrize("first", [12, 300])
def test_images_lost_where_few_come_are_counted(tmp_path, first):
    """As of 30 a second two are kept, from the beginning or for a while."""
    shots = [(n, START_NS + n * STEP_NS // 3) for n in range(500) if n < first or n > 450 or n % 15 == 0]
    ids, lost, notes = read_numbered(tmp_path / "slow.bag", shots)
    assert (ids, lost, notes) == ([100 + n for n, _ in shots], 500 - len(shots), "")


def test_a_counter_that_comes_back_or_is_another_one_behind_a_clock_set_back_goes_on(tmp_path):
    far = 4_000_000_000
    stray, back, again = ({n: n + far for n in places} for places in ([10], range(10, 30), range(30, 60)))
    for name, numbers, set_back in (("stray", stray, 60), ("back", back, 60), ("again", again, 30)):
        shots = [(numbers.get(n, n), START_NS + (n - 30 * (n >= set_back)) * STEP_NS) for n in range(60)]
        assert read_numbered(tmp_path / f"{name}.bag", shots)[:2] == (list(range(100, 160)), 0)


def test_a_damaged_image_whose_number_is_not_known_is_no_gap(tmp_path):
    frames = [Frame("cam", n + 400, START_NS + n * STEP_NS, picture(n)) for n in range(60)]
    path = write_bag1(tmp_path / "d.bag", frames)
    data = path.read_bytes()
    for seq in (500, 520, 550):  # the first image, and two far apart
        header = seq.to_bytes(4, "little") + (START_NS // 10**9 + (seq - 500) // 10).to_bytes(4, "little")
        at = data.index(header) + 12
        data = data[:at] + b"\xff" * 4 + data[at + 4 :]
    path.write_bytes(data)
    with open_drive(path) as drive:
        assert [frame.frame_id for frame in drive] == [n for n in range(500, 560) if n not in (500, 520, 550)]
        assert (drive.account()["cam"]["damaged"], drive.account()["cam"]["lost"]) == (3, 0)


def test_a_burst_and_a_clock_that_was_set_back_leave_the_numbers_good(tmp_path):
    lost = (42, 43, 60, 61, 70, 80, 81, 85)
    there = [n for n in range(100) if n not in lost]
    burst = {n: START_NS + 46 * STEP_NS + (n - 46) * 200_000 for n in range(40, 46)}
    back = {n: START_NS + (n - 30) * STEP_NS for n in range(60, 100)}
    for name, times in (("burst", burst), ("back", back)):
        shots = [(n, times.get(n, START_NS + n * STEP_NS)) for n in there]
        assert read_numbered(tmp_path / f"{name}.bag", shots)[:2] == ([100 + n for n in there], len(lost))


@pytest.mark.parametrize("step_ns", [1, 50_000, 300_000])
@pytest.mark.parametrize("first", [0, 30])
def test_images_closer_than_any_cameras_make_no_loss_of_the_usual_steps_after_them(tmp_path, first, step_ns):
    """Their times were guessed, or they waited in a buffer; what is missing later is told."""
    close = {n: START_NS + first * STEP_NS + (n - first) * step_ns for n in range(first, first + 20)}
    shots = [shot for shot in restamp(regular(100), close) if shot.number not in (90, 91, 92)]
    assert read(write(tmp_path / "d.mcap", shots)).account["lost"] in range(3, 40)
    numbered = [(n + 5_000_000 * (n > first + 19), close.get(n, START_NS + n * STEP_NS)) for n in range(100)]
    assert read_numbered(tmp_path / "d.bag", numbered)[1] < 40


def test_a_gap_is_judged_by_the_stamps_own_rate(tmp_path):
    shots = [shot for shot in regular(80) if shot.number not in range(50, 54)]
    found = read(write(tmp_path / "d.mcap", shots))
    assert found.ids == found.numbers
    assert found.account["lost"] == 4


def test_a_clock_can_be_asked_for_and_wrong_ones_cannot_be_chosen(tmp_path):
    path = write(tmp_path / "d.mcap", regular(20))
    assert read(path, clock="log").times == [shot.log_ns for shot in regular(20)]
    assert read(path).times == [shot.stamp_ns for shot in regular(20)]


UNSET = dict.fromkeys(ALL, 0)
TAI, GPS, LATE_NS = START_NS + 37 * 10**9, START_NS + 18 * 10**9, 12 * 10**9
CONVERTED = [Shot(n, START_NS + n * STEP_NS, 2 * START_NS + n * 10**7) for n in range(600, 680)]
BEHIND = [dataclasses.replace(shot, log_ns=shot.log_ns + LATE_NS) for shot in regular(80)]


@pytest.mark.parametrize(
    ("one", "other", "shift_s"),
    [
        (regular(80, SIM), restamp(regular(80), UNSET), START_NS // 10**9 - 10),
        (regular(80, SIM), regular(80), START_NS // 10**9 - 10),
        (restamp(regular(80, SIM), {n: START_NS + n * STEP_NS for n in range(40, 80)}), regular(80), None),
        (regular(80, TAI), regular(80), -37),
        (regular(80, TAI), regular(480)[400:], -37),
        (regular(80, TAI), restamp(regular(80), UNSET), -37),
        (regular(80, GPS), regular(200)[120:], -18),
        (regular(80, START_NS + 12 * 10**9), regular(80), 0),
        (regular(80, SIM), regular(80, SIM), 0),
        ([*regular(80), *regular(680)[600:]], regular(680)[600:], 0),
        (BEHIND, regular(280)[200:], 0),
        (regular(80, START_NS + 7200 * 10**9), regular(80, START_NS), 0),
        (CONVERTED, [Shot(0, START_NS - 300 * 10**9, 2 * START_NS)], 0),
        (CONVERTED, [Shot(n, START_NS + n * STEP_NS, 2 * START_NS + n * 10**7) for n in ALL], 0),
    ],
    ids=[
        *("no stamps", "since boot", "since boot, then set", "TAI", "TAI, late", "TAI, no stamps", "GPS, late"),
        *("others", "simulated", "late", "behind", "hours apart", "converted, one still", "converted"),
    ],
)
def test_stamps_of_a_known_other_clock_are_shifted_and_all_others_stay(tmp_path, one, other, shift_s):
    path = write(tmp_path / "d.mcap", one, others=other)
    with open_drive(path) as drive:
        times: dict[str, list[int]] = {"cam": [], "other": []}
        for frame in drive:
            times[frame.stream].append(frame.capture_ns)
        assert ("another clock" in " ".join(drive.notes)) == (shift_s != 0)
        stamps = [START_NS + n * STEP_NS if shift_s is None else shot.stamp_ns for n, shot in enumerate(one)]
        slack_ns = 0 if shift_s in (0, -37, -18) else 10**9
        offsets = [time_ns - stamp_ns for time_ns, stamp_ns in zip(times["cam"], stamps, strict=True)]
        assert all(abs(offset - (shift_s or 0) * 10**9) <= slack_ns for offset in offsets)
        assert shift_s is None or len(set(offsets)) == 1
        assert times["other"] == [shot.stamp_ns or shot.publish_ns or shot.log_ns for shot in other]


@st.composite
def disturbed(draw: st.DrawFn) -> list[Shot]:
    """Images of one camera after whatever may happen to their stamps, their order and the recorder."""
    shots = regular(draw(st.integers(1, 70)), draw(st.sampled_from([START_NS, SIM, 0])))
    number = st.integers(0, len(shots) - 1)
    for at, what, size in draw(st.lists(st.tuples(number, st.integers(0, 6), st.integers(1, 12)), max_size=5)):
        if what == 0:
            shots = restamp(shots, dict.fromkeys(range(at, at + size), 0))
        elif what == 1:
            shots = restamp(shots, dict.fromkeys(range(at, at + size), shots[min(at, len(shots) - 1)].stamp_ns))
        elif what in (2, 3):
            by = size * STEP_NS * (-3 if what == 2 else 1000)
            shots = [dataclasses.replace(s, stamp_ns=max(0, s.stamp_ns + by * (s.number >= at))) for s in shots]
        elif what == 4:
            shots = shots[:at] + shots[at : at + size][::-1] + shots[at + size :]
        elif what == 5:
            shots = shots[: at + 1] + shots[max(0, at - size // 4) :]
        else:
            shots = [shot for shot in shots if not at <= shot.number < at + size] or shots
    return [dataclasses.replace(shot, log_ns=START_NS + place * STEP_NS) for place, shot in enumerate(shots)]


@settings(max_examples=150)
@given(shots=disturbed(), parts=st.integers(1, 12), kept=st.floats(0.05, 1))
def test_frames_and_what_is_named_as_left_out_are_all_images_of_the_file(tmp_path_factory, shots, parts, kept):
    folder = tmp_path_factory.mktemp("drive")
    size = -(-len(shots) // parts)
    for place in range(0, len(shots), size):
        path = write(folder / f"d_{place // size}.mcap", shots[place : place + size])
    path.write_bytes(path.read_bytes()[: max(60, int(path.stat().st_size * kept))])
    images = sum(1 for path in folder.iterdir() for _ in McapFile(path).messages())
    if not images:
        with pytest.raises(ValueError, match="no camera images"):
            read(folder)
        return
    found = read(folder)
    assert found.account["images"] == images
    check(found, shots)


@settings(deadline=None, max_examples=60)
@given(shots=disturbed(), parts=st.integers(1, 5), kind=st.sampled_from([".bag", ".db3", ".mcap"]))
def test_every_image_that_was_written_is_a_frame_or_named_whatever_the_kind_of_file(
    tmp_path_factory, shots, parts, kind
):
    folder = tmp_path_factory.mktemp("drive")
    size = -(-len(shots) // parts)
    for place in range(0, len(shots), size):
        (write if kind == ".mcap" else write_rosbag)(folder / f"d_{place // size}{kind}", shots[place : place + size])
    found = read(folder)
    assert found.account["images"] == len(shots)
    assert len(set(found.numbers)) + found.account["backwards"] >= len({shot.number for shot in shots})
    check(found, shots)


def check(found: Read, shots: list[Shot]) -> None:
    """Frames are those that were written, in order of their numbers, and of time where no clock was set back."""
    assert set(found.numbers) <= {shot.number for shot in shots}
    assert found.account["lost"] < 10**6
    assert all(after > before for before, after in zip(found.ids, found.ids[1:], strict=False))
    assert len(set(np.diff(found.times) > 0)) <= 1 or any("set back" in note for note in found.notes)
