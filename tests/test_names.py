"""Names from files and messages, where they become paths."""

import errno
import os
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamtok.names import check_stream_name, name_errors
from streamtok.node.replay_node import ReplayNode
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.redaction import MOST_TEXT, clean_text, without_password
from streamtok.settings.replay import ReplaySettings
from streamtok.tokens.export import ExportOptions, export
from streamtok.tokens.lerobot_layout import VideoFiles
from streamtok.types import Frame
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
        VideoFiles(tmp_path, name, 30.0)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped"])
def test_an_export_writes_nothing_outside_its_folder(tmp_path, name):
    pytest.importorskip("pyarrow")
    path = write_token_file(tmp_path / "evil.safetensors", make_groups([4], name))
    with pytest.raises(ValueError, match="stream name"):
        export(path, tmp_path / "out" / "deep", "parquet", ExportOptions())
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["evil.safetensors"]


def test_a_replay_makes_no_token_file_outside_its_folder(tmp_path):
    source = tmp_path / "evil.mcap"
    with Recorder(source, RecorderOptions("lossless", wait=True)) as recorder:
        recorder.write_frame(Frame("../../x", 0, 0, np.zeros((32, 32, 3), np.uint8)))
    folder = tmp_path / "out" / "deep"
    ReplayNode(ReplaySettings(path=source, model="nano", out=folder)).run()
    assert {path.parent for path in tmp_path.rglob("*.safetensors")} == {folder}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3://bucket/a@b gs://b/x@y.mcap", "s3://bucket/a@b gs://b/x@y.mcap"),
        ("az://box/a@b file:///data/a@b.mp4 ipc:///tmp/a@b", "az://box/a@b file:///data/a@b.mp4 ipc:///tmp/a@b"),
        ("s3://key:SEC/RET@bucket/a@b s3://SECRET@bucket", "s3://b s3://bucket"),
        ("https://SECRET/en+9xA@host/x https://host/a//b@c", "https://host/x https://c"),  # which may be a login too
        ("hf://org/model@main", "hf://org/model@main"),
        ("https://me:12345/SECRET@host/a rtsp://admin:1234/5@cam/live", "https://host/a rtsp://cam/live"),
        ("https://me@host:8080/x https://me:SECRET@host:8080/a@b", "https://host:8080/x https://b"),
        ("https://cam.local:8080/a@b http://10.0.0.5/a@b#c", "https://cam.local/***@b http://10.0.0.5/***@b#c"),
        ("https://me:SECRET@h.org/a?x@y http://[::1]:80/a@b/c", "https://y http://[::1]/***@b/c"),
        ("rtsp://me:p@55.SECRET/x@10.0.0.5/live https://SEC.RET/x@h", "rtsp://10.0.0.5/live https://h"),
        ("http://localhost/a@b http://127.0.0.1/a@b", "http://localhost/***@b http://127.0.0.1/***@b"),
        ("https://me:SEC/RET@h.org/a https://me:S@E/C.RET@h.org", "https://h.org/a https://h.org"),
        ("rtsp:///me:SECRET@h/x //SECRET/a@h/x rtsp:SECRET/a@h/x", "rtsp:///h/x //h/x rtsp:h/x"),
        ("rtsp://user:p@s/s@[::1]:554/x rtsp://us@er@host", "rtsp://[::1]:554/x rtsp://host"),
        ("https://h/live?sig=SECRET&x-id=SECRET", "https://h/live?sig=***&x-id=***"),
        ("rtsp://h:554/live?SECRET", "rtsp://h:554/live?***"),
        ("rtsp://h/user=a_password=SECRET_channel=1.sdp", "rtsp://h/user=***"),
        ("rtmp://h/app/live_123456789_SecretSecret77Secret", "rtmp://h/app/***"),
        ("rtmp://h/app/abcd-1234-efgh-SECRET", "rtmp://h/app/***"),
        ("http://h/cam/3f2a9c71d04b4e5fa7/main.m3u8", "http://h/cam/***/main.m3u8"),
        ("srt://h:9000?streamid=SECRET#t=SECRET", "srt://h:9000?streamid=***"),
        ("HTTP://me:SECRET@h/video?a=SECRET", "HTTP://h/video?a=***"),
        ('gst:rtspsrc location="rtsp://h/x?t=SECRET" ! appsink', 'gst:rtspsrc location="rtsp://h/x?t=***" ! appsink'),
        ('gst:x admin-password="SECRET SECRET" ! y', "gst:x admin-password=*** ! y"),
        ("gst:x user-pw = SECRET ! y", "gst:x user-pw = *** ! y"),
        ("gst:x headers='a,Authorization=(string)SECRET'", "gst:x headers='a,Authorization=(string)***'"),
        ("refused with Authorization: Bearer SECRET", "refused with Authorization: ***"),
        ("rtsp:/me:SECRET@h/x", "rtsp:/h/x"),
        ("rtsp:me:SECRET@h/x", "rtsp:h/x"),
        ("//me:SECRET@h/x", "//h/x"),
        ("http://h/a.jpg#token=SECRET", "http://h/a.jpg#token=***"),
        ("http://h/a.jpg#SECRETabcdefghijk123456", "http://h/a.jpg#***"),
        ("password:SECRET", "password:***"),
        ("api_key=SECRET", "api_key=***"),
        ("x-api-key: SECRET", "x-api-key: ***"),
        ("https://h/abcdefabcdef12345678", "https://h/***"),
        ("https://h/SECRETabcdefghijklmnopqrst/a.m3u8", "https://h/***/a.m3u8"),
        ("https://h/secret_live_key_1234567", "https://h/***"),
        (f"https://h/{'20' * 50}/{'aa-' * 40}/b", "https://h/***/***/b"),  # or seconds pass
        ("rtsp://h/h264Preview_01_main", "rtsp://h/h264Preview_01_main"),
        ("camera 'http://h/x?t=SECRET': gone. See https://h/y", "camera 'http://h/x?t=***': gone. See https://h/y"),
        ("zmq:tcp://h:5555?stream=front&curve=keys/a", "zmq:tcp://h:5555?stream=front&curve=keys/a"),
        ("zmq:tcp://h:5555?token=SECRET", "zmq:tcp://h:5555?token=***"),
        ("synthetic:256x448@30?seed=7&frames=3", "synthetic:256x448@30?seed=7&frames=3"),
        ("camera:synthetic:256x448@30?seed=7#loop=1", "camera:synthetic:256x448@30?seed=7#loop=1"),
        ("images:/data/a?fps=10", "images:/data/a?fps=10"),
        ("/dev/video0?size=720x1280&fps=30", "/dev/video0?size=720x1280&fps=30"),
        ("rtsp://10.0.0.7:554/Streaming/Channels/101", "rtsp://10.0.0.7:554/Streaming/Channels/101"),
        ("ipc:///tmp/0123456789abcdef01234/x.ipc", "ipc:///tmp/0123456789abcdef01234/x.ipc"),
        ("cannot bind tcp://127.0.0.1:5555: in use", "cannot bind tcp://127.0.0.1:5555: in use"),
    ],
)
def test_no_query_value_and_no_key_of_a_url_is_told(text, told):
    assert without_password(text) == told


