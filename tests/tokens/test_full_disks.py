"""A disk that takes no more: the error says which file, and nothing half written stays."""

from pathlib import Path

import pytest
import zstandard

from streamtok.drives.open_drive import open_drive
from streamtok.recording.repair import repair
from streamtok.tokens.export import FORMATS, export
from streamtok.tokens.repack import repack
from tests.kit.disk import full_disk
from tests.kit.shots import regular, write


def test_a_full_disk_is_said_with_the_file_and_leaves_nothing(tmp_path, token_file, groups_of):
    tokens = token_file(tmp_path / "a.safetensors", groups_of([200]))
    drive = write(tmp_path / "d.mcap", regular(200))
    packed = Path(f"{drive}.zstd")
    packed.write_bytes(zstandard.compress(drive.read_bytes()))
    there = sorted(tmp_path.iterdir())
    for act, named in (
        (lambda: token_file(tmp_path / "b.safetensors", groups_of([200])), "b.safetensors"),
        (lambda: repack(tokens, tmp_path / "c.safetensors", "none"), "c.safetensors"),
        (lambda: repack(drive, tmp_path / "c.mcap", "none"), "c.mcap"),
        (lambda: repair(drive, tmp_path / "r.mcap"), "-o writes"),
        (lambda: open_drive(packed), "TMPDIR"),
    ):
        with full_disk(1000), pytest.raises(OSError, match=named):
            act()
        assert sorted(tmp_path.iterdir()) == there


def test_a_folder_that_takes_no_file_is_said_with_what_to_do(tmp_path):
    with pytest.raises(PermissionError, match=r"-o writes the repaired file elsewhere.*'/sys/d\.mcap'"):
        repair(write(tmp_path / "d.mcap", regular(5)), "/sys/d.mcap")


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_onto_a_full_disk_names_its_folder_and_can_be_repeated(tmp_path, token_file, groups_of, to):
    tokens = token_file(tmp_path / "a.safetensors", groups_of([200]))
    with full_disk(1000), pytest.raises(OSError, match="out"):
        export(tokens, tmp_path / "out", to)
    assert not [*tmp_path.glob("out/*")]
    assert export(tokens, tmp_path / "out", to)
