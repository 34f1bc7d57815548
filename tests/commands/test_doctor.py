"""`streamtok doctor SOURCE` says what a source is, what is wrong with it and what would be done."""

import json
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from streamtok.commands import doctor, export
from tests.kit.tokens import make_groups, write_recording, write_token_file
from tests.kit.videos import PLAIN, damage, numbered, write_two_streams, write_video


@pytest.fixture
def look(capsys):
    """What is said of a source, as JSON and in words."""

    def look(source, *flags):
        status = doctor.main([str(source), "--json", *flags])
        found = json.loads(capsys.readouterr().out)
        assert doctor.main([str(source), *flags]) == status == (0 if found["ok"] else 1)
        return found, capsys.readouterr().out

    return look


def test_a_file_with_two_streams_and_damage(tmp_path, look):
    path = write_two_streams(tmp_path / "two.mkv", [numbered(5, 32, 96), numbered(5)], default=1)
    found, words = look(path)
    assert [stream["size"] for stream in found["streams"]] == [[32, 96], [64, 96]]
    assert (found["frames"], found["complete"], found["sizes"], found["claimed_rate"]) == (5, True, [[64, 96]], 25)
    assert "1: h264 64x96 yuv420p, 25 per second, is read" in words
    assert "FILE?stream=N" in words
    path = damage(write_video(tmp_path / "d.mp4", numbered(30), range(0, 30 * 512, 512), **PLAIN), 14)
    found, words = look(path)
    [[seconds, missing]] = found["missing"]
    assert (round(seconds, 2), found["counts"]["damaged"]) == (13 / 25, missing)
    assert f"{missing} behind 0.520 s" in words
    assert "damaged pictures are left out and counted" in words
    found, _ = look(path, "--frames", "8")
    assert (found["frames"], found["complete"]) == (8, False)


def test_a_folder_of_turned_images_with_times_since_boot(tmp_path, look):
    tag = Image.Exif()
    tag[0x0112] = 6
    for number, image in enumerate(numbered(4)):
        Image.fromarray(image).save(tmp_path / f"{number}.jpg", exif=tag)
    (tmp_path / "timestamps.txt").write_text("\n".join(str(10**14 + n * 50_000_000) for n in range(4)))
    found, words = look(f"images:{tmp_path}")
    assert (found["sizes"], found["rate"], found["orientation"]) == ([[96, 64]], 20, "turned by 90 degrees")
    assert "since boot or start in ns (steps of 50000000 are 20 pictures per second), from timestamps.txt" in words
    assert any("unit=ns" in note for note in found["notes"])


def test_a_picture_off_the_grid_is_said_to_be_padded(tmp_path, look):
    cv2.imwrite(str(tmp_path / "a.png"), numbered(1)[0][:61])
    _, words = look(tmp_path / "a.png")
    assert "does     nano pads it to 64x96 and makes a grid of 8x12 tokens of the picture" in words.splitlines()


def test_raw_video_is_said_to_be_counted_and_dark_images_what_to_do(tmp_path, look):
    raw = write_video(tmp_path / "a.h264", numbered(12), range(0, 12 * 512, 512), **PLAIN)
    found, words = look(f"{raw}?fps=20")
    assert (found["rate"], found["rate_from"]) == (20, "given")
    assert "pictures are counted at the rate" in words
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "deep" / "0.png"), np.full((16, 16), 4000, np.uint16))
    _, words = look(f"images:{tmp_path}/deep?fps=1")
    assert "?bits=12" in words


def test_damage_that_a_codec_does_not_show_is_said(tmp_path, look):
    _, words = look(write_video(tmp_path / "a.webm", numbered(3), range(0, 3 * 512, 512), "libvpx-vp9"))
    assert "a packet of vp9 that is cut off is not noticed" in words
    assert "nothing in vp9 counts pictures" in words
    _, words = look(write_video(tmp_path / "a.mp4", numbered(3), range(0, 3 * 512, 512), "libsvtav1", preset="12"))
    assert "without order hints nothing in AV1 counts pictures" in words
    _, words = look(write_video(tmp_path / "a.mkv", numbered(3), range(0, 3 * 512, 512), **PLAIN))
    assert "cut off is not noticed" not in words
    assert "nothing in h264 counts" not in words
    assert "a changed byte is noticed only where" in words


def test_cameras_and_drives(tmp_path, look, capsys):
    found, words = look("camera:synthetic:48x64@30?frames=15")
    assert (found["live"], found["sizes"]) == (True, [[48, 64]])
    assert "latest: frames that the encoder cannot follow are left out" in words
    write_video(tmp_path / "front.mp4", numbered(12), range(0, 12 * 512, 512), **PLAIN)
    found, words = look(tmp_path)
    assert found["cameras"]["front"]["frames"] == 12
    assert f"streamtok replay {tmp_path}" in words
    assert doctor.main([str(tmp_path / "none.mp4")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert doctor.main(["configs/usb_camera.yaml"]) == 1
    assert "no source but a configuration" in capsys.readouterr().err
    assert doctor.main([str(tmp_path / "none.yaml")]) == 1
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    assert doctor.main([str(tmp_path / "metadata.yaml")]) == 1
    assert "--config" not in capsys.readouterr().err
    (tmp_path / "folder.yml").mkdir()
    write_video(tmp_path / "folder.yml" / "front.mp4", numbered(12), range(0, 12 * 512, 512), **PLAIN)
    assert look(tmp_path / "folder.yml")[0]["cameras"]["front"]["frames"] == 12
    assert doctor.main(["snapshot:http://u:secret@127.0.0.1:9/x", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["source"]) == (False, "snapshot:http://127.0.0.1:9/x")
    assert "refused" in found["error"]


def test_tokens_are_described_and_told_what_reads_them(tmp_path, look, capsys):
    """The command that is named works; the status is that of `info`."""
    groups = make_groups([4])
    (tmp_path / "tokens").mkdir()
    file = write_token_file(tmp_path / "tokens" / "a.safetensors", groups)
    drive = write_recording(tmp_path / "a.mcap", {"front": groups})
    for source in (file, file.parent, drive):
        _, words = look(source)
        assert "4 groups" in words
        command = shlex.split(words.rpartition("export them: streamtok ")[2])
        assert command[:2] == ["export", str(source)]
        assert export.main([*command[1:-1], str(tmp_path / f"out of {source.name}")]) == 0
        capsys.readouterr()
    (file.parent / "b.safetensors").write_bytes(file.read_bytes()[:-40])
    found, words = look(file.parent)
    assert not found["ok"]
    assert words.endswith("1 of 2 token files cannot be read\n")


@pytest.mark.parametrize(("module", "check"), [("cv2", "video"), ("av", "video"), ("zmq", "zmq")])
def test_a_package_that_does_not_import_is_a_finding(module, check):
    code = f"import sys; sys.modules[{module!r}] = None; from streamtok.cli import main; "
    code += "sys.exit(main(['doctor', '--no-measure', '--json']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    bad = {each["name"]: each["found"] for each in json.loads(done.stdout)["checks"] if each["state"] == "bad"}
    assert module in bad[check]
