"""Recordings in several files, packed, unlisted, damaged, or beside others: what there is is read."""

import bz2
import cProfile
import gc
import gzip
import lzma
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import yaml
import zstandard

from streamtok.drives.drive_names import list_drives
from streamtok.drives.open_drive import open_drive
from streamtok.recording.reader import open_recording
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.recording.repair import repair
from streamtok.recording.writer import RecordingWriter
from streamtok.tokens.dataset import TokenDataset
from streamtok.tokens.tracks import find_drives
from tests.kit.disk import full_disk
from tests.kit.drives import assert_same_frames, frames_of, write_bag1, write_bag2, write_mcap
from tests.kit.drives import read_drive as read
from tests.kit.recordings import info, messages

FRAMES = frames_of("front", 36)
PACKERS = {gzip: ".gz", bz2: ".bz2", lzma: ".xz", lz4.frame: ".lz4", zstandard: ".zst"}


def thirds(count: int = 3):
    size = len(FRAMES) // count
    return [FRAMES[at : at + size] for at in range(0, len(FRAMES), size)]


def write_db3_parts(folder: Path, count: int = 3) -> dict:
    """NAME_0.db3 ... as `ros2 bag record` splits them; the metadata of one."""
    folder.mkdir()
    for number, frames in enumerate(thirds(count)):
        made = write_bag2(folder.parent / "made", frames)
        (made / "made.db3").rename(folder / f"d_{number}.db3")
        metadata = yaml.safe_load((made / "metadata.yaml").read_text())
        shutil.rmtree(made)
    return metadata


def write_list(folder: Path, metadata: dict, names: list[str]) -> None:
    metadata["rosbag2_bagfile_information"]["relative_file_paths"] = names
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))


def write_parts(folder: Path, kind: str) -> None:
    folder.mkdir()
    for number, frames in enumerate(thirds(12)):
        if kind == "mcap":
            write_mcap(folder / f"d_{number}.mcap", frames)
        else:
            write_bag1(folder / f"d_{number}.bag", frames)


@pytest.mark.parametrize("kind", ["mcap", "bag"])
def test_twelve_parts_are_read_in_the_order_of_their_numbers(tmp_path, kind):
    write_parts(tmp_path / "d", kind)
    found, notes = read(tmp_path / "d")
    assert_same_frames(found, FRAMES)
    assert "12 files are read as one recording" in notes
    assert found[-1].frame_id - found[0].frame_id == 35


def test_a_list_decides_the_order_and_what_it_lacks_is_read_too(tmp_path):
    folder = tmp_path / "d"
    metadata = write_db3_parts(folder)
    (folder / "d_0.db3").rename(folder / "first.db3")
    write_list(folder, metadata, ["first.db3", "d_1.db3", "d_7.db3"])
    found, notes = read(folder)
    assert_same_frames(found, FRAMES)
    assert "d_7.db3 is listed in metadata.yaml and is not there" in notes
    assert "d_2.db3 is not listed in metadata.yaml; it is read too" in notes


@pytest.mark.parametrize("metadata", [None, "", "[broken", "renamed"])
def test_without_a_usable_list_the_numbers_decide(tmp_path, metadata):
    folder = tmp_path / "d"
    listed = write_db3_parts(folder)
    if metadata == "renamed":
        write_list(folder, listed, ["old_0.db3", "old_1.db3"])
    elif metadata is not None:
        (folder / "metadata.yaml").write_text(metadata)
    found, notes = read(folder)
    assert_same_frames(found, FRAMES)
    assert (metadata is None) == ("metadata.yaml" not in notes)


def test_parts_that_are_gone_empty_or_broken_are_named(tmp_path):
    folder = tmp_path / "d"
    write_db3_parts(folder, 4)
    (folder / "d_1.db3").unlink()
    (folder / "d_2.db3").write_bytes(b"")
    found, notes = read(folder)
    assert_same_frames(found, [*FRAMES[:9], *FRAMES[27:]])
    assert "part 1, 2 of d is not there" in notes
    assert "d_2.db3 is empty" in notes
    assert [frame.frame_id for frame in found] == [*range(9), *range(27, 36)]


LOGGING_CHILD = """
import os, sqlite3, sys
rows = sqlite3.connect(sys.argv[2]).execute("SELECT topic_id, timestamp, data FROM messages").fetchall()
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA journal_mode=WAL")
database.execute("PRAGMA wal_autocheckpoint=0")
for row in rows:
    database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    database.commit()
os._exit(1)
"""


