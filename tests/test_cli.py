"""Every command in the table exists, explains itself, and a wrong one says which is meant."""

import importlib

import pytest

from streamtok.cli import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"streamtok {command}" in capsys.readouterr().out
    assert callable(importlib.import_module(f"streamtok.{COMMANDS[command][0]}").main)


def test_wrong_commands_name_the_nearest(capsys):
    assert main(["injest"]) == 2
    assert "did you mean 'ingest'" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "tokenize" in capsys.readouterr().out
