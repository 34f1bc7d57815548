"""Configuration files: what ships is valid, and mistakes explain themselves."""

import datetime

import pytest
import yaml

from streamtok.io.source import open_source
from streamtok.node.rig import make_options
from streamtok.settings.errors import SettingsError
from streamtok.settings.rig import load_rig
from streamtok.settings.yaml_file import parse_set, shipped

SHIPPED = ["demo", "usb_camera", "rtsp_camera", "rig_six_cameras", "secure"]

WRONG = """\
modle: nano
device: gpu
bind: 5555
metrics: lots
defaults:
  sizee: [3]
streams:
  - name: front cam
    source: /dev/video0
    size: 360
  - name: rear
    sorce: x
    policy: newest
"""


@pytest.fixture
def wrong(tmp_path):
    path = tmp_path / "rig.yaml"
    path.write_text(WRONG)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_valid_and_says_what_each_field_is_for(name):
    path = shipped()[name]
    assert load_rig(name).resolved()
    lines = path.read_text().splitlines()
    assert sum(line.lstrip().startswith("#") for line in lines) >= 10


@pytest.mark.parametrize("name", SHIPPED)
def test_the_sources_of_what_ships_are_cameras_but_for_the_demo(name):
    rig = load_rig(name)
    assert [open_source(stream.source).live for stream in rig.streams] == [name != "demo"] * len(rig.streams)


def test_every_fault_is_told_at_once_with_file_line_path_value_and_what_is_allowed(wrong):
    with pytest.raises(SettingsError) as caught:
        load_rig(wrong)
    lines = str(caught.value).splitlines()
    assert len(lines) == 10  # those below, and that `source` is missing
    for expected in (
        f"{wrong}:1: modle: unknown key (value 'nano'); did you mean 'model'? allowed: json, log_format, node, model,",
        f"{wrong}:2: device: expected auto, cpu, cuda or cuda:N (got 'gpu')",
        f"{wrong}:3: bind: expected tcp://HOST:PORT or ipc://PATH (got 5555)",
        f"{wrong}:4: metrics: input should be a valid integer",
        f"{wrong}:6: defaults.sizee: unknown key (value [3]); did you mean 'size'?",
        f"{wrong}:8: streams.0.name:",
        f"{wrong}:10: streams.0.size: expected HEIGHTxWIDTH in pixels, such as 256x448 (got 360)",
        f"{wrong}:12: streams.1.sorce: unknown key (value 'x'); did you mean 'source'?",
        f"{wrong}:13: streams.1.policy: input should be 'latest' or 'lossless' (got 'newest')",
    ):
        assert any(line.startswith(expected) for line in lines), (expected, lines)


def test_a_key_at_the_wrong_level_is_told_where_it_belongs(tmp_path):
    path = tmp_path / "rig.yaml"
    path.write_text("size: 64x96\nstreams:\n- {name: a, source: x, record: drive.mcap}")
    with pytest.raises(SettingsError) as caught:
        load_rig(path)
    assert sorted(str(caught.value).splitlines()) == [
        f"{path}:1: size: unknown key (value '64x96'); its path is defaults.size or streams.*.size",
        f"{path}:3: streams.0.record: unknown key (value 'drive.mcap'); its path is record",
    ]


def test_flags_override_the_file_and_are_named_as_such(tmp_path):
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump({"streams": [{"name": "a", "source": "x.mp4"}, {"name": "b", "source": "y.mp4"}]}))
    rig = load_rig(path, parse_set(["model=small", "streams.1.size=64x96"]), {"fit": "crop"})
    assert rig.model == "small"
    assert [(stream.fit, stream.size) for stream in rig.streams] == [("crop", None), ("crop", (64, 96))]
    with pytest.raises(SettingsError, match=r"^command line: streams.0.fit: input should be"):
        load_rig(path, None, {"fit": "zoom"})
    assert [stream.tail for stream in load_rig(path, parse_set(["streams.*.tail=drop"])).streams] == ["drop", "drop"]
    with pytest.raises(SettingsError, match="streems: unknown key"):
        load_rig(path, parse_set(["streems.*.tail=drop"]))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("streams: 5", r"streams: input should be a valid list \(got 5\)"),
        ("streams:", r"streams: input should be a valid list \(got None\)"),
        ("streams: {a: 1}", r"streams: input should be a valid list \(got {'a': 1}\)"),
        ("model: nano", "streams: required, not given"),
    ],
)
def test_what_is_set_for_every_stream_does_not_hide_that_there_are_none(tmp_path, text, fault):
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=fault):
        load_rig(path, None, {"fit": "crop"})


