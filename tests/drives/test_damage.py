"""Damage costs the images that it touches, and they are named: whatever happened to the bytes, and in which part."""

from __future__ import annotations

import cProfile
import dataclasses
import os
import sqlite3
import struct
import tracemalloc
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.drives.drive_names import list_drives
from streamtok.drives.open_drive import open_drive
from streamtok.recording.mcap_file import McapFile
from streamtok.types import Frame
from tests.kit.drives import START_NS, assert_same_frames, foxglove, frames_of, write_bag2, write_topics
from tests.kit.shots import STEP_NS, read, regular, ros_message, write

ALL = list(range(80))
COUNT = len(ALL)
CHUNK = 5  # images in one, at most
FIRST = 900  # byte behind the first chunk: an unclosed file says only there what its topics are


def write_checked(path: Path, compression: str, closed: bool = True, crcs: bool = True) -> Path:
    """An MCAP file of another recorder, with checksums or without, closed or not."""
    from mcap.writer import CompressionType

    return write(path, regular(COUNT), closed=closed, compression=CompressionType[compression], enable_crcs=crcs)


def damage(data: bytes, what: str, at: int, size: int) -> bytes:
    changed = {"flip": bytes([data[at] ^ 1 << size % 8]), "zeros": bytes(len(data[at : at + size])), "gone": b""}
    kept = {"flip": at + 1, "zeros": at + size, "gone": at + size, "more": at}[what]
    return data[:at] + changed.get(what, bytes(range(size))) + data[kept:]


@settings(max_examples=150)
@given(
    compression=st.sampled_from(["NONE", "ZSTD", "LZ4"]),
    closed=st.booleans(),
    what=st.sampled_from(["flip", "zeros", "gone", "more"]),
    place=st.floats(0, 1, exclude_max=True),
    size=st.integers(1, 64),
)
def test_damage_in_an_mcap_file_costs_what_it_touches(tmp_path_factory, compression, closed, what, place, size):
    path = write_checked(tmp_path_factory.mktemp("d") / "d.mcap", compression, closed)
    data = path.read_bytes()
    at = FIRST + int((len(data) - FIRST) * place)
    path.write_bytes(damage(data, what, at, size))
    found = read(path)
    assert found.numbers == sorted(set(found.numbers))
    assert found.times == [START_NS + 100_000_000 * number for number in found.numbers]
    assert len(found.numbers) >= COUNT - 4 * CHUNK
    named = sum(found.account[each] for each in ("damaged", "lost"))
    assert found.notes or named or found.numbers == ALL
    if what == "flip" and closed:
        assert found.account["images"] + found.account["lost"] == COUNT


@pytest.mark.parametrize("compression", ["NONE", "ZSTD"])
def test_a_file_whose_first_bytes_or_first_chunk_are_damaged_is_read(tmp_path, compression):
    path = write_checked(tmp_path / "d.mcap", compression, closed=False)
    data = path.read_bytes()
    path.write_bytes(damage(data, "flip", 2, 0))
    found = read(path)
    assert found.numbers == ALL
    assert "its first bytes are damaged" in " ".join(found.notes)
    path.write_bytes(damage(data, "flip", data.index(b"\5", 300), 0))
    assert len(read(path).numbers) >= COUNT - CHUNK


@pytest.mark.parametrize("bit", [0, 2, 5])
@pytest.mark.parametrize("chunk", [0, 2, -1])
def test_a_chunk_that_no_longer_says_what_it_is_is_read_by_the_index(tmp_path, chunk, bit):
    path = write_checked(tmp_path / "d.mcap", "ZSTD")
    path.write_bytes(damage(path.read_bytes(), "flip", McapFile(path).chunks[chunk].offset, bit))
    assert read(path).numbers == ALL


@pytest.mark.parametrize("lie", [1 << 60, 1, -1, 4096])
@pytest.mark.parametrize("chunks", [slice(1, None), slice(2, 3), slice(-1, None)])
@pytest.mark.parametrize("crcs", [False, True])
def test_an_index_that_lies_is_not_believed(tmp_path, chunks, lie, crcs):
    from mcap.writer import Writer

    path = tmp_path / "d.mcap"
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=400, enable_crcs=crcs)
        writer.start(profile="ros2")
        schema = writer.register_schema("sensor_msgs/msg/Image", "ros2msg", b"")
        channel = writer.register_channel("/cam/image_raw", "cdr", schema)
        for shot in regular(COUNT):
            writer.add_message(channel, shot.log_ns, ros_message(shot), shot.log_ns)
        writer._Writer__finalize_chunk()
        for index in writer._Writer__chunk_indices[chunks]:
            index.chunk_start_offset += lie
        writer.finish()
    assert read(path).numbers == ALL


