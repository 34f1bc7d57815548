"""What is recorded comes back; what could not be recorded is counted; what was cut off is recovered."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import count, islice, takewhile

import msgpack
import msgspec
import numpy as np
import pytest

from streamtok.drives.open_drive import open_drive
from streamtok.recording.mcap_file import McapFile
from streamtok.recording.reader import open_recording
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.recording.repair import repair
from streamtok.recording.write_queue import WriteJob, WriteQueue
from streamtok.recording.writer import RecordingWriter
from streamtok.types import Frame
from streamtok.wire.header import TokenHeader
from streamtok.wire.message import TokenMessage
from tests.kit.disk import full_disk
from tests.kit.drives import assert_same_frames, decode_video, encode_video, frames_of
from tests.kit.recordings import CLOCK, header, info, messages
from tests.kit.threads import beside
from tests.kit.wire import eventually

NO_GUARD = {"min_free_bytes": 0}


def record(path, count=20, announced=None, change=lambda made: made, **options):
    """Record token messages, some of them changed; returns the recorder, closed."""
    recorder = Recorder(path, RecorderOptions(wait=True, **NO_GUARD | options), metadata={"purpose": "test"})
    recorder.add_stream(announced or info())
    for made, tokens in messages(count):
        recorder.write_group(change(made), tokens)
    recorder.close()
    assert not recorder.error
    return recorder


def test_token_messages_come_back_as_they_were_sent(tmp_path):
    record(tmp_path / "d.mcap")
    recording = open_recording(tmp_path / "d.mcap")
    found = list(recording.messages())
    for message, (made, tokens) in zip(found, messages(20), strict=True):
        assert message.header == made
        np.testing.assert_array_equal(message.tokens, tokens)
    assert recording.streams == ["front"]
    assert recording.metadata["purpose"] == "test"
    first = recording.first_infos()["front"]
    assert first == msgspec.structs.replace(info(), clock=first.clock)
    assert not recording.damage


def test_what_is_missed_again_and_again_is_one_line_in_ten_seconds(tmp_path, caplog):
    with caplog.at_level("WARNING", "streamtok.record"):
        recorder = Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, **NO_GUARD))
        recorder.add_stream(info())
        for made, tokens in messages(20):
            recorder.missed("front", "tokens", 2)
            recorder.write_group(made, tokens)
        assert caplog.text.count("event=missed") == 1
        recorder.close()
    assert caplog.text.count("event=missed") == 2  # and all that followed, at the end
    assert "messages=38" in caplog.text
    assert recorder.counts["missed"] == 40


FAR = 2**63 - 1
UNSTORABLE = {
    "far": lambda made: msgspec.structs.replace(made, capture_ns=[FAR - i for i in range(len(made.capture_ns))][::-1]),
    "long ago": lambda made: msgspec.structs.replace(made, capture_ns=[i - FAR for i in range(len(made.capture_ns))]),
    "published far": lambda made: msgspec.structs.replace(made, publish_ns=FAR),
}


@pytest.mark.parametrize("kind", UNSTORABLE)
def test_a_message_that_no_file_holds_is_counted_and_the_others_are_kept(tmp_path, caplog, kind):
    recorder = record(tmp_path / "d.mcap", change=lambda made: UNSTORABLE[kind](made) if made.seq in (3, 7) else made)
    assert (recorder.counts["tokens"], recorder.counts["missed"]) == (18, 2)
    found = [message.header.seq for message in open_recording(tmp_path / "d.mcap").messages()]
    assert found == [*range(3), *range(4, 7), *range(8, 20)]
    assert caplog.text.count("event=unstorable messages=1 ") == 2  # at once, and at the end


@pytest.mark.parametrize("field", ["metadata", "engine"])
@pytest.mark.parametrize(
    "value", [b"bytes", msgspec.msgpack.Ext(5, b"x"), float("nan"), {"deep": [msgpack.Timestamp(1, 2)]}]
)
def test_an_info_that_no_file_holds_loses_the_map_that_is_odd(tmp_path, field, value):
    record(tmp_path / "d.mcap", 5, info(**{field: {"a": value}}))
    recording = open_recording(tmp_path / "d.mcap")
    assert len(list(recording.messages())) == 5
    assert getattr(recording.first_infos()["front"], field) == {}


def test_an_odd_frame_is_counted_and_the_stream_goes_on(tmp_path):
    recorder = Recorder(tmp_path / "d.mcap", RecorderOptions(frames="lossless", wait=True, **NO_GUARD))
    recorder.add_stream(info())
    recorder.write_frame(Frame("front", 0, CLOCK[0], np.zeros((2,), object)))
    recorder.write_frame(Frame("front", 1, CLOCK[0] + 1, np.zeros((2, 2, 3), np.uint8)))
    recorder.close()
    assert not recorder.error


def test_the_plain_mcap_library_reads_it_as_the_protocol_page_says(tmp_path):
    from mcap.reader import make_reader

    recorder = Recorder(tmp_path / "d.mcap", RecorderOptions(frames="lossless", wait=True, **NO_GUARD))
    recorder.add_stream(info())
    made, tokens = header(0)
    recorder.write_group(made, tokens)
    recorder.close()
    with (tmp_path / "d.mcap").open("rb") as file:
        reader = make_reader(file)
        metadata = {record.name: record.metadata for record in reader.iter_metadata()}
        found = list(reader.iter_messages(topics=["tokens/front"]))
    assert metadata["streamtok"]["format"] == "streamtok-recording"
    (schema, channel, message) = found[0]
    stored = msgpack.unpackb(message.data)
    grid = np.frombuffer(stored["payload"], "<u2").reshape(stored["header"]["grid"])
    np.testing.assert_array_equal(grid, tokens)
    assert (schema.name, schema.encoding, channel.message_encoding) == (
        "streamtok.TokenMessage",
        "jsonschema",
        "msgpack",
    )
    described = json.loads(schema.data)
    assert described["required"] == ["header", "payload"]
    assert described["properties"]["payload"]["contentEncoding"] == "binary"
    described_header = described["$defs"]["TokenHeader"]["properties"]
    assert described_header.keys() == set(TokenHeader.__struct_fields__)
    assert described_header["session"]["pattern"] == "^[0-9a-f]{32}$"  # of JSON Schema, whose dialect has no \A
    assert message.log_time == made.capture_ns[-1] + int(channel.metadata["clock_offset_ns"])
    assert message.log_time - made.capture_ns[-1] == CLOCK[1] - CLOCK[0]
    assert json.loads(channel.metadata["engine"]) == {"device": "cpu", "threads": 1}
    assert channel.metadata["tokenizer"] == "f" * 40


def test_frames_are_lossless_by_default_with_their_own_ids_and_times(tmp_path):
    frames = [replace(frame, frame_id=frame.frame_id + (1 << 32) - 3) for frame in frames_of("front", 8)]
    with Recorder(tmp_path / "d.mcap", RecorderOptions("lossless", wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        for frame in frames:
            recorder.write_frame(frame)
    with open_drive(tmp_path / "d.mcap") as drive:
        found = list(drive)
    assert_same_frames(found, frames)
    assert [frame.frame_id for frame in found] == [frame.frame_id for frame in frames]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_compressed_sources_keep_their_packets(tmp_path, codec):
    frames = frames_of("front", 20)
    packets = encode_video([frame.image for frame in frames], codec)
    pictures = decode_video(packets, codec)
    frames = [
        replace(frame, picture=image, packet=packet, codec=codec)
        for frame, image, packet in zip(frames, pictures, packets, strict=True)
    ]
    with Recorder(tmp_path / "d.mcap", RecorderOptions("lossless", wait=True, **NO_GUARD)) as recorder:
        for frame in frames:
            recorder.write_frame(frame)
    with open_drive(tmp_path / "d.mcap") as drive:
        found = list(drive)
    assert_same_frames(found, frames)
    assert [frame.packet for frame in found] == packets


def test_packets_after_one_that_was_not_recorded_are_kept_as_pictures(tmp_path):
    frames = frames_of("front", 20)
    packets = encode_video([frame.image for frame in frames], "h264")
    with Recorder(tmp_path / "d.mcap", RecorderOptions("lossless", wait=True, **NO_GUARD)) as recorder:
        for frame, packet in zip(frames, packets, strict=True):
            if frame.frame_id != 4:
                recorder.write_frame(replace(frame, packet=packet, codec="h264"))
    with open_drive(tmp_path / "d.mcap") as drive:
        assert [frame.frame_id for frame in drive] == [*range(4), *range(5, 20)]


def test_lossy_frames_mark_the_file(tmp_path):
    with Recorder(tmp_path / "d.mcap", RecorderOptions("lossy", wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        recorder.write_group(*header(0))
        for frame in frames_of("front", 3):
            recorder.write_frame(frame)
    assert open_recording(tmp_path / "d.mcap").frames_mode == "lossy"
    with open_drive(tmp_path / "d.mcap") as drive:
        assert [frame.frame_id for frame in drive] == [0, 1, 2]


def test_token_grids_can_be_looked_at(tmp_path):
    from streamtok.io.messages.image_messages import protobuf_class

    record(tmp_path / "d.mcap", count=3, pictures=True)
    file = McapFile(tmp_path / "d.mcap")
    ids = [number for number, channel in file.channels.items() if channel.topic == "token_images/front"]
    for message, (_, tokens) in zip(file.messages(ids), messages(3), strict=True):
        image = protobuf_class("RawImage").FromString(bytes(message.data))
        assert (image.height, image.width, image.encoding) == (4, 6, "mono16")
        np.testing.assert_array_equal(np.frombuffer(image.data, "<u2").reshape(4, 6), tokens)


def test_messages_lost_on_the_way_are_counted_in_the_file(tmp_path):
    with Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        for seq in (0, 1, 5, 6):
            recorder.write_group(*header(seq))
    assert recorder.counts["missed"] == 3
    recording = open_recording(tmp_path / "d.mcap")
    assert [message.lost for message in recording.messages()] == [0, 0, 3, 0]
    (missed,) = recording.missed()
    assert (missed.stream, missed.kind, missed.count, missed.reason) == ("front", "tokens", 3, "network")


def test_a_recorder_that_is_behind_leaves_frames_out_and_says_so(tmp_path, monkeypatch):
    from streamtok.recording import recorder as module

    release = threading.Event()

    class Slow(module.RecordingWriter):
        def write_frame(self, frame):
            release.wait(60)
            super().write_frame(frame)

    monkeypatch.setattr(module, "RecordingWriter", Slow)
    frames = frames_of("front", 40)
    room = 5 * frames[0].image.nbytes
    recorder = Recorder(tmp_path / "d.mcap", RecorderOptions("lossless", queue_bytes=room, **NO_GUARD))
    recorder.add_stream(info())
    for frame in frames:
        recorder.write_frame(frame)
    for made, tokens in messages(10):
        recorder.write_group(made, tokens)
    release.set()
    recorder.close()
    kept = recorder.counts["frames"]
    assert 5 <= kept < 40
    assert recorder.counts["missed"] == 40 - kept
    assert recorder.counts["tokens"] == 10
    recording = open_recording(tmp_path / "d.mcap")
    assert [(one.kind, one.reason, one.count) for one in recording.missed()] == [("frames", "queue", 40 - kept)]


def test_a_new_file_begins_at_the_size_that_was_asked_for_and_all_are_read_as_one(tmp_path, monkeypatch):
    from streamtok.recording import recorder as module

    monkeypatch.setattr(module, "FLUSH_S", 0.0)
    frames = frames_of("front", 30)
    options = RecorderOptions("lossless", max_bytes=10_000, wait=True, **NO_GUARD)
    recorder = Recorder(tmp_path / "d.mcap", options)
    recorder.add_stream(info())
    for number, frame in enumerate(frames):
        recorder.write_frame(frame)
        recorder.write_group(*header(number))
    recorder.close()
    assert len(recorder.paths) > 3
    assert recorder.paths[1].name == "d_001.mcap"
    recording = open_recording(tmp_path)
    assert [message.header.seq for message in recording.messages()] == list(range(30))
    with open_drive(tmp_path) as drive:
        assert_same_frames(list(drive), frames)
    assert all(open_recording(path).first_infos() for path in recorder.paths[:-1])


def test_a_full_disk_ends_the_recording_with_what_there_is(tmp_path, monkeypatch):
    from streamtok.recording import recorder as module

    monkeypatch.setattr(module, "FLUSH_S", 0.0)
    free = shutil.disk_usage(tmp_path).free
    recorder = Recorder(tmp_path / "d.mcap", RecorderOptions(min_free_bytes=free + (64 << 30), wait=True))
    recorder.add_stream(info())
    for made, tokens in messages(50):
        recorder.write_group(made, tokens)
    recorder.close()
    assert f"stops below {(free + (64 << 30)) / 1e6:.0f} MB" in recorder.error
    assert recorder.counts["missed"] + recorder.counts["tokens"] == 50
    file = McapFile(tmp_path / "d.mcap")
    assert file.indexed


def test_a_disk_that_takes_no_more_ends_the_recording_and_the_rest_is_counted(tmp_path, monkeypatch):
    """The system refuses to write, and refuses again what is still buffered when the file is closed."""
    from streamtok.recording import recorder as module

    monkeypatch.setattr(module, "FLUSH_S", 0.0)
    recorder = Recorder(tmp_path / "d.mcap", RecorderOptions(min_free_bytes=0, wait=True))
    recorder.add_stream(info())
    with full_disk(20_000):
        for made, tokens in messages(5000):
            recorder.write_group(made, tokens)
        recorder.close()
    assert "too large" in recorder.error
    assert recorder.counts["bytes"] == (tmp_path / "d.mcap").stat().st_size > 0
    assert recorder.unrecorded["front"] == recorder.counts["missed"] > 0


def test_a_disk_without_room_for_a_beginning_is_named_and_nothing_is_left(tmp_path):
    with full_disk(10), pytest.raises(OSError, match=r"d\.mcap"):
        Recorder(tmp_path / "d.mcap", RecorderOptions("lossless"))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_deleted_is_followed_by_another_and_a_folder_that_is_moved_keeps_its_own(tmp_path, caplog):
    folder = tmp_path / "drives"
    folder.mkdir()
    with Recorder(folder / "d.mcap", RecorderOptions(wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        (folder / "d.mcap").unlink()
        assert eventually(lambda: len(recorder.paths) == 2)
        folder.rename(tmp_path / "moved")
        for made, tokens in messages(5):
            recorder.write_group(made, tokens)
    assert not recorder.error
    assert "event=removed" in caplog.text
    assert len(list(open_recording(tmp_path / "moved" / "d_001.mcap").messages())) == 5


def test_a_file_whose_disk_is_unmounted_is_followed_by_another(tmp_path):
    """The kernel names a file of a detached mount by its path there, where nobody finds it."""
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(tmp_path)]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    program = f"""
import subprocess
from pathlib import Path
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from tests.kit.recordings import info, messages
from tests.kit.wire import eventually
with Recorder(Path({str(tmp_path)!r}) / "d.mcap", RecorderOptions(wait=True, min_free_bytes=0)) as recorder:
    recorder.add_stream(info())
    subprocess.run(["umount", "--lazy", {str(tmp_path)!r}], check=True)
    assert eventually(lambda: len(recorder.paths) == 2)
    for made, tokens in messages(5):
        recorder.write_group(made, tokens)
