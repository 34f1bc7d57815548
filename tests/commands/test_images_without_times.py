"""Images without times: every command that asks for a rate takes it as images:DIR?fps=N."""

import json
import re
from pathlib import Path

import cv2
import pytest

from streamtok.commands import info, replay
from streamtok.commands import tokenize as tokenize_drives
from streamtok.drives.open_drive import open_drive
from tests.kit.drives import picture


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """imgs/front and imgs/rear with five numbered images each; the working directory is theirs."""
    for stream in ("front", "rear"):
        (tmp_path / "imgs" / stream).mkdir(parents=True)
        for number in range(5):
            cv2.imwrite(str(tmp_path / "imgs" / stream / f"{number}.png"), picture(number, stream))
    monkeypatch.chdir(tmp_path)
    return "imgs/front"


def test_info_takes_what_it_advises(folder, capsys):
    assert info.main([folder]) == 1
    advised = re.search(r"images:\S+", capsys.readouterr().err)[0]
    assert info.main([advised, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cameras"]["cam0"]["frames"] == 5
    assert report["cameras"]["cam0"]["frames_per_second"] == 10
    assert report["bytes"] == sum(file.stat().st_size for file in Path(folder).iterdir())


def test_replay_and_tokenize_take_a_rate(folder, model, tmp_path, capsys):
    given = ["--model", model, "--device", "cpu"]
    assert replay.main([f"images:{folder}?fps=20", *given, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["streams"]["cam0"]["frames"] == 5
    arguments = [f"images:{folder}?fps=20", *given, "--out", str(tmp_path / "tokens"), "--quiet", "--json"]
    assert tokenize_drives.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 1
    (record,) = (tmp_path / "tokens").glob("*/drive.json")
    assert json.loads(record.read_text())["drive"] == f"images:{tmp_path}/{folder}?fps=20"
    assert tokenize_drives.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 1


def test_the_rate_holds_for_every_camera_of_a_folder(folder):
    with open_drive("images:imgs?fps=25") as drive:
        frames = list(drive)
    assert [(frame.stream, frame.capture_ns) for frame in frames if frame.frame_id == 2] == [
        ("front", 80_000_000),
        ("rear", 80_000_000),
    ]
    assert len(frames) == 10


def test_what_is_wrong_with_the_name_is_said(folder):
    with pytest.raises(ValueError, match="unknown option 'rate'; known: fps, timestamps"):
        open_drive(f"images:{folder}?rate=10")
    with pytest.raises(FileNotFoundError, match="'gone': no such file or folder"):
        open_drive("images:gone?fps=10")
