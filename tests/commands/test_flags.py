"""Flags from a YAML file: the command line goes first, and mistakes are named by file, line and key."""

import json
import mmap
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from pydantic import BeforeValidator, Field

from streamtok.cli import main
from streamtok.commands.command import make_main
from streamtok.commands.flags import new_parser, parse_settings
from streamtok.settings.errors import SettingsError
from streamtok.settings.fields import Count, Flag, Names, Size, Strict, Switch, read_list


class Song(Strict):
    songs: Annotated[list[Path], BeforeValidator(read_list), Field(min_length=1), Flag("SONG", positional=True)] = (
        Field(description="what to sing")
    )
    out: Annotated[str, Flag(short="-o")] = Field(description="where to")
    size: Size = Field(default=(4, 6), description="of the cover")
    max_frames: Count | None = Field(default=None, description="at most")
    key: Literal["major", "minor"] = Field(default="major", description="of all of them")
    streams: Names | None = Field(default=None, description="only this (repeat it)")
    quiet: Switch = Field(default=False, description="no bar, 100 % silent")
    start: Switch = Field(default=True, description="at once")
    encore: Switch | None = Field(default=None, description="once more")


def parse_flags(*flags):
    return parse_settings(Song, "sing", None, list(flags)).model_dump()


FILE = """songs: [a.mp3, b.mp3]
out: album
size: 8x12
max_frames: 3
streams: [front, left]
quiet: true
start: false
encore: true
"""


def parse(tmp_path, text, *flags):
    (tmp_path / "song.yaml").write_text(text)
    return parse_flags(*flags, "--config", str(tmp_path / "song.yaml"))


def test_flags_are_the_fields_of_the_settings():
    words = " ".join(new_parser("sing", "Sings.", Song).format_help().split())
    assert "[-h] [--config FILE] [-o OUT] [--size HxW] [--max-frames N] [--key {major,minor}]" in words
    assert "[--stream NAME] [--quiet] [--start | --no-start] [--encore | --no-encore] [SONG ...]" in words
    assert "Sings." in words
    assert "--size HxW of the cover (default 4x6)" in words
    assert "--quiet no bar, 100 % silent --start" in words
    assert "at once (default yes)" in words
    assert "--set" not in words  # every key has its flag


def test_a_file_gives_what_the_flags_would(tmp_path):
    flags = ["a.mp3", "b.mp3", "-o", "album", "--size", "8x12", "--max-frames", "3", "--quiet", "--no-start"]
    flags += ["--stream", "front", "--stream", "left", "--encore"]
    wanted = parse_flags(*flags)
    assert parse(tmp_path, FILE) == wanted
    assert parse(tmp_path, "songs: a.mp3\nout: b\nquiet: false") == parse(tmp_path, "", "a.mp3", "-o", "b")


def test_the_command_line_goes_first(tmp_path):
    found = parse(
        tmp_path, FILE, "c.mp3", "--out", "single", "--stream", "rear", "--start", "--key", "minor", "--no-encore"
    )
    assert found["songs"] == [Path("c.mp3")]
    assert (found["out"], found["streams"], found["start"], found["key"]) == ("single", ["rear"], True, "minor")
    assert (found["size"], found["max_frames"], found["quiet"], found["encore"]) == ((8, 12), 3, True, False)
    assert parse_flags("a.mp3", "-o", "b")["encore"] is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_frame: 3", "song.yaml:2: max_frame: unknown key (value 3); did you mean 'max_frames'?"),
        (
            "max_frames: x",
            "song.yaml:2: max_frames: input should be a valid integer, unable to parse string as an integer (got 'x')",
        ),
        ("max_frames: [1]", "song.yaml:2: max_frames: input should be a valid integer (got [1])"),
        ("size: 8", "song.yaml:2: size: expected HEIGHTxWIDTH"),
        ("quiet: 1", "song.yaml:2: quiet: expected true or false (got 1)"),
        ("key: blue", "song.yaml:2: key: input should be 'major' or 'minor' (got 'blue')"),
        ("streams: [{}]", "song.yaml:2: streams.0: input should be a valid string (got {})"),
    ],
)
def test_mistakes_name_file_line_and_key(line, words, tmp_path):
    with pytest.raises(SettingsError) as error:
        parse(tmp_path, f"out: album\n{line}", "a.mp3")
    assert words in str(error.value)


@pytest.mark.parametrize("argument", ["--set=--", "--out=--"])
def test_two_dashes_are_no_value(argument, capsys):
    with pytest.raises(SystemExit):
        parse_flags("a.mp3", argument)
    assert f"argument {argument[:-3]}: expected a value" in capsys.readouterr().err
    assert parse_flags("-o", "album", "--", argument)["songs"] == [Path(argument)]


def test_what_is_required_may_be_in_neither(tmp_path, capsys):
    (tmp_path / "song.yaml").write_text("out: album")
    sing = make_main("sing", Song, lambda settings: 0, None)
    assert sing(["--config", str(tmp_path / "song.yaml")]) == 2
    assert "songs: required, not given" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    "take",
    [lambda: bytearray(1 << 62), lambda: mmap.mmap(-1, 1 << 50), lambda: torch.empty(1 << 50)],
    ids=["python", "system", "torch"],
)
def test_memory_that_is_not_there_is_one_line_that_says_what_to_do(take, capsys):
    sing = make_main("sing", Song, lambda settings: len(take()), None)
    assert sing(["-o", "album", "la"]) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"streamtok sing: out of memory \(.+\): raise the limit .*\n", told)


def test_a_thread_that_cannot_start_is_one_line_that_names_the_limit_on_tasks(capsys):
    program = """
import resource, sys, threading
from streamtok.commands.command import command
resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
threading.stack_size(1 << 33)
sys.exit(command("sing")(lambda argv: threading.Thread(target=print).start())())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.stderr == (
        "streamtok sing: can't start new thread: raise the limit on tasks (ulimit -u, a container's pids) or on memory "
        "(ulimit -v)\n"
    )


def test_a_file_whose_name_speaks_of_memory_is_not_told_as_out_of_memory(capsys):
    assert main(["info", "/no/such/bad_alloc.mcap"]) == 1
    assert "out of memory" not in capsys.readouterr().err