def test_what_a_killed_recorder_left_in_its_write_ahead_log_is_read(tmp_path):
    first, rest = write_bag2(tmp_path / "a", FRAMES[:6]) / "a.db3", write_bag2(tmp_path / "b", FRAMES[6:]) / "b.db3"
    (tmp_path / "a" / "metadata.yaml").unlink()
    subprocess.run([sys.executable, "-c", LOGGING_CHILD, str(first), str(rest)], check=False)
    log = first.with_name("a.db3-wal")
    size = log.stat().st_size
    assert size
    assert_same_frames(read(tmp_path / "a")[0], FRAMES)
    assert log.stat().st_size == size  # it is evidence, and stays
    assert len(sqlite3.connect(first).execute("SELECT id FROM messages").fetchall()) == 36


def write_killed(folder: Path) -> Path:
    """A bag as a recorder left it that was killed while it changed it."""
    path = next(write_bag2(folder / "d", FRAMES).glob("*.db3"))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN")
        database.execute("DELETE FROM messages WHERE id < 10")
        killed = shutil.copytree(folder / "d", folder / "killed")
        database.execute("ROLLBACK")
    return killed


def test_what_a_killed_recorder_had_not_finished_is_undone(tmp_path):
    killed = write_killed(tmp_path)
    journal = next(killed.glob("*-journal"))
    size = journal.stat().st_size
    assert size
    for file in killed.iterdir():
        file.chmod(0o444)
    assert_same_frames(read(killed)[0], FRAMES)
    assert journal.stat().st_size == size  # it is evidence, and stays


def test_without_room_to_undo_it_a_bag_is_read_as_it_is_and_that_is_said(tmp_path):
    killed = write_killed(tmp_path)
    with full_disk(1000):
        found, notes = read(killed)
    assert found
    assert "TMPDIR says where else" in notes


def test_a_journal_of_what_was_finished_is_nothing_to_undo(tmp_path):
    folder = write_bag2(tmp_path / "d", FRAMES)
    with closing(sqlite3.connect(folder / "d.db3")) as database, database:
        database.execute("PRAGMA journal_mode = PERSIST")
        database.execute("UPDATE topics SET offered_qos_profiles = ''")
    assert (folder / "d.db3-journal").stat().st_size
    with full_disk(1000):
        found, notes = read(folder)
    assert_same_frames(found, FRAMES)
    assert "TMPDIR" not in notes


def test_to_list_a_folder_copies_nothing(tmp_path):
    killed = write_killed(tmp_path)
    shutil.copy(killed / "d.db3", killed / "e.db3")
    with cProfile.Profile() as profile:
        assert list_drives(str(killed))
    assert "copyfile" not in {getattr(entry.code, "co_name", "") for entry in profile.getstats()}


def test_a_bag_packed_by_the_zstd_command_is_found_in_its_folder(tmp_path):
    packed = next(write_bag2(tmp_path / "d", FRAMES, "MCAP", compression="FILE").glob("*.zstd"))
    packed.rename(packed.with_suffix(".zst"))
    assert_same_frames(read(tmp_path / "d")[0], FRAMES)


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
@pytest.mark.parametrize("mode", ["FILE", "MESSAGE"])
@pytest.mark.parametrize("bare", [False, True])
def test_bags_packed_by_zstd_are_read_with_and_without_their_folder(tmp_path, storage, mode, bare):
    folder = write_bag2(tmp_path / "d", FRAMES, storage, compression=mode)
    path = next(path for path in folder.iterdir() if "yaml" not in path.name) if bare else folder
    found, notes = read(path)
    assert_same_frames(found, FRAMES)
    assert not notes


@pytest.mark.parametrize("kind", ["mcap", "bag", "db3"])
@pytest.mark.parametrize("pack", PACKERS, ids=PACKERS.values())
def test_parts_packed_by_any_common_program_are_read(tmp_path, kind, pack):
    if kind == "db3":
        write_db3_parts(tmp_path / "d")
    else:
        write_parts(tmp_path / "d", kind)
    for path in sorted(path for path in (tmp_path / "d").iterdir() if path.suffix == f".{kind}"):
        path.with_name(path.name + PACKERS[pack]).write_bytes(pack.compress(path.read_bytes()))
        path.unlink()
    found, notes = read(tmp_path / "d")
    assert_same_frames(found, FRAMES)
    assert "damaged" not in notes
    last = max((tmp_path / "d").glob(f"*{PACKERS[pack]}"))
    last.write_bytes(last.read_bytes()[:-20])
    found, notes = read(tmp_path / "d")
    assert len(found) >= 24
    assert "its compression is damaged" in notes or "nothing of it can be unpacked" in notes


