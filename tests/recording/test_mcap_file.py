"""Messages of MCAP files by channel, by time and by place, whether the file was closed or not."""

from dataclasses import replace

import lz4.frame
import numpy as np
import pytest
import zstandard

from streamtok.recording.mcap_file import McapFile
from streamtok.recording.mcap_records import PIECE_BYTES, decompress_chunk
from tests.kit.drives import BAG_DELAY_NS, STEP_NS, frames_of, rig, write_mcap


@pytest.fixture(params=["closed", "cut off"])
def file(request, tmp_path):
    """Two cameras of 40 frames each in many chunks; of the file that was cut off about two thirds are there."""
    path = write_mcap(tmp_path / "d.mcap", rig(40))
    if request.param == "cut off":
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 2 // 3])
    return McapFile(path)


def test_every_message_is_found_again_at_its_place(file):
    ids = file.channel_ids("/front")
    assert len(ids) == 1
    messages = list(file.messages(ids))
    places = file.locate(ids)
    assert len(places) == len(messages) > 20
    for index in (0, len(places) - 1, len(places) // 2):
        assert file.message_at(places[index]) == messages[index]
    assert np.all(np.diff(places["time"].astype(np.int64)) > 0)


def test_its_repr_is_short_however_much_it_holds(file):
    assert len(repr(file)) < 200


def test_places_need_chunks(tmp_path):
    file = McapFile(write_mcap(tmp_path / "d.mcap", frames_of("front", 3), chunking=False))
    assert len(list(file.messages())) == 3
    with pytest.raises(ValueError, match="streamtok repair"):
        file.locate(file.channel_ids("/front"))


def test_a_file_cut_off_within_the_index_of_its_last_chunk_keeps_all_of_its_channels(tmp_path):
    path = write_mcap(tmp_path / "d.mcap", rig(10), chunk_size=1 << 20)
    whole = McapFile(path)
    (chunk,) = whole.chunks
    path.write_bytes(path.read_bytes()[: max(chunk.index.values())])
    assert list(McapFile(path).messages()) == list(whole.messages())
    assert {message.channel_id for message in McapFile(path).messages()} == set(chunk.index)


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_a_chunk_cut_off_behind_messages_outside_chunks_gives_what_is_there(tmp_path, cut):
    loose = write_mcap(tmp_path / "a.mcap", frames_of("front", 3), chunking=False).read_bytes()
    path = write_mcap(tmp_path / "b.mcap", frames_of("front", 5), chunk_size=1 << 20, compression="NONE")
    (chunk,) = McapFile(path).chunks
    there = path.read_bytes()[chunk.offset :][: chunk.length - cut]
    (tmp_path / "c.mcap").write_bytes(loose[: loose.index(b"\x0f" + (4).to_bytes(8, "little"))] + there)
    assert len(list(McapFile(tmp_path / "c.mcap").messages())) == 3 + 4


def test_a_step_back_shorter_than_a_chunk_is_seen_in_a_long_file(tmp_path):
    frames = frames_of("front", 800)
    frames[404:] = [replace(frame, capture_ns=frame.capture_ns - 5 * STEP_NS - 1000) for frame in frames[404:]]
    file = McapFile(write_mcap(tmp_path / "d.mcap", frames, chunk_size=50_000))  # of eleven images
    assert len(file.chunks) > 70
    assert [message.log_time - BAG_DELAY_NS for message in file.messages()] == [each.capture_ns for each in frames]


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_chunk_is_unpacked_no_further_than_it_claims(codec):
    packers = {"zstd": lambda data: zstandard.ZstdCompressor().compress(data), "lz4": lz4.frame.compress}
    data = packers[codec](bytes(16_000_000)) + packers[codec](np.random.default_rng(1).bytes(3 * PIECE_BYTES))
    assert len(data) > 2 * PIECE_BYTES  # an unpacker that is given all of it at once fills the memory
    with pytest.raises(ValueError, match="more than the 1000 bytes that it claims"):
        decompress_chunk(codec, memoryview(data), 1000)
