"""Token files carry a checksum of every column: `info` and `decode` notice a flipped bit, opening stays lazy."""

import pytest

from streamtok.commands.decode import main as decode
from streamtok.commands.info import main as info
from streamtok.data import TokenDataset
from streamtok.tokens.tokenfile import COLUMNS, TokenFile
from tests.kit.tokens import random_grids
from tests.kit.tokens import write_grids as write


def flip(file: TokenFile, column: str) -> None:
    """Flip a bit in the middle of a column."""
    first, end = file._layout[column].data_offsets
    data = bytearray(file.path.read_bytes())
    data[file._start + (first + end) // 2] ^= 1
    file.path.write_bytes(data)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_flipped_bit_is_noticed_in_every_column(tmp_path, column):
    write(tmp_path / "t.safetensors", random_grids(9))
    file = TokenFile(tmp_path / "t.safetensors")
    file.check()
    flip(file, column)
    with pytest.raises(ValueError, match=f"checksum of column '{column}' is wrong"):
        TokenFile(file.path).check()


def test_columns_that_a_folder_of_token_files_is_told_by_are_checked(tmp_path, capsys):
    write(tmp_path / "t.safetensors", random_grids(9))
    flip(TokenFile(tmp_path / "t.safetensors"), "keyframe")
    assert info([str(tmp_path)]) == 1
    assert "note: " + str(tmp_path / "t.safetensors") + " is damaged" in capsys.readouterr().out
    with pytest.raises(ValueError, match="checksum of column 'keyframe'"):
        TokenDataset(tmp_path)


def test_commands_refuse_damaged_tokens(tmp_path, capsys):
    path = str(tmp_path / "t.safetensors")
    write(tmp_path / "t.safetensors", random_grids(9))
    assert info([path]) == 0
    flip(TokenFile(path), "tokens")
    for command, arguments in ((info, [path]), (decode, [path, "-o", str(tmp_path / "t.mp4")])):
        assert command(arguments) == 1
        assert "checksum of column 'tokens'" in capsys.readouterr().err


def test_files_without_checksums_still_open(tmp_path):
    write(tmp_path / "t.safetensors", random_grids(3))
    data = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "old.safetensors").write_bytes(data.replace(b'"crc32"', b'"crc3_"'))
    old = TokenFile(tmp_path / "old.safetensors")
    assert "crc32" not in old.meta
    old.check()