"""
    subprocess.run([*mounted, sys.executable, "-c", program], check=True, timeout=200)
    assert len(list(open_recording(tmp_path / "d_001.mcap").messages())) == 5


def test_a_file_system_that_counts_no_links_has_not_lost_its_file(tmp_path, monkeypatch):
    def count_no_links(descriptor: int, fstat=os.fstat) -> os.stat_result:
        return os.stat_result([0 if place == 3 else value for place, value in enumerate(fstat(descriptor))])

    monkeypatch.setattr(os, "fstat", count_no_links)
    with Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        for made, tokens in messages(5):
            recorder.write_group(made, tokens)
        assert eventually(lambda: recorder.counts["tokens"] == 5)
        (tmp_path / "d.mcap").unlink()
        assert eventually(lambda: len(recorder.paths) == 2)
    assert recorder.paths == [tmp_path / "d.mcap", tmp_path / "d_001.mcap"]


def test_an_end_that_takes_too_long_is_said_and_can_be_waited_for(tmp_path, caplog, monkeypatch):
    released, end = threading.Event(), RecordingWriter.close
    monkeypatch.setattr(RecordingWriter, "close", lambda *args: released.wait(60) and end(*args))
    recorder = Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, **NO_GUARD))
    recorder.add_stream(info())
    for made, tokens in messages(500):
        recorder.write_group(made, tokens)
    recorder.close(timeout=0)
    assert "d.mcap: cut off 0 s after the end was asked for" in caplog.text
    released.set()
    recorder.close()
    assert recorder.counts["tokens"] == 500
    assert len(list(open_recording(tmp_path / "d.mcap").messages())) == 500


def test_a_folder_that_is_moved_keeps_its_own_files_and_they_are_named_as_they_lie(tmp_path, caplog):
    folder = tmp_path / "drives"
    folder.mkdir()
    with Recorder(folder / "d.mcap", RecorderOptions(wait=True, max_bytes=10_000, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        folder.rename(tmp_path / "moved")
        assert eventually(lambda: recorder.paths == [tmp_path / "moved" / "d.mcap"])
        for number in range(3):
            for made, tokens in islice(messages(600), 200 * number, 200 * (number + 1)):
                recorder.write_group(made, tokens)
            assert eventually(lambda number=number: len(recorder.paths) > number + 1)
    assert not recorder.error
    assert sorted(recorder.paths) == sorted((tmp_path / "moved").iterdir())
    assert recorder.counts["bytes"] == sum(path.stat().st_size for path in recorder.paths)
    assert f"path={folder / 'd.mcap'} event=moved times=1 to={tmp_path / 'moved' / 'd.mcap'}" in caplog.text
    assert len(list(open_recording(tmp_path / "moved").messages())) == 600


def test_a_file_that_is_moved_is_followed_by_another_where_it_was(tmp_path):
    with Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        (tmp_path / "other").mkdir()
        (tmp_path / "d.mcap").rename(tmp_path / "other" / "e.mcap")
        assert eventually(lambda: recorder.paths == [tmp_path / "other" / "e.mcap"])
        (tmp_path / "other" / "e.mcap").unlink()
        assert eventually(lambda: recorder.paths[1:] == [tmp_path / "d_001.mcap"])
    assert not recorder.error


def test_a_file_that_is_being_moved_is_never_taken_for_a_deleted_one(tmp_path):
    def move(stop):
        for number in takewhile(lambda _: not stop.is_set(), count(1)):
            (tmp_path / f"{number - 1}.mcap").rename(tmp_path / f"{number}.mcap")

    stop = threading.Event()
    with closing(RecordingWriter(tmp_path / "0.mcap", {})) as writer, beside(move, stop):
        assert not any(writer.is_removed for _ in range(20_000))
        stop.set()


def test_a_deleted_file_that_none_can_follow_yet_is_said_once_in_ten_seconds(tmp_path, caplog):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        free = os.dup(1)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            (tmp_path / "d.mcap").unlink()
            assert eventually(lambda: "event=rotation_postponed" in caplog.text)
            assert eventually(lambda: recorder._log._waiting)  # it was tried again
            assert caplog.text.count("event=rotation_postponed") == 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert eventually(lambda: len(recorder.paths) == 2)
    assert caplog.text.count("event=rotation_postponed times=") == 2  # and all that followed, at the end


def test_a_folder_that_is_deleted_ends_the_recording_and_says_so(tmp_path):
    (tmp_path / "drives").mkdir()
    with Recorder(tmp_path / "drives" / "d.mcap", RecorderOptions(wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        shutil.rmtree(tmp_path / "drives")
        assert eventually(lambda: "d_001.mcap" in recorder.error)


def test_what_a_disk_costs_that_fails_at_the_end_is_said(caplog):
    queue = WriteQueue(1 << 20, False, Counter())
    for _ in range(3):
        queue.put(WriteJob("front", "tokens", 0, print))
    queue.close()
    queue.fail()
    assert [record.getMessage().split()[2] for record in caplog.records] == ["messages=1", "messages=2"]


def test_of_a_folder_each_recording_is_a_new_file(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        for recorder in threads.map(Recorder, [tmp_path] * 64):
            recorder.close()
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 64
    assert all(re.fullmatch(r"\d{8}T\d{6}Z(-\d+)?\.mcap", name) for name in names), names


def test_a_folder_that_is_missing_does_not_become_a_file(tmp_path):
    """The next start would find a file where its folder should be."""
    with pytest.raises(FileNotFoundError, match=r"drives is no folder and does not end in \.mcap"):
        Recorder(f"{tmp_path}/drives/")
    assert not list(tmp_path.iterdir())


def test_a_file_is_never_overwritten(tmp_path):
    (tmp_path / "d.mcap").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"d\.mcap exists and is not overwritten; name a new file, or a folder"):
        Recorder(tmp_path / "d.mcap")
    assert (tmp_path / "d.mcap").read_bytes() == b"precious"


def test_a_stream_must_be_announced(tmp_path):
    with Recorder(tmp_path / "d.mcap") as recorder, pytest.raises(ValueError, match="not announced"):
        recorder.write_group(*header(0))


@pytest.mark.parametrize("options", [{"frames": "all"}, {"max_bytes": 0}, {"max_seconds": -1}])
def test_wrong_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RecorderOptions(**options)


def test_a_new_session_or_size_is_a_new_channel(tmp_path):
    other = "cd" * 16
    with Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, **NO_GUARD)) as recorder:
        for session in (info().session, other):
            recorder.add_stream(info(session=session))
            for made, tokens in messages(3, session=session):
                recorder.write_group(made, tokens)
    recording = open_recording(tmp_path / "d.mcap")
    found = list(recording.messages())
    assert [message.header.seq for message in found] == [0, 1, 2, 0, 1, 2]
    assert not any(message.lost for message in found)
    channels = [channel for channel in recording.files[0].channels.values() if channel.topic == "tokens/front"]
    assert [channel.metadata["session"] for channel in channels] == [info().session, other]


def test_a_damaged_token_message_is_left_out_and_listed(tmp_path):
    with Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        for made, tokens in messages(3):
            payload = tokens.tobytes()
            recorder.write_message(TokenMessage(made, None, payload if made.seq != 1 else b"\0" + payload[1:]))
    recording = open_recording(tmp_path / "d.mcap")
    assert [(message.header.seq, message.lost) for message in recording.messages()] == [(0, 0), (2, 1)]
    assert "CRC-32" in recording.damage[0]


RECORDING_CHILD = """
import sys, time
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from tests.kit.drives import frames_of
from tests.kit.recordings import header, info
recorder = Recorder(sys.argv[1], RecorderOptions("lossless", min_free_bytes=0))
recorder.add_stream(info())
frame = frames_of("front", 1)[0]
seq = 0
while True:
    recorder.write_frame(type(frame)("front", seq, frame.capture_ns + seq, frame.image))
    recorder.write_group(*header(seq))
    print(seq, flush=True)
    seq += 1
    time.sleep(0.01)