def test_a_packed_file_that_is_cut_off_gives_what_is_there(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (120, 32, 48, 3), np.uint8)  # which fills many blocks
    frames = [replace(frame, picture=image) for frame, image in zip(frames_of("front", 120), noise, strict=True)]
    path = next(write_bag2(tmp_path / "d", frames, "MCAP", compression="FILE").glob("*.zstd"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    found, notes = read(path)
    assert 20 < len(found) < 120
    assert "cut off" in notes
    path.write_bytes(whole[:4])
    with pytest.raises(ValueError, match="nothing of it can be unpacked"):
        read(path)


@pytest.mark.parametrize("pack", PACKERS, ids=PACKERS.values())
def test_packed_files_that_are_cut_off_or_longer_lose_no_more_than_a_block(tmp_path, pack):
    data = write_mcap(tmp_path / "d.mcap", FRAMES).read_bytes()
    path = tmp_path / f"d.mcap{PACKERS[pack]}"
    blocks = [pack.compress(data[at : at + 5000]) for at in range(0, len(data), 5000)]
    path.write_bytes(b"".join(blocks[:-1]) + blocks[-1][:-8])
    found, notes = read(path)
    assert_same_frames(found, FRAMES[: len(found)])
    assert len(found) > len(FRAMES) // 2
    assert "its compression is damaged (it is cut off); what comes before is read" in notes
    for behind, said in ((b"no part of it", True), (bytes(9000), False), (b"".join(blocks), False)):
        path.write_bytes(b"".join(blocks) + behind)
        found, notes = read(path)
        assert_same_frames(found, FRAMES)
        assert ("its compression is damaged" in notes) == said


@pytest.mark.parametrize("kind", ["mcap", "bag", "db3"])
def test_what_was_unpacked_is_gone_with_the_drive(tmp_path, monkeypatch, kind):
    path = {"mcap": write_mcap, "bag": write_bag1, "db3": write_bag2}[kind](tmp_path / f"d.{kind}", FRAMES)
    path = next(path.glob("*.db3"), path)
    packed = tmp_path / f"packed.{kind}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "unpacked"))
    gc.disable()
    try:
        assert len(read(packed)[0]) == len(FRAMES)
        assert not list((tmp_path / "unpacked").iterdir())
    finally:
        gc.enable()


def test_cameras_recorded_at_one_time_in_files_of_their_own_are_one_drive(tmp_path):
    rear = [replace(frame, stream="rear") for frame in FRAMES]
    write_mcap(tmp_path / "one.mcap", FRAMES)
    write_mcap(tmp_path / "two.mcap", rear)
    found, notes = read(tmp_path)
    assert [frame.stream for frame in found].count("rear") == 36
    assert "2 files are read as one recording" in notes
    assert list_drives(str(tmp_path)) == [str(tmp_path)]


def test_recordings_that_do_not_belong_together_are_a_drive_each(tmp_path):
    write_parts(tmp_path / "d", "mcap")
    hours_later = [replace(frame, capture_ns=frame.capture_ns + 10**13) for frame in FRAMES]
    write_mcap(tmp_path / "d" / "evening.mcap", hours_later)
    write_bag1(tmp_path / "d" / "d_99.bag", FRAMES)
    with pytest.raises(ValueError, match=r"3 drives that do not belong together: .*`streamtok tokenize` do each"):
        open_drive(tmp_path / "d")
    names = list_drives(str(tmp_path))
    assert [len(read(name)[0]) for name in names] == [36, 36, 36]
    assert f"parts:{tmp_path / 'd' / 'd_0.mcap'}" in names


def test_the_only_drive_in_the_folders_below_is_read_and_that_is_said(tmp_path):
    (tmp_path / "day").mkdir()
    metadata = write_db3_parts(tmp_path / "day" / "parts")
    write_list(tmp_path / "day", metadata, [f"parts/d_{number}.db3" for number in range(3)])
    found, notes = read(tmp_path)
    assert_same_frames(found, FRAMES)
    assert f"is the only drive in {tmp_path}" in notes


def test_parts_of_our_own_past_999_come_in_order(tmp_path):
    numbers = [0, 9, 10, 999, 1000]
    for number, (made, tokens) in zip(numbers, messages(5), strict=True):
        path = tmp_path / (f"d_{number:03d}.mcap" if number else "d.mcap")
        with closing(RecordingWriter(path, {"part": number, "first_file": "d.mcap"})) as writer:
            writer.add_stream("front", info(), 0)
            writer.write_tokens(made, tokens.tobytes())
    recording = open_recording(tmp_path)
    assert [message.header.seq for message in recording.messages()] == list(range(5))
    assert [path.name for (path,) in find_drives(tmp_path)][-2:] == ["d_999.mcap", "d_1000.mcap"]


@pytest.mark.parametrize("unpacked", ["whole", "cut off"])
def test_a_file_that_lies_there_packed_and_unpacked_counts_once(tmp_path, unpacked):
    """Players of ROS 2 unpack beside the packed file, and leave it there; killed, they leave a part of it."""
    folder = write_bag2(tmp_path / "bag", FRAMES)
    plain = folder / "bag.db3"
    data = plain.read_bytes()
    (folder / "bag.db3.zstd").write_bytes(zstandard.ZstdCompressor().compress(data))
    write_list(folder, yaml.safe_load((folder / "metadata.yaml").read_text()), ["bag.db3.zstd"])
    plain.write_bytes(data if unpacked == "whole" else data[: len(data) // 2])
    found, notes = read(folder)
    assert_same_frames(found, FRAMES)
    assert f"bag.db3{'.zstd' if unpacked == 'whole' else ''} is left out" in notes
    assert "metadata.yaml" not in notes


def test_what_comes_after_the_end_of_a_file_is_said(tmp_path):
    first, second = (write_mcap(tmp_path / name, frames) for name, frames in zip("ab", thirds(2), strict=True))
    (tmp_path / "both.mcap").write_bytes(first.read_bytes() + second.read_bytes())
    found, notes = read(tmp_path / "both.mcap")
    assert_same_frames(found, thirds(2)[0])
    assert f"from byte {first.stat().st_size} on, is left out" in notes
    assert "another MCAP file" in notes


def test_a_file_and_what_was_repaired_of_it_count_once(tmp_path):
    with Recorder(tmp_path / "d.mcap", RecorderOptions("lossless", wait=True, min_free_bytes=0)) as recorder:
        recorder.add_stream(info())
        for frame, (made, tokens) in zip(FRAMES, messages(36), strict=True):
            recorder.write_frame(frame)
            recorder.write_group(made, tokens)
    path = tmp_path / "d.mcap"
    path.write_bytes(path.read_bytes()[:-400])
    assert repair(path).path == tmp_path / "d_repaired.mcap"
    assert len(list(open_recording(tmp_path).messages())) == 36
    assert len(read(tmp_path)[0]) == 36
    assert len(TokenDataset(tmp_path, window=4)) == 9
    assert len(TokenDataset([path, tmp_path / "d_repaired.mcap"], window=4)) == 9


def test_a_bag_and_what_rosbag_kept_of_it_count_once(tmp_path):
    write_bag1(tmp_path / "d.bag", FRAMES)
    shutil.copy(tmp_path / "d.bag", tmp_path / "d.orig.bag")  # of reindex, compress, fix
    found, notes = read(tmp_path)
    assert_same_frames(found, FRAMES)
    assert list_drives(str(tmp_path)) == [str(tmp_path)]
    assert "d.orig.bag is left out: d.bag was made of it" in notes
    (tmp_path / "d.bag").unlink()
    assert_same_frames(read(tmp_path)[0], FRAMES)


@pytest.mark.parametrize("left", [0, 100, 4200, 9000, -1])
def test_what_rosbag_kept_of_a_bag_that_it_did_not_finish_is_read(tmp_path, left):
    write_bag1(tmp_path / "d.bag", FRAMES)
    shutil.copy(tmp_path / "d.bag", tmp_path / "d.orig.bag")
    (tmp_path / "d.bag").write_bytes((tmp_path / "d.bag").read_bytes()[:left])
    (whole,) = [drive for drive in list_drives(str(tmp_path)) if not drive.endswith("d.bag")]
    assert_same_frames(read(whole)[0], FRAMES)


def test_only_rosbag_keeps_originals(tmp_path):
    write_mcap(tmp_path / "d.mcap", FRAMES[:10])
    write_mcap(tmp_path / "d.orig.mcap", FRAMES)
    assert list_drives(str(tmp_path)) == [str(tmp_path / "d.mcap"), str(tmp_path / "d.orig.mcap")]


@pytest.mark.parametrize("kind", ["mcap", "db3", "bag"])
def test_a_name_may_be_as_long_as_a_disk_takes(tmp_path, kind):
    made = {"mcap": write_mcap, "bag": write_bag1}.get(kind, lambda path, frames: write_bag2(path, frames) / "d")
    path = made(tmp_path / "d", FRAMES).with_suffix(".db3" if kind == "db3" else "")
    path = path.rename(tmp_path / f"{'d' * (254 - len(kind))}.{kind}")
    assert_same_frames(read(path)[0], FRAMES)