def test_defaults_fill_what_a_stream_does_not_say():
    rig = load_rig(
        None,
        {
            "defaults": {"size": "64x96", "tail": "drop"},
            "streams": [{"name": "a", "source": "x", "tail": "pad"}, {"name": "b", "source": "y"}],
        },
    )
    assert [(stream.size, stream.tail) for stream in rig.resolved()] == [((64, 96), "pad"), ((64, 96), "drop")]


@pytest.mark.parametrize("group", ["perception", "1001"])
def test_a_group_is_named_or_numbered(group, tmp_path):
    path = tmp_path / "rig.yaml"
    path.write_text(f"ipc_group: {group}\nstreams: [{{name: a, source: x}}]")
    assert load_rig(path).ipc_group == group


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("rtsp://admin:hunter2@10.0.0.7:554/x", "rtsp://10.0.0.7:554/x"),
        ("rtsp://admin:hun@ter/2@10.0.0.7/x", "rtsp://10.0.0.7/x"),
        ("http://10.0.0.7/video.cgi?user=me&pwd=hunter2&fps=5", "http://10.0.0.7/video.cgi?user=***&pwd=***&fps=***"),
        ("gst:rtspsrc location=rtsp://a:hunter2@h/x ! appsink", "gst:rtspsrc location=rtsp://h/x ! appsink"),
        (
            "gst:rtspsrc location=rtsp://h/x user-pw=hunter2 ! appsink",
            "gst:rtspsrc location=rtsp://h/x user-pw=*** ! appsink",
        ),
        ("zmq:ipc://@frames", "zmq:ipc://@frames"),
        ("/dev/video0?size=720x1280", "/dev/video0?size=720x1280"),
    ],
)
def test_settings_that_are_stored_hold_no_password_and_those_in_use_do(source, told):
    rig = load_rig(None, {"streams": [{"name": "a", "source": source}]})
    assert rig.resolved()[0].source == source
    assert rig.model_dump(mode="json")["streams"][0]["source"] == told


def test_cameras_are_never_behind_and_files_never_lose():
    [stream] = load_rig(None, {"streams": [{"name": "a", "source": "x"}]}).streams
    assert make_options(stream, live=True).policy == "latest"
    assert make_options(stream, live=False).policy == "lossless"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("streams: [", "not valid YAML"),
        ("- 3", "expected keys and values at the top, found list"),
        ("", "streams: required, not given"),
        ("streams: []", "streams: list should have at least 1 item"),
        ("streams: [{name: a, source: x}, {name: a, source: y}]", "stream names must differ, a is used more than once"),
        ("streams: [{name: a, source: /dev/video0}, {name: b, source: /dev/video0}]", "source of more than one stream"),
        (
            "streams: [{name: a, source: /dev/v4l/c}, {name: b, source: '/dev/v4l/c?fps=5'}]",
            "/dev/v4l/c is the source",
        ),
    ],
)
def test_a_broken_file_says_what_is_broken(tmp_path, text, message):
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        load_rig(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("item", ["model", "=3", "streams.x.size=3", "model.deep=3"])
def test_a_wrong_override_is_refused(tmp_path, item):
    path = tmp_path / "rig.yaml"
    path.write_text("model: nano\nstreams: [{name: a, source: x}]")
    with pytest.raises(SettingsError, match="--set"):
        load_rig(path, parse_set([item]))


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"made": datetime.date(2026, 1, 2)}, "expected text, numbers, booleans, lists and maps, found date at made"),
        ({"lens": {"f": [1.0, float("nan")]}}, "numbers are finite, found nan at f at lens"),
        ({"lens": {1: 2}}, "keys are text, put 1 at lens in quotes"),
        ({"mask": None}, "found nothing at mask"),
        ({"mask": "x" * 40_000}, "expected at most 32768 bytes"),
    ],
)
def test_metadata_that_cannot_travel_is_refused(metadata, text):
    with pytest.raises(SettingsError, match=f"streams.0.metadata: .*{text}"):
        load_rig(None, {"streams": [{"name": "a", "source": "/dev/video0", "metadata": metadata}]})


def test_a_digit_that_is_no_number_counts_no_item():
    with pytest.raises(SettingsError, match="there is no '²' here; lists count from 0"):
        load_rig("demo", {"streams.².size": [8, 8]})
