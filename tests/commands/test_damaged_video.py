"""A video that is cut off: every command reads what is there, counts what is not, and fails where nothing is."""

import json

import av
import pytest

import streamtok
from streamtok.commands import encode, info, ingest, replay
from streamtok.commands import tokenize as tokenize_drives
from tests.kit.drives import picture
from tests.kit.models import VIDEO, build
from tests.kit.videos import PLAIN, write_video

SMALL = ["--size", "16x24"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    streamtok.save(build(VIDEO), folder)
    return ["--model", str(folder), "--device", "cpu"]


@pytest.fixture
def video(tmp_path):
    """20 pictures with their index first, and where in the file each of them lies."""
    images, first = [picture(number) for number in range(20)], {"movflags": "faststart"}
    path = write_video(tmp_path / "drive.mp4", images, container_options=first, **PLAIN)
    with av.open(str(path)) as container:
        return path, [packet.pos for packet in container.demux(video=0) if packet.size]


@pytest.fixture
def cut(video):
    """The first 9 pictures and a part of the tenth."""
    path, places = video
    path.write_bytes(path.read_bytes()[: places[9] + 7])
    return str(path)


@pytest.fixture
def nothing(video):
    """Only the index."""
    path, places = video
    path.write_bytes(path.read_bytes()[: places[0]])
    return str(path)


def test_replay(cut, model, tmp_path, capsys):
    assert replay.main([cut, *model, *SMALL, "--out", str(tmp_path / "out"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["streams"]["cam0"]["frames"] == 9
    assert summary["damaged"] == 11
    assert summary["skipped"] == {"cam0: frames damaged": 11}
    assert replay.main([cut, *model, *SMALL]) == 0
    assert "cam0: 9 of 20 images are frames; 11 cannot be read" in capsys.readouterr().out


def test_info(cut, capsys):
    assert info.main([cut, "--json"]) == 0
    camera = json.loads(capsys.readouterr().out)["cameras"]["cam0"]
    assert (camera["frames"], camera["damaged"]) == (9, 11)
    assert info.main([cut]) == 0
    assert "cam0: 9 of 20 images are frames; 11 cannot be read" in capsys.readouterr().out


def test_encode(cut, model, tmp_path, capsys):
    out = ["-o", str(tmp_path / "t.safetensors")]
    assert encode.main([cut, *model, *SMALL, *out, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["frames"], summary["damaged"]) == (9, 11)
    assert encode.main([cut, *model, *SMALL, *out]) == 0
    assert "11 frames could not be read" in capsys.readouterr().out


def test_ingest(cut, model, tmp_path, capsys):
    endpoint = ["--bind", f"ipc://{tmp_path}/i"]
    assert ingest.main(["--source", cut, *model, *SMALL, *endpoint, "--json"]) == 0
    stream = json.loads(capsys.readouterr().out)["streams"]["cam0"]
    assert (stream["frames"], stream["damaged"]) == (9, 11)
    assert ingest.main(["--source", cut, *model, *SMALL, *endpoint]) == 0
    assert "11 damaged" in capsys.readouterr().out


def test_tokenize(cut, model, tmp_path, capsys):
    assert tokenize_drives.main([cut, *model, *SMALL, "--out", str(tmp_path / "tokens"), "--quiet"]) == 0
    record = json.loads(next((tmp_path / "tokens").glob("*/drive.json")).read_text())
    assert record["skipped"] == {"cam0: frames damaged": 11}
    assert [file["frames"] for file in record["files"]] == [9]


def test_status_1_where_not_one_frame_can_be_read(nothing, model, tmp_path, capsys):
    calls = [
        (info, [nothing]),
        (replay, [nothing, *model, *SMALL]),
        (encode, [nothing, *model, "-o", str(tmp_path / "t.safetensors")]),
        (ingest, ["--source", nothing, *model, *SMALL, "--bind", f"ipc://{tmp_path}/i"]),
        (tokenize_drives, [nothing, *model, *SMALL, "--out", str(tmp_path / "tokens"), "--quiet", "--retries", "0"]),
    ]
    for module, arguments in calls:
        assert module.main(arguments) == 1, module.__name__
        assert "drive.mp4" in capsys.readouterr().err, module.__name__
