"""Recorded drives of every kind give the frames that were put in; damage costs only what it touches."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from streamtok.drives.drive_names import list_drives
from streamtok.drives.open_drive import open_drive
from streamtok.drives.topics import stream_names
from streamtok.recording.mcap_file import McapFile
from tests.kit.drives import (
    START_NS,
    STEP_NS,
    assert_same_frames,
    decode_video,
    encode_video,
    foxglove,
    foxglove_data,
    frames_of,
    picture,
    rig,
    ros_image,
    write_bag1,
    write_bag2,
    write_folders,
    write_mcap,
    write_topics,
)
from tests.kit.videos import numbered, write_video

WRITERS = {
    "ros1 bag": lambda folder, frames: write_bag1(folder / "d.bag", frames),
    "ros1 bag, png": lambda folder, frames: write_bag1(folder / "d.bag", frames, compressed=True),
    "ros2 db3": lambda folder, frames: write_bag2(folder / "d", frames, padding=5),
    "ros2 mcap": lambda folder, frames: write_bag2(folder / "d", frames, "MCAP"),
    "mcap, raw": lambda folder, frames: write_mcap(folder / "d.mcap", frames),
    "mcap, png": lambda folder, frames: write_mcap(folder / "d.mcap", frames, "CompressedImage"),
    "mcap, no chunks": lambda folder, frames: write_mcap(folder / "d.mcap", frames, chunking=False),
}


def read(path: Path, **options) -> list:
    with open_drive(path, **options) as drive:
        return list(drive)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_drive_gives_its_frames_with_their_own_times(tmp_path, kind):
    frames = rig(15)
    path = WRITERS[kind](tmp_path, frames)
    with open_drive(path) as drive:
        assert sorted(drive.streams) == ["front", "rear"]
        found = list(drive)
        assert not drive.problems
    assert_same_frames(found, frames)
    first = 100 if kind.startswith("ros1") else 0  # header.seq counts them there
    assert [frame.frame_id for frame in found if frame.stream == "rear"] == list(range(first, first + 15))


def test_a_bare_db3_file_opens_without_its_folder(tmp_path):
    frames = rig(5)
    assert_same_frames(read(next(write_bag2(tmp_path / "d", frames).glob("*.db3"))), frames)


def test_cameras_written_one_after_another_come_out_merged(tmp_path):
    one_by_one = frames_of("front", 12) + frames_of("rear", 12)
    path = write_mcap(tmp_path / "d.mcap", one_by_one, chunk_size=1 << 20)
    assert_same_frames(read(path), rig(12))


def test_one_camera_can_be_chosen_and_named(tmp_path):
    path = write_mcap(tmp_path / "d.mcap", rig(4))
    assert {frame.stream for frame in read(path, topics=["/rear/image"])} == {"rear"}
    assert {frame.stream for frame in read(path, topics=["front"])} == {"front"}
    assert {frame.stream for frame in read(path, topics={"/rear/image": "back"})} == {"back"}
    with open_drive(path) as drive:
        assert {frame.stream for frame in drive.frames(["rear"])} == {"rear"}


def test_topics_become_stream_names_that_differ():
    names = stream_names(["/cam/front/image_raw", "/cam/front/image_raw/compressed", "/a b/ä", "frames/left"])
    assert names["/cam/front/image_raw"] == "cam_front"
    assert names["frames/left"] == "left"
    assert len(set(names.values())) == 4


@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_compressed_video_gives_the_decoders_pictures(tmp_path, codec):
    frames = frames_of("front", 25)
    decoded = decode_video(encode_video([frame.image for frame in frames], codec), codec)
    found = read(write_mcap(tmp_path / "d.mcap", frames, "CompressedVideo", codec=codec))
    assert_same_frames(found, [replace(f, picture=image) for f, image in zip(frames, decoded, strict=True)])
    assert all(frame.codec == codec and frame.packet for frame in found)


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize(
    ("damage", "kept"),
    [("no key frame first", range(10, 30)), ("a bad unit", [*range(13), *range(20, 30)])],
)
def test_video_pictures_that_damage_may_have_touched_are_left_out(tmp_path, codec, damage, kept):
    frames = frames_of("front", 30)
    packets = encode_video([frame.image for frame in frames], codec)
    decoded = decode_video(packets, codec)
    if damage == "no key frame first":
        packets[0] = b""
    else:
        middle = len(packets[13]) // 2
        packets[13] = packets[13][:middle]
    path = write_video_messages(tmp_path / "d.mcap", frames, packets, codec)
    with open_drive(path) as drive:
        found = list(drive)
        assert drive.counts["front"]["damaged"] == 30 - len(kept)
        assert drive.problems
    assert [frame.frame_id for frame in found] == list(kept)
    for frame in found:
        np.testing.assert_array_equal(frame.image, decoded[frame.frame_id])


def write_video_messages(path, frames, packets, codec):
    pairs = zip(frames, packets, strict=True)
    messages = [(frame.capture_ns, foxglove_data("CompressedVideo", frame, packet, codec)) for frame, packet in pairs]
    return write_topics(path, "foxglove.CompressedVideo", {"/front/video": messages})


@settings(max_examples=60)
@given(share=st.floats(0.001, 0.999), chunking=st.booleans())
@example(share=0.6, chunking=False)
def test_a_file_cut_anywhere_gives_its_first_frames_or_says_why_not(tmp_path_factory, share, chunking):
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"whole{chunking}.mcap"
    if not path.exists():
        write_mcap(path, frames_of("front", 20), chunk_size=20_000, chunking=chunking)
    whole = path.read_bytes()
    cut = folder / "cut.mcap"
    cut.write_bytes(whole[: max(1, int(len(whole) * share))])
    if len(McapFile(cut).channels if cut.stat().st_size >= 8 else ()):
        with open_drive(cut) as drive:
            found = list(drive)
            told = {problem.text.partition(":")[0] for problem in drive.problems}
        assert told & {"it has no end", "its index cannot be read; the chunks were found without it"}
        assert_same_frames(found, frames_of("front", len(found)))
        assert share != 0.6 or 5 < len(found) < 20
    else:
        with pytest.raises(ValueError, match=r"cut\.mcap"):
            read(cut)


def test_a_lost_index_is_done_without(tmp_path):
    frames = rig(10)
    path = write_mcap(tmp_path / "d.mcap", frames)
    data = bytearray(path.read_bytes())
    data[-36:-8] = b"\xff" * 28
    path.write_bytes(data)
    assert_same_frames(read(path), frames)


def test_corrupt_messages_in_a_bag_are_counted_and_listed(tmp_path):
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store, kind = get_typestore(Stores.ROS1_NOETIC), "sensor_msgs/msg/Image"
    frames = frames_of("front", 10)
    with Writer(tmp_path / "d.bag") as writer:
        topic = writer.add_connection("/front/image_raw", kind, typestore=store)
        for frame in frames:
            data = bytes(store.serialize_ros1(ros_image(store, frame, seq=0), kind))
            data = {3: data[:40], 6: b"", 7: data[:30] + b"\xff" * 40 + data[70:]}.get(frame.frame_id, data)
            writer.write(topic, frame.capture_ns, data)
    with open_drive(tmp_path / "d.bag") as drive:
        found = list(drive)
        assert drive.counts["front"] == {"frames": 7, "damaged": 3}
        assert [problem.frame_id for problem in drive.problems] == [3, 6, 7]
    assert [frame.frame_id for frame in found] == [0, 1, 2, 4, 5, 8, 9]


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_a_bag_that_was_cut_off_or_never_closed_gives_its_first_frames(tmp_path, compression):
    from rosbags.rosbag1 import Writer

    options = {} if compression is None else {"compression": Writer.CompressionFormat[compression]}
    frames = frames_of("front", 30)
    whole = write_bag1(tmp_path / "d.bag", frames, **options).read_bytes()
    cut = tmp_path / "cut.bag"
    cut.write_bytes(whole[: int(len(whole) * 0.5)])
    with open_drive(cut) as drive:
        found = list(drive)
        assert drive.problems
    assert 5 < len(found) < 30
    assert_same_frames(found, frames[: len(found)])


def test_a_truncated_db3_gives_the_rows_that_are_there(tmp_path):
    frames = frames_of("front", 60)
    path = next(write_bag2(tmp_path / "d", frames).glob("*.db3"))
    cut = tmp_path / "cut.db3"
    cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.5)])
    with open_drive(cut) as drive:
        found = list(drive)
        assert drive.problems
    assert len(found) > 15
    times = [frame.capture_ns for frame in found]
    assert times == sorted(times)
    for frame in found:
        number = (frame.capture_ns - frames[0].capture_ns) // STEP_NS
        np.testing.assert_array_equal(frame.image, picture(number))


def test_a_file_is_read_as_what_it_is_with_a_note(tmp_path):
    frames = frames_of("front", 5)
    path = write_bag1(tmp_path / "d.bag", frames).rename(tmp_path / "d.mcap")
    with open_drive(path) as drive:
        assert_same_frames(list(drive), frames)
        assert "ROS 1 bag" in drive.problems[0].text


@pytest.mark.parametrize("name", ["d.mcap", "d.bag", "d.db3"])
def test_a_file_that_is_nothing_says_so(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"this is a letter, not a drive" * 10)
    with pytest.raises(ValueError, match=f"{name}: not an?.*this is a letter"):
        open_drive(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        open_drive(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.mcap"):
        open_drive(tmp_path / "gone.mcap")


def test_a_topic_that_is_not_there_names_those_that_are(tmp_path):
    path = write_mcap(tmp_path / "d.mcap", rig(2))
    with pytest.raises(ValueError, match=r"no topic '/frnt/image'.*did you mean '/front/image'"):
        open_drive(path, topics=["/frnt/image"])


def test_a_topic_that_is_no_camera_is_named_with_its_type(tmp_path):
    write_topics(tmp_path / "d.mcap", "nav_msgs/msg/Odometry", {"/odom": [(1, b"")]})
    with pytest.raises(ValueError, match=r"no camera images; it has /odom \(nav_msgs/msg/Odometry\)"):
        open_drive(tmp_path / "d.mcap")
    with pytest.raises(ValueError, match="'/odom' is nav_msgs/msg/Odometry, not camera images"):
        open_drive(tmp_path / "d.mcap", topics=["/odom"])


def with_times(frames, times):
    return [replace(frame, capture_ns=START_NS + time * STEP_NS) for frame, time in zip(frames, times, strict=True)]


def test_frames_slightly_out_of_order_are_put_in_order(tmp_path):
    frames = with_times(frames_of("front", 12), [0, 1, 3, 2, 4, 5, 8, 6, 7, 9, 10, 11])
    found = read(write_mcap(tmp_path / "d.mcap", frames, chunking=False))
    assert [(frame.capture_ns - START_NS) // STEP_NS for frame in found] == list(range(12))


def test_times_that_run_backwards_are_left_out_until_they_go_on(tmp_path):
    times = [*range(10, 30), 3, 5, 4, *range(31, 40)]
    frames = with_times(frames_of("front", len(times)), times)
    with open_drive(write_mcap(tmp_path / "d.mcap", frames, chunking=False)) as drive:
        found = [(frame.capture_ns - START_NS) // STEP_NS for frame in drive]
        assert drive.counts["front"] == {"frames": 29, "backwards": 3}
        assert "runs backwards by" in drive.problems[0].text
    assert found == [*range(10, 30), *range(31, 40)]


def test_a_gap_in_time_is_a_gap_in_the_numbers(tmp_path):
    times = [0, 1, 2, 3, 4, 5, 6, 7, 17, 18, 20, 21, 22, 23]
    frames = with_times(frames_of("front", len(times)), times)
    found = read(write_mcap(tmp_path / "d.mcap", frames))
    assert [frame.frame_id for frame in found] == [0, 1, 2, 3, 4, 5, 6, 7, 17, 18, 19, 20, 21, 22]


def test_after_the_clock_was_set_back_the_drive_goes_on_in_the_new_time(tmp_path):
    times = [*range(1000, 1020), *range(100)]
    frames = with_times(frames_of("front", len(times)), times)
    with open_drive(write_mcap(tmp_path / "d.mcap", frames, chunking=False)) as drive:
        found = [(frame.capture_ns - START_NS) // STEP_NS for frame in drive]
        assert any("set back" in problem.text for problem in drive.problems)
    assert found[:20] == list(range(1000, 1020))
    assert found[20:] == list(range(100))


@pytest.mark.parametrize(
    ("encoding", "width"),
    [("mono8", 1), ("8UC1", 1), ("yuv422", 2), ("yuv422_yuy2", 2), ("bayer_rggb8", 1), ("bgra8", 4)],
)
def test_camera_encodings_are_those_of_preprocessing(tmp_path, encoding, width):
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    from streamtok.preprocessing.pixels import to_rgb

    store, kind = get_typestore(Stores.ROS2_HUMBLE), "sensor_msgs/msg/Image"
    height, columns = 16, 24
    data = np.random.default_rng(0).integers(0, 256, height * columns * width, dtype=np.uint8)
    image = store.types[kind](
        ros_image(store, frames_of("a", 1)[0]).header, height, columns, encoding, 0, columns * width, data
    )
    with Writer(tmp_path / "d", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/a/image_raw", kind, typestore=store)
        writer.write(topic, 1, store.serialize_cdr(image, kind))
    (found,) = read(tmp_path / "d")
    name = {"8UC1": "mono8"}.get(encoding, encoding)
    assert found.picture.data.tobytes() == data.tobytes()  # as it was recorded, for a GPU to convert
    np.testing.assert_array_equal(found.image, to_rgb(data, name, height, columns))


def test_an_unknown_encoding_is_a_damaged_frame_that_says_what_is_known(tmp_path):
    data = foxglove_data("RawImage", frames_of("front", 1)[0], b"", "").replace(b"rgb8", b"odd9")
    path = write_topics(tmp_path / "d.mcap", "foxglove.RawImage", {"/front/image": [(5, data)]})
    with open_drive(path) as drive:
        assert list(drive) == []
        assert "odd9" in drive.problems[0].text
        assert "rgb8" in drive.problems[0].text


def test_a_cut_off_jpeg_is_damaged_not_grey(tmp_path):
    messages = []
    for frame in frames_of("front", 3):
        jpeg = cv2.imencode(".jpg", frame.image)[1].tobytes()
        jpeg = jpeg[: len(jpeg) // 2] if frame.frame_id == 1 else jpeg
        messages.append((frame.capture_ns, foxglove("CompressedImage", frame, data=jpeg, format="jpeg")))
    found = read(write_topics(tmp_path / "d.mcap", "foxglove.CompressedImage", {"/front/image": messages}))
    assert [frame.frame_id for frame in found] == [0, 2]
    assert found[0].codec == "jpeg"


def test_a_zero_stamp_falls_back_to_the_files_time(tmp_path):
    frames = [replace(frame, capture_ns=0) for frame in frames_of("front", 1)]
    (found,) = read(write_mcap(tmp_path / "d.mcap", frames))
    assert found.capture_ns == 4_000_000


def test_an_absurd_length_allocates_nothing(tmp_path):
    path = tmp_path / "d.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + struct.pack("<BQ", 1, 1 << 60) + b"\0" * 100)
    with pytest.raises(ValueError, match="no camera images"):
        open_drive(path)


def test_a_folder_per_camera_is_one_drive_on_one_clock(tmp_path):
    frames = rig(6)
    write_folders(tmp_path, frames)
    with open_drive(tmp_path) as drive:
        assert sorted(drive.streams) == ["front", "rear"]
        assert_same_frames(list(drive), frames)


def test_blank_lines_among_the_times_of_images_are_a_gap(tmp_path):
    write_folders(tmp_path, frames_of("front", 12))
    times = tmp_path / "front" / "timestamps.txt"
    lines = times.read_text().splitlines()
    for number in range(5, 9):
        (tmp_path / "front" / "data" / f"{number:010d}.png").unlink()
        lines[number] = ""
    times.write_text("\n".join(lines) + "\n")
    with open_drive(tmp_path) as drive:
        assert [frame.frame_id for frame in drive] == [*range(5), *range(9, 12)]
        assert drive.account()["front"]["lost"] == 4


def test_a_damaged_image_file_leaves_a_gap_in_the_numbers(tmp_path):
    write_folders(tmp_path, frames_of("front", 6))
    broken = tmp_path / "front" / "data" / f"{2:010d}.png"
    broken.write_bytes(b"no picture")
    with open_drive(tmp_path) as drive:
        assert [frame.frame_id for frame in drive] == [0, 1, 3, 4, 5]
        assert drive.problems[0].text.startswith("frame 2: ")


def test_a_video_per_camera_is_one_drive(tmp_path):
    for name in ("left", "right"):
        write_video(tmp_path / f"{name}.mp4", [picture(number, name) for number in range(8)], rate=20, bf="0")
    with open_drive(tmp_path) as drive:
        found = list(drive)
    assert [frame.stream for frame in found] == ["left", "right"] * 8
    assert [frame.capture_ns for frame in found[::2]] == [number * 50_000_000 for number in range(8)]
    assert [frame.frame_id for frame in read(tmp_path / "left.mp4")] == list(range(8))


def test_folders_of_images_that_are_no_rig_are_drives_of_their_own(tmp_path):
    """The same camera twice, or times that have nothing in common; a rig may lie deeper."""
    first, later = rig(4), [replace(frame, capture_ns=frame.capture_ns + 10**12) for frame in rig(4)]
    layouts = {
        "kitti": {"drive_1": first, "drive_2": rig(4), "drive_10": later},
        "runs": {"one/a": frames_of("front", 4), "two/b": [frame for frame in later if frame.stream == "rear"]},
    }
    for name, drives in layouts.items():
        for drive, frames in drives.items():
            write_folders(tmp_path / name / "deeper" / drive, frames)
    kitti = [str(tmp_path / "kitti" / "deeper" / drive) for drive in layouts["kitti"]]
    for name in ("up", "home"):  # links that lead up are no drives, and no end of them
        (tmp_path / "kitti" / "deeper" / name).symlink_to(tmp_path / "kitti", target_is_directory=True)
    assert list_drives(str(tmp_path / "kitti")) == kitti
    assert len(list_drives(str(tmp_path / "runs"))) == 2
    with pytest.raises(ValueError, match=r"3 drives that do not belong together: deeper/drive_1, .*tokenize"):
        open_drive(tmp_path / "kitti")
    with open_drive(kitti[0]) as drive:
        assert drive.notes == ["drive_1: 2 folders of images are read as the cameras of one drive, by their times"]
        assert_same_frames(list(drive), first)


def test_cameras_of_image_folders_that_begin_minutes_apart_are_told(tmp_path):
    """Which may be clocks that differ: nothing in the folders tells that from a camera that began later."""
    late = [replace(frame, capture_ns=frame.capture_ns + 180 * 10**9 * (frame.stream == "rear")) for frame in rig(4)]
    long = replace(late[0], capture_ns=late[-1].capture_ns, frame_id=late[-1].frame_id + 1)
    write_folders(tmp_path, [*late, long])
    with open_drive(tmp_path) as drive:
        assert drive.notes[0].endswith("by their times, which begin 180 s apart")


def test_images_that_name_their_recording_are_a_drive_for_each(tmp_path):
    """nuScenes: keyframes in samples/, what lies between in sweeps/, and both of all recordings."""
    first, later = rig(6), [replace(frame, capture_ns=frame.capture_ns + 10**12) for frame in rig(4)]
    names = ["n015-2018-07-24-11-22-45+0800", "n008-2018-08-01-15-16-36-0400"]
    for log, frames in zip(names, (first, later), strict=True):
        for number, frame in enumerate(frames):
            folder = tmp_path / ("samples" if number % 5 == 0 else "sweeps") / frame.stream.upper()
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{log}__{frame.stream.upper()}__{10**18 + frame.capture_ns}.png"
            Image.fromarray(frame.image).save(folder / name)
    found = list_drives(str(tmp_path))
    assert len(found) == 2
    with pytest.raises(ValueError, match="2 drives that do not belong together"):
        open_drive(tmp_path)
    for frames, log in ((first, names[0]), (later, names[1])):
        (name,) = (each for each in found if log[:4] in each)
        with open_drive(name) as drive:
            assert "images of 4 folders are 2 cameras of the recording they name" in drive.notes[0]
            read = [replace(frame, capture_ns=frame.capture_ns - 10**18) for frame in drive]
        assert_same_frames(read, frames, {"FRONT": "front", "REAR": "rear"})
    for file in tmp_path.rglob(f"{names[1]}*"):
        file.unlink()
    assert list_drives(str(tmp_path)) == [str(tmp_path)]
    with open_drive(tmp_path) as drive:
        assert len(list(drive)) == len(first)


def test_cameras_that_only_names_tell_apart_are_two(tmp_path):
    """Lyft: all images in one folder."""
    frames = rig(6)
    for frame in frames:
        camera = {"front": "cam0", "rear": "cam1"}[frame.stream]
        Image.fromarray(frame.image).save(tmp_path / f"host-a101_{camera}_{frame.capture_ns}.png")
    with open_drive(tmp_path) as drive:
        assert_same_frames(list(drive), frames, {"cam0": "front", "cam1": "rear"})
        assert "2 cameras of the recording they name: host-a101" in drive.notes[0]
    put_images(tmp_path, [f"host-a004_cam0_{START_NS + n * STEP_NS}" for n in range(5)])
    names = list_drives(str(tmp_path))
    assert names == [f"images:{tmp_path}?log=host-{host}" for host in ("a004", "a101")]
    assert [len(read(name)) for name in names] == [5, 12]


@pytest.mark.parametrize("name", ["basler_camera", "run_cam0"])
def test_folders_with_images_of_one_name_are_a_camera_each(tmp_path, name):
    for folder in ("left", "right"):
        put_images(tmp_path / folder, [f"{name}_{START_NS + n * STEP_NS}" for n in range(5)])
    assert list_drives(str(tmp_path)) == [str(tmp_path)]
    with open_drive(tmp_path) as drive:
        assert [frame.stream for frame in drive] == 5 * ["left", "right"]


def put_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (32, 32)).save(folder / f"{name}.png")


def test_drives_beside_images_that_name_their_recording_are_listed(tmp_path):
    """Whatever lies there: other images, videos, and images in data/."""
    times = [str(1_532_402_927_612_460 + 80_000 * number) for number in range(3)]
    named = [f"{log}__CAM_F__{time}" for log in ("LOG1", "LOG2") for time in times]
    put_images(tmp_path / "a" / "samples" / "CAM_F", named)
    put_images(tmp_path / "a" / "samples" / "extra", times)
    put_images(tmp_path / "a" / "maps", ["5399e2"])
    logs = [f"images:{tmp_path}/a?log=LOG1", f"images:{tmp_path}/a?log=LOG2"]
    assert list_drives(str(tmp_path / "a")) == [*logs, f"{tmp_path}/a/samples/extra"]
    put_images(tmp_path / "b" / "CAM_F", named)
    write_video(tmp_path / "b" / "v.mp4", numbered(5), range(0, 5 * 512, 512))
    assert list_drives(str(tmp_path / "b")) == [f"images:{tmp_path}/b?log={log}" for log in ("LOG1", "LOG2")] + [
        str(tmp_path / "b")
    ]
    assert {frame.stream for frame in read(tmp_path / "b")} == {"v"}
    put_images(tmp_path / "c" / "front" / "data", named)
    found = list_drives(str(tmp_path / "c"))
    assert found == [f"images:{tmp_path}/c?log={log}" for log in ("LOG1", "LOG2")]
    assert [len(read(name)) for name in found] == [3, 3]
    put_images(tmp_path / "d" / "CAM_F", named[:3])
    put_images(tmp_path / "d" / "other", times)
    assert {frame.stream for frame in read(tmp_path / "d")} == {"CAM_F", "other"}


def test_what_is_no_drive_is_no_reason_to_refuse_those_beside_it(tmp_path):
    write_folders(tmp_path / "rig", rig(4))
    (tmp_path / "rig" / "maps").mkdir()
    (tmp_path / "rig" / "maps" / "5399e2.png").write_bytes((tmp_path / "rig/front/data/0000000000.png").read_bytes())
    with open_drive(tmp_path / "rig") as drive:
        assert_same_frames(list(drive), rig(4))
        assert "left out" in drive.notes[0]
        assert "no times for its 1 images" in drive.notes[0]
    for folder in ("day", "meta"):
        (tmp_path / "rig" / folder).mkdir()
    write_mcap(tmp_path / "rig" / "day" / "day.mcap", rig(4))
    assert [Path(name).name for name in list_drives(str(tmp_path / "rig"))] == ["day", "front", "rear"]


def test_a_folder_without_a_drive_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match="holds no drive: looked for"):
        open_drive(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("episode_0.hdf5", b"\x89HDF\r\n\x1a\n" + bytes(1000), "HDF5, which is not read here: .*h5py"),
        ("episode.bin", b"\x89HDF\r\n\x1a\n" + bytes(1000), "no video"),
        ("waymo.tfrecord-00000-of-00010", bytes(100), "TFRecord"),
        ("file-000.parquet", b"PAR1" + bytes(100), r"Parquet, .*LeRobot"),
        ("day.tar", bytes(100), "an archive, which is not read here: unpack it"),
        ("day.mp4.gz", gzip.compress(bytes(100), mtime=0), "an archive"),
        ("drives.txt", b"one.mcap\ntwo.mcap\n" * 99, "no video"),
    ],
)
def test_a_file_that_is_no_drive_says_what_it_is_and_what_to_do(tmp_path, name, data, what):
    path = tmp_path / "1.0" / name
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(ValueError, match=what):
        open_drive(path)
    with pytest.raises(
        ValueError, match="holds no drive" + (f": .*{what}" if path.suffix not in (".bin", ".txt") else "")
    ):
        open_drive(tmp_path)


@pytest.mark.parametrize("name", ["clip.v1.zip", "drive.h5.bin", "cam.tar-1", "rec.parquet", "film.gz"])
def test_a_video_is_one_whatever_it_is_called(tmp_path, name):
    write_video(tmp_path / "v.mp4", numbered(5), range(0, 5 * 512, 512))
    assert len(read((tmp_path / "v.mp4").rename(tmp_path / name))) == 5


def test_files_that_are_nothing_are_named_where_they_are_several(tmp_path):
    for name in ("a.mcap", "b.mcap"):
        (tmp_path / name).write_bytes(b"nothing of this is a recording " * 9)
    with pytest.raises(ValueError, match=r"holds 2 drives that do not belong together: a\.mcap, b\.mcap; name one"):
        open_drive(tmp_path)


DAMAGED = {
    "mcap": lambda path, frames: write_mcap(path.with_suffix(".mcap"), frames),
    "video": lambda path, frames: write_mcap(path.with_suffix(".mcap"), frames, "CompressedVideo"),
    "bag": lambda path, frames: write_bag1(path.with_suffix(".bag"), frames),
    "db3": lambda path, frames: next(write_bag2(path, frames).glob("*.db3")),
}


@pytest.mark.parametrize("kind", DAMAGED)
@settings(max_examples=25)
@given(places=st.lists(st.floats(0, 0.999), min_size=1, max_size=20), value=st.integers(0, 255))
@example(places=[0.9375, 0.25, 0.00390625], value=3)  # a chunk that seems to run over the end of the file
@example(places=[0.14295999071830529], value=0)  # a topic without a type
def test_random_damage_never_ends_in_anything_but_a_message(tmp_path_factory, kind, places, value):
    whole = tmp_path_factory.getbasetemp() / f"damage_{kind}"
    frames = frames_of("front", 12)
    if not whole.exists():
        whole.mkdir()
        path = DAMAGED[kind](whole / "d", frames)
        (whole / "bytes").write_bytes(path.read_bytes())
    data = bytearray((whole / "bytes").read_bytes())
    for place in places:
        data[int(len(data) * place)] = value
    path = whole / f"broken.{'db3' if kind == 'db3' else 'bag' if kind == 'bag' else 'mcap'}"
    path.write_bytes(data)
    try:
        found = read(path)
    except ValueError as error:
        assert str(error)  # noqa: PT017 (most damage raises nothing)
        return
    if kind == "mcap":  # the only one of them with checksums
        pictures = {frame.capture_ns: frame.image for frame in frames}
        for frame in found:
            np.testing.assert_array_equal(frame.image, pictures[frame.capture_ns])
