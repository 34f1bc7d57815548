"""Flags from a YAML file: the command line goes first, and mistakes are named by file, line and key."""

import argparse
import json
from pathlib import Path

import pytest

from streamtok.cli import main
from streamtok.commands.command import flag_type
from streamtok.commands.config_parser import new_config_parser
from streamtok.names import parse_size
from streamtok.settings.errors import SettingsError


def parser():
    made = new_config_parser("sing", None)
    made.add_argument("songs", nargs="+", type=Path)
    made.add_argument("-o", "--out", required=True)
    made.add_argument("--size", type=flag_type(parse_size), default="4x6")
    made.add_argument("--max-frames", type=int)
    made.add_argument("--key", choices=("major", "minor"), default="major")
    made.add_argument("--stream", action="append", dest="streams")
    made.add_argument("--quiet", dest="progress", action="store_false")
    made.add_argument("--start", action=argparse.BooleanOptionalAction, default=True)
    return made


FILE = """songs: [a.mp3, b.mp3]
out: album
size: 8x12
max_frames: 3
streams: [front, left]
quiet: true
start: false
"""


def parse(tmp_path, text, *flags):
    (tmp_path / "song.yaml").write_text(text)
    return vars(parser().parse_args([*flags, "--config", str(tmp_path / "song.yaml")]))


def test_a_file_gives_what_the_flags_would(tmp_path):
    flags = ["a.mp3", "b.mp3", "-o", "album", "--size", "8x12", "--max-frames", "3", "--quiet", "--no-start"]
    flags += ["--stream", "front", "--stream", "left"]
    wanted = vars(parser().parse_args(flags))
    assert parse(tmp_path, FILE) == wanted
    assert parse(tmp_path, "songs: a.mp3\nout: b\nquiet: false") == parse(tmp_path, "", "a.mp3", "-o", "b")


def test_the_command_line_goes_first(tmp_path):
    found = parse(tmp_path, FILE, "c.mp3", "--out", "single", "--stream", "rear", "--start", "--key", "minor")
    assert found["songs"] == [Path("c.mp3")]
    assert (found["out"], found["streams"], found["start"], found["key"]) == ("single", ["rear"], True, "minor")
    assert (found["size"], found["max_frames"], found["progress"]) == ((8, 12), 3, False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_frame: 3", "song.yaml:2: max_frame: unknown key (value 3); did you mean 'max_frames'?"),
        ("max_frames: x", "song.yaml:2: max_frames: expected int (got 'x')"),
        ("max_frames: [1]", "song.yaml:2: max_frames: expected one value (got [1])"),
        ("size: 8", "song.yaml:2: size: expected HEIGHTxWIDTH"),
        ("quiet: 1", "song.yaml:2: quiet: expected true or false (got 1)"),
        ("key: blue", "song.yaml:2: key: expected one of major, minor (got 'blue')"),
        ("streams: [{}]", "song.yaml:2: streams: expected one value (got {})"),
    ],
)
def test_mistakes_name_file_line_and_key(line, words, tmp_path):
    with pytest.raises(SettingsError) as error:
        parse(tmp_path, f"out: album\n{line}", "a.mp3")
    assert words in str(error.value)


def test_what_is_required_may_be_in_neither(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(tmp_path, "out: album")
    assert "songs" in capsys.readouterr().err


COMMANDS = ["bench", "doctor", "encode", "evaluate", "export", "info", "models", "repair", "tokenize"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_a_file(command, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("jsn: true")
    assert main([command, "--config", str(tmp_path / "c.yaml")]) == 2
    assert "did you mean 'json'" in capsys.readouterr().err


def test_a_clip_is_encoded_as_its_file_says(tmp_path, capsys):
    facts = {"source": "synthetic:32x48@30?frames=20", "out": str(tmp_path / "t.safetensors"), "json": True}
    (tmp_path / "encode.yaml").write_text(json.dumps(facts | {"max_frames": 9}))  # JSON is YAML
    assert main(["encode", "--config", str(tmp_path / "encode.yaml"), "--max-frames", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 5
