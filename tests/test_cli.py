"""Every command in the table exists, explains itself, and a wrong one says which is meant."""

import importlib
import os
import subprocess
import sys
from typing import Annotated

import pytest
from pydantic import BeforeValidator, Field

from streamtok.cli import COMMANDS, main
from streamtok.commands.command import command, make_main
from streamtok.settings.errors import SettingsError, blame_settings
from streamtok.settings.fields import Strict


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"streamtok {command}" in capsys.readouterr().out
    assert callable(importlib.import_module(f"streamtok.commands.{command.replace('-', '_')}").main)


def test_wrong_commands_name_the_nearest(capsys):
    assert main(["injest"]) == 2
    assert "did you mean 'ingest'" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "tokenize" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (SettingsError("modle: unknown key"), 2, "streamtok sing: modle: unknown key\n"),
        (OSError("no microphone"), 1, "streamtok sing: no microphone\n"),
        (OSError("'rtsp://me:secret@10.0.0.7/x' is silent"), 1, "streamtok sing: 'rtsp://10.0.0.7/x' is silent\n"),
        (BrokenPipeError("the encoder is gone"), 1, "streamtok sing: the encoder is gone\n"),
        (TimeoutError(), 1, "streamtok sing: TimeoutError\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_a_command_ends(error, status, told, capsys):
    @command("sing")
    def sing(argv=None):
        raise error

    assert sing([]) == status
    assert capsys.readouterr().err == told


def test_ctrl_c_while_a_command_is_imported_ends_it_as_later(monkeypatch):
    class Interrupted:
        def find_spec(self, name, *rest):
            if name == "streamtok.commands.repair":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "streamtok.commands.repair", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert main(["repair", "a.mcap"]) == 130


def test_the_file_of_a_command_runs_as_a_module():
    line = [sys.executable, "-m", "streamtok.commands.repair", "/absent.mcap"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "streamtok repair: recording '/absent.mcap': no such file\n")


def test_settings_are_blamed_for_wrong_values_only():
    with pytest.raises(SettingsError, match="size 30x44"), blame_settings():
        raise ValueError("size 30x44")
    with pytest.raises(OSError, match="taken"), blame_settings():
        raise OSError("the port is taken")


def test_a_fault_of_the_program_keeps_its_traceback():
    @command("sing")
    def sing(argv=None):
        return {}["song"]

    with pytest.raises(KeyError):
        sing([])


@pytest.mark.parametrize(("count", "unbuffered"), [(1, ""), (100_000, ""), (1, "1")])
def test_a_reader_that_has_left_ends_a_command_quietly(count, unbuffered):
    """`streamtok ... | head -1`: noticed while printing, or with what was still buffered at the end."""
    program = f"""
import sys
from streamtok.commands.command import command
@command("sing")
def sing(argv):
    sys.stdin.read()
    for _ in range({count}):
        print("la")
    return 0
sys.exit(sing())
"""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(
        [sys.executable, "-c", program], **pipes, env=os.environ | {"PYTHONUNBUFFERED": unbuffered}
    )
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
    process.stderr.close()


def test_help_and_the_table_need_only_the_standard_library():
    program = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; "
    program += "import streamtok.cli; sys.exit(streamtok.cli.main(['--help']))"
    assert subprocess.run([sys.executable, "-S", "-c", program], capture_output=True).returncode == 0


def test_help_needs_no_zeromq():
    program = f"""
import sys
sys.modules["zmq"] = None
from streamtok.cli import main
for command in {[*COMMANDS]}:
    try:
        main([command, "--help"])
    except SystemExit as ended:
        assert ended.code == 0, command
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr == ""


class Song(Strict):
    verses: Annotated[int, BeforeValidator(lambda text: even(text))] = Field(default=2, description="how many")


def test_a_flag_tells_what_its_settings_expect(capsys):
    sing = make_main("sing", Song, lambda settings: settings.verses, None)
    assert sing(["--verses", "4"]) == 4
    assert sing(["--verses", "3"]) == 2
    assert "command line: verses: expected an even number (got '3')" in capsys.readouterr().err


def even(text):
    if int(text) % 2:
        raise ValueError("expected an even number")
    return int(text)