def test_a_message_that_a_flipped_bit_hides_is_missed(tmp_path):
    path = write_checked(tmp_path / "d.mcap", "NONE", crcs=False)
    data = path.read_bytes()
    at = data.index(b"\5", data.index(ros_message(regular(COUNT)[9])) - 31)
    path.write_bytes(damage(data, "flip", at, 7))
    found = read(path)
    assert found.numbers == ALL[:9] + ALL[10:]
    assert f"1 of {COUNT} messages of /cam/image_raw cannot be read" in " ".join(found.notes)


@pytest.mark.parametrize("part", [0, 7, 14, 21])
def test_an_index_without_a_checksum_is_not_believed(tmp_path, part):
    path = write_checked(tmp_path / "d.mcap", "NONE", crcs=False)
    data = path.read_bytes()
    (begin,) = struct.unpack_from("<Q", data, len(data) - 28)
    for at in range(begin + part, len(data), 79):
        path.write_bytes(damage(data, "flip", at, part))
        assert read(path).numbers == ALL


def test_a_header_that_is_none_leads_into_no_chunk(tmp_path):
    path = write_checked(tmp_path / "d.mcap", "ZSTD")
    data = bytearray(path.read_bytes())
    data[8] = 0x3F  # what was the header's opcode; the library then looks for it in the chunks
    at = data.find(b"zstd") + 30
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    assert read(path).numbers == ALL[3:]  # the first chunk holds three


def write_parts(folder: Path, name: str = "d_{}.mcap") -> list[Path]:
    folder.mkdir()
    shots = regular(COUNT)
    return [write(folder / name.format(n), shots[20 * n : 20 * n + 20]) for n in range(4)]


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if how == "a link to nothing":
        path.symlink_to(path.with_name("nothing"))
    elif how == "a folder":
        path.mkdir()
    else:
        import zstandard

        path.write_bytes({"short": data[:5], "zeros": bytes(len(data)), "packed": zstandard.compress(data)[:9]}[how])