"""


def test_kill_9_loses_at_most_the_last_second(tmp_path):
    path = tmp_path / "d.mcap"
    command = [sys.executable, "-c", RECORDING_CHILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if int(line) >= 350:
                break
        child.send_signal(signal.SIGKILL)
        last = max([350, *(int(line) for line in child.stdout if line.strip().isdigit())])
    repaired = repair(path)
    assert repaired.path == tmp_path / "d_repaired.mcap"
    for file in (path, repaired.path):
        recording = open_recording(file)
        found = [message.header.seq for message in recording.messages()]
        assert found == list(range(len(found)))
        assert last - found[-1] <= 250  # messages are a hundredth of a second apart at least
        with open_drive(file) as drive:
            assert len(list(drive)) >= len(found)
    assert McapFile(repaired.path).indexed
    assert open_recording(repaired.path).metadata == open_recording(path).metadata


def test_a_file_that_is_still_being_written_is_not_repaired(tmp_path):
    with Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, **NO_GUARD)) as recorder:
        recorder.add_stream(info())
        with pytest.raises(BlockingIOError, match="still being written"):
            repair(tmp_path / "d.mcap")
    assert repair(tmp_path / "d.mcap").path is None


def test_a_whole_file_needs_no_repair_and_no_file_is_overwritten(tmp_path):
    record(tmp_path / "d.mcap")
    assert repair(tmp_path / "d.mcap").path is None
    (tmp_path / "other.mcap").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=r"other\.mcap"):
        repair(tmp_path / "d.mcap", tmp_path / "other.mcap")
    with pytest.raises(ValueError, match="not an MCAP file"):
        repair(tmp_path / "other.mcap")


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_packets_of_video_that_could_not_be_decoded_again_are_recorded_as_pictures(tmp_path, codec):
    """One joins between two key frames, and leaves some frames out later; key frames come every 10 frames."""
    packets = encode_video([frame.image for frame in frames_of("front", 40)], codec)
    images = enumerate(decode_video(packets, codec))
    given = [Frame("front", number, number * 10**7, image, packets[number], codec) for number, image in images]
    kept = [frame for frame in given if frame.frame_id >= 3 and frame.frame_id not in (24, 25)]
    with Recorder(tmp_path / "d.mcap", RecorderOptions("lossless", min_free_bytes=0)) as recorder:
        for frame in kept:
            recorder.write_frame(frame)
    with open_drive(tmp_path / "d.mcap") as drive:
        found = list(drive)
    assert [frame.frame_id for frame in found] == [frame.frame_id for frame in kept]
    assert all(np.array_equal(one.image, other.image) for one, other in zip(found, kept, strict=True))
    assert [frame.frame_id for frame in found if frame.packet is None] == [*range(3, 10), *range(26, 30)]


@pytest.mark.parametrize("module", ["mcap.writer", "mcap_protobuf.schema"])
def test_a_missing_package_is_told_and_leaves_no_file(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"recording needs the extra 'record': .*mcap"):
        Recorder(tmp_path / "d.mcap", RecorderOptions("lossless"))
    assert not [*tmp_path.iterdir()]