@given(
    scheme=st.sampled_from(["rtsp", "https", "ssh"]),
    login=st.lists(st.sampled_from(["SECRET", "10.0.0.5", "[::1]", "80", *"@./:?#"]), max_size=9).map("".join),
    path=st.sampled_from(["", "/x", "/a@b", "?x=1"]),
)
def test_no_user_or_password_is_told_whatever_is_in_it(scheme, login, path):
    assume(not re.match(r"[^/@:?#]+\.[^/@:?#]+:\d", login))  # a host with its port
    assert "SECRET" not in without_password(f"{scheme}://{login}@h{path}")
    assert "SECRET" not in without_password(f"{scheme}://me:{login}@h{path}")


@pytest.mark.parametrize("secret", ["https://me:SECRET@h/x", 'password="SECRET SECRET"', "https://h/x?key=SECRET"])
def test_a_text_that_is_cut_off_shows_no_half_of_a_secret(secret):
    lead = 7 * f"https://me:{1000 * 'p'}@h/x "  # far shorter when it is masked
    for fit in range(1, len(secret)):
        assert "SEC" not in clean_text(lead.ljust(2 * MOST_TEXT - fit - 1, "-") + " " + secret)


@pytest.mark.parametrize(
    "text",
    [
        "/data//drives/cam@front.mp4",
        "images:/data//x@2?fps=10",
        "ipc:///tmp/a@b.sock",
        "needs token: its own token coder",
        "expected token: 3, found",
        "auth: curve",
        "pass: 2 of 3",
        "streamtok train: data.token: expected int",
        "secret: it is",
        "rtsp://cam/front-camera-left-stream1",
        "http://h/videos/drive_2024_05_01_front_left.mp4",
        "rtsp://cam/1#transport=tcp",
        "see https://github.com/zeromq/libzmq/issues/4364#issue",
        "zmq:tcp://10.0.0.2:5555#stream=front",
    ],
)
def test_ordinary_words_are_told(text):
    assert without_password(text) == text


@pytest.mark.parametrize(("number", "named"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_a_full_disk_is_that_of_the_file_that_is_written_and_other_errors_are_not(number, named):
    with pytest.raises(OSError, match=os.strerror(number)) as caught, name_errors("new.mcap", " (TMPDIR)"):
        raise OSError(number, os.strerror(number))  # which reading the old file may raise as well
    assert (caught.value.filename == "new.mcap", "TMPDIR" in str(caught.value)) == (named, named)