@pytest.mark.parametrize("how", ["short", "zeros", "packed", "a link to nothing", "a folder"])
@pytest.mark.parametrize("part", [0, 2])
def test_a_part_that_cannot_be_read_costs_no_other_part(tmp_path, how, part):
    spoil(write_parts(tmp_path / "d")[part], how)
    found = read(tmp_path / "d")
    assert found.numbers == [number for number in ALL if number // 20 != part]
    assert any(f"d_{part}.mcap" in note or f"part {part} of d" in note for note in found.notes)
    assert found.account["lost"] == (20 if part else 0)


def test_parts_that_are_named_by_time_and_number_are_one_recording(tmp_path):
    """So `rosbag record --split` does; the last one is still open."""
    parts = write_parts(tmp_path / "d", "2024-05-01-12-00-0{0}_{0}.bag")
    parts[-1].rename(parts[-1].with_name(parts[-1].name + ".active"))
    assert read(tmp_path / "d").numbers == ALL
    for hidden in parts[:2]:
        hidden.with_name(f"._{hidden.name}").write_bytes(b"\0\5\x16\7")
    assert list_drives(str(tmp_path / "d")) == [str(tmp_path / "d")]


def test_parts_named_by_a_local_time_that_was_set_back_an_hour_are_one_recording(tmp_path):
    parts = write_parts(tmp_path / "d", "part_{0}.bag")
    for number, (part, time) in enumerate(zip(parts, ("02-58-00", "02-59-00", "02-00-00", "02-01-00"), strict=True)):
        part.rename(part.with_name(f"drive_2024-10-27-{time}_{number}.bag"))
    assert list_drives(str(tmp_path / "d")) == [str(tmp_path / "d")]
    assert read(tmp_path / "d").numbers == ALL


def test_a_part_with_one_wrong_time_of_logging_stays_between_its_neighbours(tmp_path):
    parts = write_parts(tmp_path / "d")
    shots = regular(COUNT)[40:60]
    write(parts[2], [*shots[:3], dataclasses.replace(shots[3], log_ns=START_NS - 30 * 10**9), *shots[4:]])
    found = [read(Path(drive)).numbers for drive in list_drives(str(tmp_path / "d"))]
    assert [number for each in found for number in sorted(each)] == ALL


@pytest.mark.parametrize("at", [1, 3])
def test_parts_go_by_number_though_the_local_time_was_set_back_and_one_is_cut_off(tmp_path, at):
    parts = write_parts(tmp_path / "d", "part_{0}.bag")
    for number, (part, time) in enumerate(zip(parts, ("02-58-00", "02-59-00", "02-00-00", "02-01-00"), strict=True)):
        data = part.read_bytes()
        name = f"drive_2024-10-27-{time}_{number}.bag"
        part.write_bytes(data[: len(data) * 2 // 3] if number == at else data)
        part.rename(part.with_name(f"{name}.active" if number == at else name))
    found = read(tmp_path / "d").numbers
    assert found == sorted(found)
    assert set(found) >= {number for number in ALL if number // 20 != at}


def write_bag(path: Path, compression: str = "BZ2") -> Path:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    kinds = ("sensor_msgs/msg/Image", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    image, header, time = (store.types[kind] for kind in kinds)
    writer = Writer(path)
    writer.chunk_threshold = 500
    writer.set_compression(Writer.CompressionFormat[compression])
    with writer:
        topic = writer.add_connection("/cam/image_raw", kinds[0], typestore=store)
        for shot in regular(COUNT):
            stamp = time(shot.stamp_ns // 10**9, shot.stamp_ns % 10**9)
            rows = np.full(64, shot.number, np.uint8)
            message = image(header(3 * shot.number, stamp, "cam"), 8, 8, "mono8", 0, 8, rows)
            writer.write(topic, shot.log_ns, store.serialize_ros1(message, kinds[0]))
    return path


def test_to_list_a_folder_unpacks_no_bag_that_is_damaged(tmp_path):
    for name in ("a.bag", "b.bag"):
        path = write_bag(tmp_path / name)
        path.write_bytes(path.read_bytes()[:-200])
    with cProfile.Profile() as profile:
        assert len(list_drives(str(tmp_path))) == 2
    assert "_read_messages" not in {getattr(entry.code, "co_name", "") for entry in profile.getstats()}
    assert [len(read(tmp_path / name).numbers) for name in ("a.bag", "b.bag")] == [COUNT, COUNT]


@settings(max_examples=100)
@given(
    compression=st.sampled_from(["BZ2", "LZ4"]),
    what=st.sampled_from(["flip", "zeros", "gone", "more"]),
    place=st.floats(0, 1, exclude_max=True),
    size=st.integers(1, 64),
)
def test_damage_in_a_bag_costs_what_it_touches(tmp_path_factory, compression, what, place, size):
    path = write_bag(tmp_path_factory.mktemp("d") / "d.bag", compression)
    data = path.read_bytes()
    at = len(b"#ROSBAG V2.0\n") + int((len(data) - 13) * place)
    path.write_bytes(damage(data, what, at, size))
    found = read(path)
    assert found.numbers == sorted(set(found.numbers))
    assert len(found.numbers) >= COUNT - 3 * CHUNK
    assert found.notes or found.account["lost"] or found.numbers == ALL


@pytest.mark.parametrize("field", [b"type=", b"conn=", b"md5sum="])
def test_a_flipped_bit_in_the_index_of_a_bag_costs_no_camera(tmp_path, field):
    path = write_bag(tmp_path / "d.bag")
    data = bytearray(path.read_bytes())
    data[data.index(field, data.index(b"topic=/cam/image_raw") - 30) + len(field)] ^= 1
    path.write_bytes(data)
    assert read(path).numbers == ALL


def test_an_absurd_length_in_a_bag_allocates_nothing(tmp_path):
    path = write_bag(tmp_path / "d.bag")
    data = bytearray(path.read_bytes())
    at = data.index(b"index_pos=") + len(b"index_pos=")
    data[at : at + 8] = bytes(8)  # as of a bag that was never closed
    path.write_bytes(data + struct.pack("<I", 1 << 25))
    os.truncate(path, len(data) + (1 << 26))
    tracemalloc.start()
    try:
        assert read(path).numbers == ALL
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


def test_a_database_that_ends_within_a_page_gives_no_black_pictures(tmp_path):
    frames = frames_of("front", 12)
    path = write_bag2(tmp_path / "d", frames) / "d.db3"
    data = path.read_bytes()
    for gone in (1, 60, 4000):
        path.write_bytes(data[:-gone])
        with open_drive(path) as drive:
            found = list(drive)
            notes = " ".join(drive.notes)
        assert_same_frames(found, [frames[frame.frame_id] for frame in found])
        assert len(found) < len(frames)
        assert "the last page is cut off" in notes


def test_cells_of_another_type_cost_their_own_images(tmp_path):
    path = next(write_bag2(tmp_path / "d", frames_of("front", 12)).glob("*.db3"))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE messages SET data = 'text' WHERE id = 3")
        database.execute("UPDATE messages SET data = x'', timestamp = 'no time' WHERE id = 12")
    with open_drive(path) as drive:
        assert len(list(drive)) == 10
        assert drive.account()["front"]["damaged"] == 2


def test_a_database_that_links_a_page_twice_comes_to_an_end(tmp_path):
    frames = frames_of("front", 60)
    path = write_bag2(tmp_path / "d", frames) / "d.db3"
    with closing(sqlite3.connect(path)) as database:
        ((root,),) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'")
    data = bytearray(path.read_bytes())
    size, root = struct.unpack_from(">H", data, 16)[0], (root - 1) * struct.unpack_from(">H", data, 16)[0]
    cells = [root + place for place in struct.unpack_from(">9H", data, root + 12)]  # each begins with a page's number
    data[cells[6] : cells[6] + 4] = data[cells[3] : cells[3] + 4]
    (lost,) = struct.unpack_from(">I", data, cells[7])
    data[(lost - 1) * size : lost * size] = bytes(size)
    path.write_bytes(data)
    with open_drive(path) as drive:
        found = list(drive)
    assert 30 < len(found) < len(frames)
    assert_same_frames(found, [frames[frame.frame_id] for frame in found])


def test_rows_of_a_topic_that_nothing_describes_are_named(tmp_path):
    path = write_bag2(tmp_path / "d", frames_of("front", 12)) / "d.db3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE messages SET topic_id = 77 WHERE id = 5")
        database.commit()
    with open_drive(path) as drive:
        assert len(list(drive)) == 11
        assert "messages of topic 77, which nothing describes, are left out" in " ".join(drive.notes)


def write_shuffled_video(path: Path, count: int = 60) -> Path:
    """CompressedVideo whose pictures are shown in another order than they are coded in (B frames)."""
    import av

    context = av.CodecContext.create("libx264", "w")
    context.width = context.height = 64
    context.pix_fmt, context.time_base, context.options = "yuv420p", Fraction(1, 20), {"g": "20", "bf": "3"}
    pictures = [av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * n, np.uint8), "rgb24") for n in range(count)]
    for number, picture in enumerate(pictures):
        picture.pts = number
    packets = [packet for picture in [*pictures, None] for packet in context.encode(picture)]
    messages = []
    for place, packet in enumerate(packets):
        shown = Frame("cam", 0, START_NS + packet.pts * STEP_NS, np.zeros((0, 0, 3), np.uint8))
        data = foxglove("CompressedVideo", shown, data=bytes(packet), format="h264")
        messages.append((START_NS + place * STEP_NS, data))
    return write_topics(path, "foxglove.CompressedVideo", {"/cam/video": messages}, chunk_size=400)


def test_video_that_is_coded_in_another_order_is_timed_and_counted_as_it_is_shown(tmp_path):
    path = write_shuffled_video(tmp_path / "d.mcap")
    data = path.read_bytes()
    for chunk in [None, *McapFile(path).chunks[2:8]]:
        path.write_bytes(data if chunk is None else damage(data, "flip", chunk.offset + chunk.length // 2, 0))
        with open_drive(path) as drive:
            frames = list(drive)
            account = drive.account()["cam"]
        shown = [(frame.capture_ns - START_NS) // STEP_NS for frame in frames]
        assert shown == sorted(set(shown))
        assert max(abs(int(f.image[30, 30, 0]) - 4 * n) for f, n in zip(frames, shown, strict=True)) < 12
        assert (account["images"], account["frames"] + account["damaged"]) == (60, 60)
        assert account["frames"] == 60 if chunk is None else 15 < account["frames"] < 60
