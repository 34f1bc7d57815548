"""Files and values that are no configuration say so, in a line."""

import sys
import time

import pytest

from streamtok.settings.errors import SettingsError
from streamtok.settings.yaml_file import parse_set, read_yaml, shipped


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
    assert f" are in {shipped()['demo'].parent} " in str(caught.value)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        MERGES,
        "a: &a [*a]",
        "a: &a {b: *a}",
        "[" * 100_000,
        "a: " + "[" * 900 + "]" * 900,
        "".join(" " * depth + "a:\n" for depth in range(900)),
        "- " * 900,
        "a: " + "x" * 2_000_000,
        "a: 2020-99-99",
        "a: " + "1" * 5000,
    ],
)
def test_a_text_that_grows_or_nests_or_cannot_be_is_refused_at_once_in_a_line_that_names_it(text, tmp_path):
    (tmp_path / "evil.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(SettingsError, match=r"evil.yaml: not valid YAML: ") as caught:
        read_yaml(tmp_path / "evil.yaml")
    assert time.monotonic() - began < 5
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_values_on_a_command_line_are_bounded_alike():
    with pytest.raises(SettingsError, match=r"--set streams.0=\[}: the value is not valid YAML"):
        parse_set(["streams.0=[}"])
    with pytest.raises(SettingsError, match="deeper than"):
        parse_set(["streams=" + "[" * 5000])


def test_aliases_of_a_configuration_that_somebody_would_write_are_taken(tmp_path):
    (tmp_path / "rig.yaml").write_text("a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2}")
    assert read_yaml(tmp_path / "rig.yaml")[0] == {"a": {"x": 1}, "b": [{"x": 1}] * 2, "c": {"x": 1, "y": 2}}


def test_a_checkout_that_is_not_installed_has_the_shipped_files(monkeypatch):
    monkeypatch.setitem(sys.modules, "streamtok.configs", None)
    assert "demo" in shipped()
    with pytest.raises(SettingsError, match=r"no such configuration file; .* demo"):
        read_yaml("nowhere.yaml")
