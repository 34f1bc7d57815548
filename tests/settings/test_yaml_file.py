"""Files and values that are no configuration say so, in a line."""

from importlib.resources import files

import pytest

from streamtok.settings.errors import SettingsError
from streamtok.settings.yaml_file import parse_set, read_yaml


def test_what_is_no_configuration_file_says_so(tmp_path):
    (tmp_path / "drive.mcap").write_bytes(b"\x89MCAP\xff")
    with pytest.raises(SettingsError, match=r"drive.mcap: cannot be read as a configuration file: it is no UTF-8"):
        read_yaml(tmp_path / "drive.mcap")
    with pytest.raises(SettingsError, match="cannot be read as a configuration file: Is a directory"):
        read_yaml(tmp_path)


def test_a_shipped_file_goes_by_its_name_unless_there_is_one_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert read_yaml("demo")[0]["node"] == "demo"
    (tmp_path / "usb_camera").write_text("node: mine")
    assert read_yaml("usb_camera")[0] == {"node": "mine"}


def test_a_file_that_is_not_there_says_where_the_shipped_ones_are():
    with pytest.raises(SettingsError, match=r"^configs/none.yaml: no such .*: demo, rig_six_cameras, .*") as caught:
        read_yaml("configs/none.yaml")
    assert f" are in {files('streamtok.configs')} " in str(caught.value)


def test_a_value_that_is_no_yaml_says_so():
    with pytest.raises(SettingsError, match=r"--set streams.0=\[}: the value is not valid YAML"):
        parse_set(["streams.0=[}"])
