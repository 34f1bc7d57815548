"""What `streamtok info` and `streamtok repair` say, and the recordings page of the protocol, run as it stands."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import zmq
from safetensors import safe_open

from streamtok.coding.library import SHIPPED
from streamtok.commands import info as info_command
from streamtok.commands import record as record_command
from streamtok.commands import repair as repair_command
from streamtok.commands.ingest import make_node
from streamtok.drives.survey import StreamTimes, TokenSurvey
from streamtok.io.images.stills import encode_jpeg, write_png
from streamtok.node.replay_node import ReplayNode
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.settings.reading import read_settings
from streamtok.settings.replay import ReplaySettings
from streamtok.settings.rig import load_rig
from streamtok.tokens.files import encode_file
from streamtok.tokens.inspecting import inspect
from streamtok.tokens.tokenfile import TokenFile
from tests.kit.drives import foxglove, frames_of, rig, write_bag1, write_mcap, write_topics
from tests.kit.models import VIDEO, build
from tests.kit.nodes import TWO_CAMERAS
from tests.kit.recordings import header, info
from tests.kit.shots import regular, write
from tests.kit.threads import beside

PROTOCOL = Path(__file__).parents[2] / "docs" / "wire-protocol.md"


@pytest.fixture
def recording(tmp_path):
    """Messages 0 to 19 without 7 and 8, and 30 frames without the 11th."""
    path = tmp_path / "drive.mcap"
    with Recorder(path, RecorderOptions("lossless", wait=True, min_free_bytes=0)) as recorder:
        recorder.add_stream(info("cam0"))
        for frame in frames_of("cam0", 30):
            if frame.frame_id != 10:
                recorder.write_frame(frame)
        for seq in [*range(7), *range(9, 20)]:
            recorder.write_group(*header(seq, "cam0"))
    return path


def test_a_recording_is_described_by_numbers(recording):
    report = inspect(recording).report
    stream, camera = report["streams"]["cam0"], report["cameras"]["cam0"]
    assert (stream["groups"], stream["keyframes"], stream["lost"]) == (18, 1, 2)
    assert stream["grid"] == [4, 6]
    assert stream["frames_per_second"] == 100
    assert stream["seconds"] == 0.76
    assert stream["bits_per_second"] == round(18 * 48 * 8 / 0.76)
    assert stream["time_gaps"] == [[0.24, 0.09]]
    assert stream["codes"] == 64000
    assert 400 < stream["codes_used"] <= 18 * 24
    assert 8 < stream["entropy_bits_per_token"] <= np.log2(18 * 24)
    assert (camera["frames"], camera["time_gap_count"]) == (29, 1)
    assert report["missed"] == [["cam0", "tokens", 2, "network"]]
    assert report["complete"]
    json.dumps(report)


def test_a_token_file_counts_the_codes_that_refine(tmp_path):
    """What stands still is kept and refined: values above those that the levels make."""
    path, folder, [frame] = tmp_path / "t.safetensors", tmp_path / "still", frames_of("cam0", 1)
    folder.mkdir()
    for number in range(9):
        write_png(folder / f"{number}.png", frame.image)
    encode_file(f"images:{folder}?fps=10", path, "nano-r")
    [stream] = inspect(str(path)).report["streams"].values()
    assert (stream["codes"], stream["bits_per_token"]) == (65_536, 16)
    values = [np.unique(group.tokens) for group in TokenFile(path)]
    assert values[-1].max() >= 64_000
    assert stream["codes_used"] == len(np.unique(np.concatenate(values)))


def test_a_folder_of_token_files_is_one_short_sum_however_many_there_are(tmp_path, capsys):
    """As `tokenize` leaves it: a folder for each drive."""
    folder, first = tmp_path / "tokens", tmp_path / "tokens" / "0" / "cam0.safetensors"
    first.parent.mkdir(parents=True)
    encode_file("synthetic:32x48@30?frames=9", first, "nano")
    for number in range(1, 60):
        (folder / str(number)).mkdir()
        shutil.copy(first, folder / str(number))
    report = inspect(folder).report
    assert {name: report["sum"][name] for name in ("groups", "frames", "keyframes", "dropped")} == {
        "groups": 180, "frames": 540, "keyframes": 60, "dropped": 0}  # fmt: skip
    assert report["sum"]["seconds"] == pytest.approx(60 * 8 / 30, abs=0.001)
    assert report["sum"]["streams"] == {"count": 1, "most": {"cam0": 60}}
    assert report["bytes"] == 60 * first.stat().st_size
    assert info_command.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "60 token files" in printed
    assert len(printed.splitlines()) < 9
    assert info_command.main([str(folder), "--plot", str(tmp_path / "p.png")]) == 1
    assert "no tokens to plot" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert info_command.main([str(tmp_path / "empty")]) == 1
    assert "empty holds no drive" in capsys.readouterr().err


def test_token_files_beside_a_drive_are_told_and_a_damaged_one_is_named_and_costs_the_drive_nothing(tmp_path, capsys):
    write_mcap(tmp_path / "d.mcap", frames_of("front", 12))
    encode_file("synthetic:32x48@30?frames=9", tmp_path / "front.safetensors", "nano")
    assert info_command.main([str(tmp_path)]) == 0
    assert "token files:\n  3 groups from 9 frames" in capsys.readouterr().out
    whole = (tmp_path / "front.safetensors").read_bytes()
    (tmp_path / "front.safetensors").write_bytes(whole[:-40])
    assert info_command.main([str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cameras"]["front"]["frames"] == 12
    assert "front.safetensors is cut off or damaged" in report["damage"][0]


def test_a_damaged_token_file_is_named_before_the_many_notes_of_the_drive_beside_it(tmp_path, capsys):
    *others, last = frames_of("front", 31)
    messages = [(frame.capture_ns, foxglove("CompressedImage", frame, data=b"none")) for frame in others]
    whole = foxglove("CompressedImage", last, data=encode_jpeg(last.image), format="jpeg")
    write_topics(tmp_path / "d.mcap", "foxglove.CompressedImage", {"/front": [*messages, (last.capture_ns, whole)]})
    (tmp_path / "front.safetensors").write_bytes(b"garbage")
    assert info_command.main([str(tmp_path)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 20
    assert "front.safetensors is no safetensors file" in notes[0]


def test_a_damaged_file_of_a_folder_costs_itself_and_the_status(tmp_path, capsys):
    encode_file("synthetic:32x48@30?frames=9", tmp_path / "whole.safetensors", "nano")
    cut = (tmp_path / "whole.safetensors").read_bytes()[:-40]
    for number in range(30):
        (tmp_path / f"cut{number}.safetensors").write_bytes(cut)
    assert info_command.main([str(tmp_path), "--json"]) == 1
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert report["sum"]["groups"] == 3
    assert len(report["damage"]) == 20
    assert "cut0.safetensors is cut off or damaged" in report["damage"][0]
    assert "30 of 31 token files cannot be read" in told.err


def test_files_that_are_cut_off_within_their_headers_are_named(tmp_path, capsys):
    encode_file("synthetic:32x48@30?frames=9", tmp_path / "whole.safetensors", "nano")
    shutil.copy(SHIPPED / "nano" / "coder.safetensors", tmp_path)  # a whole file of something else
    assert info_command.main([str(tmp_path)]) == 0
    assert "1 token files" in capsys.readouterr().out
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:100])
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage" * 20)
    assert info_command.main([str(tmp_path), "--json"]) == 1
    told = capsys.readouterr()
    assert "2 of 3 token files cannot be read" in told.err
    assert [Path(text.split()[0]).name for text in json.loads(told.out)["damage"]] == [
        "cut.safetensors",
        "garbage.safetensors",
    ]
    assert info_command.main([str(cut)]) == 1
    assert "cut off within its header" in capsys.readouterr().err


def test_a_bag_is_described_by_its_cameras(tmp_path):
    found = inspect(write_bag1(tmp_path / "d.bag", rig(10)))
    assert {name: camera["frames"] for name, camera in found.report["cameras"].items()} == {"front": 10, "rear": 10}
    assert not found.surveys


def test_the_info_command_prints_and_plots(recording, tmp_path, capsys):
    assert info_command.main([str(recording), "--plot", str(tmp_path / "p.png")]) == 0
    printed = capsys.readouterr().out
    assert "18 groups of [4, 6] from 69 frames" in printed
    assert "missed: 2 tokens of cam0 (network)" in printed
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert info_command.main([str(recording), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "recording"
    assert info_command.main([str(tmp_path / "gone.mcap")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_files_whose_names_are_no_utf8_are_written_and_read(tmp_path, capfdbinary):
    tokenizer, name = build(VIDEO), os.fsdecode(b"dr\xefve")
    path, cut = tmp_path / f"{name}.mcap", tmp_path / f"{name}_cut.mcap"
    streams = [{"name": "cam0", "source": "synthetic:32x48@30?frames=9"}]
    make_node(load_rig(None, {"streams": streams, "bind": "tcp://127.0.0.1:*", "record": str(path)}), tokenizer).run()
    assert info_command.main([str(path)]) == 0
    assert os.fsencode(path) in capfdbinary.readouterr().out
    cut.write_bytes(path.read_bytes()[:-400])
    assert repair_command.main([str(cut)]) == 0
    settings = read_settings(ReplaySettings, None, {"path": str(path), "out": str(tmp_path / "tokens")})
    ReplayNode(settings, tokenizer).run()
    with safe_open(tmp_path / "tokens" / "cam0.safetensors", "np") as file:
        assert file.metadata()["source"] == "dr?ve.mcap"


def test_the_repair_command_says_what_it_did(recording, tmp_path, capsys):
    assert repair_command.main([str(recording)]) == 0
    assert "nothing to repair" in capsys.readouterr().out
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(recording.read_bytes()[:-400])
    assert repair_command.main([str(cut), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["out"] == str(tmp_path / "cut_repaired.mcap")
    assert done["messages"] > 40
    assert repair_command.main([str(cut)]) == 1
    assert "exists" in capsys.readouterr().err


def test_the_protocol_pages_program_reads_a_recording_with_the_plain_library(recording, monkeypatch, capsys):
    section = PROTOCOL.read_text().split("## Recordings")[1]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.S)
    assert "streamtok" not in program
    monkeypatch.chdir(recording.parent)
    exec(compile(program, "wire-protocol.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 18
    first = header(0, "cam0")[0]
    offset = info().clock[1] - info().clock[0]
    assert lines[0] == f"cam0 0 True {first.capture_ns[-1] + offset} (4, 6)"


def test_gaps_are_steps_much_longer_than_usual_and_steps_back():
    times = StreamTimes()
    times.values.extend(int(t * 1e9) for t in [0, 0.1, 0.2, 0.5, 0.6, 0.4, 0.5])
    assert [(round(at, 3), round(step, 3)) for at, step in times.gaps()] == [(0.2, 0.3), (0.6, -0.2)]


def test_a_survey_of_a_long_drive_keeps_a_bounded_picture():
    from streamtok.types import TokenGroup

    survey = TokenSurvey(64)
    grid = np.zeros((2, 3), np.uint16)
    for number in range(7000):
        group = TokenGroup("a", grid, number == 0, 0, [number], [number * 1000], 0, 0, 1, (16, 24))
        survey.add(group, grid, grid.nbytes)
    assert survey.report()["groups"] == 7000
    assert 1000 < len(survey.columns.kept) < 3000
    assert survey.report()["codes_used"] == 1


def test_the_record_command_writes_what_a_node_sends(tmp_path, capsys):
    endpoint, tokenizer = f"ipc://{tmp_path}/i", build(VIDEO)
    rig_values = {"streams": TWO_CAMERAS, "bind": endpoint, "publish_frames": True, "wait_subscribers": 1}
    arguments = ["--record-frames", "lossless", "--json", "--max-seconds", "60"]
    with beside(make_node(load_rig(None, rig_values), tokenizer).run):
        assert record_command.main([endpoint, "-o", str(tmp_path / "d.mcap"), *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["frames"], printed.get("missed", 0), printed["malformed"]) == (75, 0, {})
    settings = read_settings(ReplaySettings, None, {"path": str(tmp_path / "d.mcap"), "verify": True})
    verified = ReplayNode(settings, tokenizer).run()
    assert (verified["compared"], verified["different"]) == (printed["tokens"], 0)
    assert printed["tokens"] > 15
    assert record_command.main([endpoint, "-o", str(tmp_path / "d.mcap")]) == 1
    assert "exists" in capsys.readouterr().err.lower()
    assert record_command.main([endpoint]) == 2
    assert "out: required" in capsys.readouterr().err


def test_the_record_command_counts_what_it_refuses_under_its_own_name(tmp_path, capsys):
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        arguments = [f"tcp://127.0.0.1:{port}", "-o", str(tmp_path / "d.mcap"), "--json", "--max-seconds", "2"]
        with beside(record_command.main, arguments):
            while not socket.recv().startswith(b"\x01tokens/"):
                pass
            socket.send_multipart([b"tokens/front", b"\xc1"])
    assert json.loads(capsys.readouterr().out)["malformed"] == {"record.parts": 1}


@pytest.mark.parametrize("command", ["info", "doctor"])
def test_progress_is_shown_on_terminals_only(tmp_path, command):
    path = write(tmp_path / "d.mcap", regular(20))
    command = [sys.executable, "-m", "streamtok.cli", command, str(path)]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""
    control, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=terminal, check=True)
    os.close(terminal)
    with os.fdopen(control, "rb", 0) as screen:
        assert b"20image" in screen.read(4096)
