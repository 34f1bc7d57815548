"""Names from files and messages, where they become paths."""

import pytest

from streamtok.names import check_stream_name
from streamtok.node.replay_outputs import Outputs
from streamtok.tokens.export import ExportOptions, export
from streamtok.tokens.lerobot_layout import VideoColumn
from tests.kit.tokens import make_groups, write_token_file

EVIL = ["../../x", "/abs", "", "a" * 65, "a/b", "a.b", "front\n", "{0.__class__}"]


@pytest.mark.parametrize("name", EVIL)
def test_a_name_that_is_no_stream_name_is_refused(name):
    with pytest.raises(ValueError, match="stream name"):
        check_stream_name(name)


@pytest.mark.parametrize("name", ["front", "cam0", "rear-left_2", "a" * 64])
def test_a_stream_name_is_what_it_is(name):
    assert check_stream_name(name) == name


@pytest.mark.parametrize("name", EVIL)
def test_a_video_column_lies_within_its_folder(tmp_path, name):
    with pytest.raises(ValueError, match="stream name"):
        VideoColumn(tmp_path, name, 30.0)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped"])
def test_an_export_writes_nothing_outside_its_folder(tmp_path, name):
    pytest.importorskip("pyarrow")
    path = write_token_file(tmp_path / "evil.safetensors", make_groups([4], name))
    with pytest.raises(ValueError, match="stream name"):
        export(path, tmp_path / "out" / "deep", "parquet", ExportOptions())
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["evil.safetensors"]


def test_a_replay_makes_no_token_file_outside_its_folder(tmp_path):
    outputs = Outputs.__new__(Outputs)
    with pytest.raises(ValueError, match="stream name"):
        outputs._path_of("../../x", tmp_path)
