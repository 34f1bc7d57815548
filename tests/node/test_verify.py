"""`replay --verify` vouches for what it compared: the status is 0 only if that is every recorded group."""

import json

import msgspec
import pytest

import streamtok
from streamtok.commands.replay import main
from streamtok.drives.open_drive import open_drive
from streamtok.recording.reader import open_recording
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.recording.repair import repair
from tests.kit.models import VIDEO, build
from tests.kit.nodes import ingest

CAMERAS = [
    {"name": name, "source": f"synthetic:48x64@30?seed={seed}&frames=105"}
    for seed, name in enumerate(("front", "rear"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """d.mcap (54 groups of two cameras, several chunks) and the model that made it."""
    path, tokenizer = tmp_path_factory.mktemp("verify"), build(VIDEO)
    ingest(path / "d.mcap", tokenizer, CAMERAS)
    streamtok.save(tokenizer, path / "model")
    return path


def verify(folder, path, capsys, *flags):
    """Exit status and what is printed, in words (None) or as JSON."""
    status = main([str(path), "--verify", "--model", str(folder / "model"), *flags])
    out = capsys.readouterr().out
    return status, json.loads(out) if "--json" in flags else out


def copy(source, target, keeps=lambda frame: True, tokenizer_of=lambda seq: None):
    """Record again the frames that `keeps` says, and all groups, made by what `tokenizer_of` says of their seq."""
    options = RecorderOptions("lossless", wait=True, min_free_bytes=0)
    with open_drive(source) as drive, Recorder(target, options) as recorder:
        for info in open_recording(source).first_infos().values():
            recorder.add_stream(info)
        for frame in filter(keeps, drive):
            recorder.write_frame(frame)
        for message in open_recording(source).messages():
            name = tokenizer_of(message.header.seq) or message.header.tokenizer
            recorder.write_group(msgspec.structs.replace(message.header, tokenizer=name), message.tokens)


def test_all_groups_compared_is_verified(folder, capsys):
    status, words = verify(folder, folder / "d.mcap", capsys)
    assert (status, words.splitlines()[-1]) == (0, "verified")
    status, found = verify(folder, folder / "d.mcap", capsys, "--json", "--max-groups", "4")
    assert (status, found["compared"], found["verified"], found["faults"]) == (0, 4, True, [])


def test_groups_that_could_not_be_compared_are_not_verified(folder, capsys, tmp_path):
    """Without frame 45 of one camera the group that holds it cannot be made again, nor any before the next keyframe."""
    copy(folder / "d.mcap", tmp_path / "less.mcap", keeps=lambda frame: (frame.stream, frame.frame_id) != ("front", 45))
    status, found = verify(folder, tmp_path / "less.mcap", capsys, "--json")
    assert (status, found["verified"], found["compared"], found["different"]) == (1, False, 39, 0)
    assert sum(found["skipped"].values()) == 15
    assert found["faults"] == ["15 of 54 groups were not compared"]
    status, words = verify(folder, tmp_path / "less.mcap", capsys)
    assert (status, words.splitlines()[-1]) == (1, "NOT verified: 15 of 54 groups were not compared")


def test_groups_of_another_tokenizer_are_not_compared(folder, capsys, tmp_path):
    """A recorder goes on when its node is started again with another model."""
    copy(folder / "d.mcap", tmp_path / "two.mcap", tokenizer_of=lambda seq: "other" if seq >= 20 else None)
    status, found = verify(folder, tmp_path / "two.mcap", capsys, "--json")
    assert (status, found["compared"], found["different"]) == (1, 40, 0)
    assert found["skipped"] == {"another tokenizer made it": 14}


def test_a_recording_that_was_cut_off_is_verified_once_it_is_repaired(folder, capsys, tmp_path):
    whole = (folder / "d.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(whole[: len(whole) * 7 // 10])
    status, found = verify(folder, tmp_path / "cut.mcap", capsys, "--json")
    assert (status, found["skipped"]) == (1, {})
    assert "damaged" in found["faults"][0]
    status, repaired = verify(folder, repair(tmp_path / "cut.mcap").path, capsys, "--json")
    assert (status, repaired["compared"]) == (0, found["compared"])
