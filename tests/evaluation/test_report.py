"""The command: a two-clip folder gives a report that can be read back, and mistakes end with one clear line."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import streamtok
from streamtok.commands.evaluate import main
from streamtok.evaluation.dataset import ClipSet, find_clips
from streamtok.evaluation.pictures import contact_sheet, worst_patch
from streamtok.evaluation.report import format_table
from streamtok.evaluation.suite import SuiteOptions, run_suite
from streamtok.io.images.stills import BAR
from streamtok.model.tokenizer import Tokenizer
from tests.kit.networks import MeanColour, VideoMoments, archive
from tests.kit.pictures import scene


@pytest.fixture
def checkpoint(tiny: Callable[..., Tokenizer], tmp_path: Path) -> Path:
    """A tiny tokenizer stored in a folder."""
    streamtok.save(tiny(), tmp_path / "model")
    return tmp_path / "model"


def test_a_two_clip_folder_prints_a_valid_report(
    checkpoint: Path, two_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (two_clips / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    options = ["--lines", "48", "--baselines", "--drift", "3", "--video", "--out", str(out), "--json"]
    assert main([str(two_clips), "--model", str(checkpoint), *options]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    printed, stored = json.loads(line), json.loads((out / "report.json").read_text())
    assert printed == stored
    assert {clip["name"] for clip in stored["clips"]} == {"left", "sub/right"}
    assert list(stored["skipped"]) == ["broken"]
    assert stored["run"]["command"].startswith("streamtok evaluate ")
    assert len(stored["baselines"]) == 4
    assert [line["bits_share"] is None for line in stored["baselines"]] == [True, True, False, False]
    assert stored["seam"]["frame"] == 24
    assert stored["drift"]["groups"][-1] == 3
    check_markdown((out / "report.md").read_text(), stored)
    assert (out / "report.md").read_text().startswith(f"# {checkpoint} (tiny) on 2 clips")
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape[0] > 2 * 256
    with av.open(str(out / "side_by_side.mp4")) as video:
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(shown) == 33 + 17
    assert shown[0].shape == (48, 144, 3)
    assert np.abs(shown[0][:, :72].astype(int) - shown[0][:, 72:]).mean() > 5  # the right half is the reconstruction


def check_markdown(text: str, values: dict) -> None:
    headings = ["Summary", "PSNR by place", "Baselines", "Over a longer time", "Codebook", "Clips, worst first"]
    for heading in (*headings, "Contact sheet", "Published figures: measured elsewhere"):
        assert f"## {heading}" in text
    assert f"| PSNR, dB | {values['psnr']:.2f} |" in text
    assert "Measured elsewhere, by others, on other data" in text
    assert "`broken`" in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1, block


def test_pictures_are_judged_without_anything_about_time(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for number in range(2):
        ok, data = cv2.imencode(".png", scene(1, 40, 56, seed=number)[0])
        assert ok
        (tmp_path / f"{number}.png").write_bytes(data.tobytes())
    net = archive(MeanColour(), tmp_path / "net.pt")
    arguments = [str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--inception", str(net)]
    assert main([*arguments, "--model", str(checkpoint), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "rFID" in printed
    stored = json.loads((tmp_path / "out/report.json").read_text())
    assert stored["rfid"] > 0
    assert stored["seam"] is stored["held_still"] is stored["drift"] is None
    assert "flicker" not in stored["clips"][0]["extra"]


def test_rfvd_when_a_network_is_given(tiny: Callable[..., Tokenizer], two_clips: Path, tmp_path: Path):
    options = SuiteOptions(i3d=archive(VideoMoments(), tmp_path / "net.pt"), motion=False)
    result = run_suite(tiny(), ClipSet(find_clips([two_clips]), lines=32, frames=13), options)
    assert result.rfvd is not None
    assert result.rfvd > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing"], "missing does not exist"),
        (["{clips}", "--model", "nanno"], "nanno"),
        (["{clips}", "--i3d", "{clips}/left.mp4"], "not a TorchScript archive"),
    ],
)
def test_what_cannot_work_ends_with_one_line(
    arguments: list[str], words: str, checkpoint: Path, two_clips: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = [argument.format(clips=two_clips) for argument in arguments]
    if "--model" not in arguments:
        arguments += ["--model", str(checkpoint)]
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("streamtok evaluate: ")
    assert words in error
    assert error.count("\n") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "places: required, not given"),
        (["clips", "--lines", "tall"], "lines: expected a number of pixels of 8 or more, or 'native' (got 'tall')"),
        (["clips", "--frames", "many"], "frames: input should be a valid integer"),
        (["clips", "--images", "--sequences"], "sequences a folder of them: choose one"),
    ],
)
def test_wrong_use_exits_with_two(arguments: list[str], words: str, capsys):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_worst_patch_is_where_the_error_is():
    original = np.zeros((100, 200, 3), np.uint8)
    rebuilt = original.copy()
    rebuilt[20:84, 100:164] = 50
    assert worst_patch(original, rebuilt) == (20, 100)
    assert worst_patch(original[:64], rebuilt[:64]) == (0, 0)


def test_contact_sheet_holds_rows_of_different_sizes():
    rows = [("wide", *scene(2, 96, 160)), ("tall", *scene(2, 160, 96))]
    sheet = contact_sheet(rows, height=96)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * (96 + 4 + BAR), 160 * 2 + 96 * 2 + 16, 3)


def test_table_escapes_bars():
    assert format_table(("a", "b"), [("x|y", 1)]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"
