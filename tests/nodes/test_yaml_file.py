"""Files and values that are no configuration say so, in a line."""

import pytest

from streamtok.command import SettingsError
from streamtok.yaml_file import parse_set, read_yaml


def test_what_is_no_configuration_file_says_so(tmp_path):
    (tmp_path / "drive.mcap").write_bytes(b"\x89MCAP\xff")
    with pytest.raises(SettingsError, match=r"drive.mcap: cannot be read as a configuration file: it is no UTF-8"):
        read_yaml(tmp_path / "drive.mcap")
    with pytest.raises(SettingsError, match="cannot be read as a configuration file: Is a directory"):
        read_yaml(tmp_path)


def test_a_value_that_is_no_yaml_says_so():
    with pytest.raises(SettingsError, match=r"--set streams.0=\[}: the value is not valid YAML"):
        parse_set(["streams.0=[}"])
