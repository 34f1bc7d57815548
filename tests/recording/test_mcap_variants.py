"""Every shape of MCAP file that the specification allows is read whole, without a word about damage."""

import struct

import pytest

from streamtok.recording.mcap_file import McapFile
from streamtok.recording.repair import repair
from tests.kit.mcap_variants import MAGIC, Contents, Message, VariantWriter, variants

SCHEMAS = (("A", "ros2msg", b"1"), ("B", "jsonschema", b"{}"))
CHANNELS = (("a", "cdr", 1), ("b", "json", 2), ("bare", "", 0))
TEN = tuple(Message(number % 3, 10 * number + 1, bytes([number])) for number in range(10))
CONTENTS = {
    "all": Contents(SCHEMAS, CHANNELS, TEN, {"note": b"data"}, {"trip": {"car": "7"}}),
    "nothing": Contents(),
    "one attachment": Contents(attachments={"note": b"data"}),
    "one metadata": Contents(metadata={"trip": {"car": "7"}}),
    "one message": Contents(SCHEMAS[:1], CHANNELS[:1], TEN[:1]),
    "one message of no schema": Contents(channels=[("bare", "", 0)], messages=TEN[:1]),
}


def read(path):
    file = McapFile(path)
    found = [(file.channels[m.channel_id].topic, m.log_time, bytes(m.data)) for m in file.messages()]
    return found, file


@pytest.mark.parametrize("name", CONTENTS)
def test_every_shape_of_file_is_read_whole(tmp_path, name):
    contents, path, shapes = CONTENTS[name], tmp_path / "d.mcap", list(variants())
    expected = [(contents.channels[m.channel][0], m.log_ns, m.data) for m in contents.messages]
    for features in shapes if name == "all" else shapes[::7]:
        path.write_bytes(VariantWriter(contents, features).write())
        found, file = read(path)
        assert (found, file.damage, file.indexed) == (expected, [], True), sorted(features)
        assert (dict(file.metadata), len(file.attachments)) == (contents.metadata, len(contents.attachments))


def test_repair_keeps_messages_attachments_and_metadata_of_any_shape(tmp_path):
    path, contents = tmp_path / "d.mcap", CONTENTS["all"]
    for number, features in enumerate(list(variants())[::100]):
        whole = VariantWriter(contents, features).write()
        path.write_bytes(whole[: whole.rindex(MAGIC)])
        done = repair(path, tmp_path / f"{number}.mcap")
        found, file = read(done.path)
        assert (len(found), file.damage, done.messages) == (10, [], 10)
        assert ("trip", {"car": "7"}) in file.metadata
        offset, length = file.attachments[0]
        assert b"data" in done.path.read_bytes()[offset : offset + length]


def test_a_file_of_which_nothing_can_be_read_is_not_repaired(tmp_path):
    path = tmp_path / "d.mcap"
    path.write_bytes(VariantWriter(Contents(), frozenset()).write()[:-40])
    with pytest.raises(ValueError, match="not one message can be read"):
        repair(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_that_two_channels_have_is_said(tmp_path):
    whole = [VariantWriter(Contents(SCHEMAS, (channel,), TEN[:1]), frozenset()).write() for channel in CHANNELS[:2]]
    path = tmp_path / "d.mcap"
    path.write_bytes(whole[0][: whole[0].rindex(b"\x0f")] + whole[1][len(MAGIC) :])  # joined without their ends
    found, file = read(path)
    assert [topic for topic, *_ in found] == ["a", "a"]
    assert "given twice, the second time to b" in " ".join(file.damage)


@pytest.mark.parametrize("features", [frozenset(), frozenset({"chunks"})])
def test_a_record_of_more_than_4_gib_is_passed_over(tmp_path, features):
    path, whole = tmp_path / "d.mcap", VariantWriter(CONTENTS["one message"], features).write()
    begin, length = len(MAGIC) + 9 + len("variants") + 8, 5 << 30
    with path.open("wb") as file:  # sparse
        file.write(whole[:begin] + struct.pack("<BQ", 9, length))
        file.seek(length, 1)
        file.write(whole[begin:])
    found, file = read(path)
    assert found == [("a", 1, b"\0")]
    assert not file.damage
