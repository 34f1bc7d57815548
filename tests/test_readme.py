"""The README's commands and programs run as they are written."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from pydoc import locate

import pytest

from streamtok.node.metrics import HELP

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def blocks(heading: str, language: str) -> list[str]:
    """The fenced blocks of one language under a heading."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """A shell block as argument lists, comments dropped."""
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]


def run(command: list[str], folder: Path) -> str:
    """Run one command as a user would, in `folder`; its output, both streams."""
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr[-2000:]}"
    return done.stdout + done.stderr


def test_the_first_command_shows_the_whole_pipeline(tmp_path):
    first = commands(re.search(r"```sh\n(.*?)```", TEXT, re.DOTALL)[1])[0]
    short = ["SOURCE=synthetic:96x160@30?seed=7&frames=17", f"OUT={tmp_path}", f"BIN={Path(sys.executable).parent}"]
    told = run([*first, "--old-file=.venv/.installed", *short], ROOT)
    assert re.search(r"\d frames of 96x160", told)  # a busy machine leaves some out, and says so
    assert "17 frames of 96x160" in told or "to stay in real time" in told
    assert "0 messages lost" in told
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("side_by_side.mp4", "picture.png"))


def test_the_page_on_replay_runs_as_written(tmp_path):
    outputs = [run(command, tmp_path) for command in commands(blocks("Replay recorded drives", "sh")[0])]
    assert "31 identical" in outputs[2]
    assert (tmp_path / "tokens" / "cam0.safetensors").exists()


def test_the_program_on_weights_runs_as_written(tmp_path):
    program = blocks("Bring your own weights", "python")[0]
    shapes = """
assert tokens.shape == (1, 3, 32, 56)
assert back.shape == (1, 3, 9, 256, 448)
assert group.shape == (1, 1, 32, 56)
"""
    run([sys.executable, "-c", program + shapes], tmp_path)


def test_two_terminals_and_the_five_lines_run_as_written(tmp_path):
    first, second, *_ = (commands(block)[0] for block in blocks("Run it on a robot", "sh"))
    node = subprocess.Popen(first, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        for line in node.stderr:
            if "event=bound" in line:
                break
        else:
            pytest.fail("the node ended before it was bound: is port 5555 taken?")
        program = blocks("Consume tokens", "python")[0] + "    if header.seq > 5:\n        break\n"
        assert re.search(r"front \d+ \(32, 56\)", run([sys.executable, "-c", program], tmp_path))
        second[-1] = "10"
        assert "front" in run(second, tmp_path)
        decode = commands(blocks("Consume tokens", "sh")[0])[0]
        decode[-1] = "8"
        run(decode, tmp_path)
        assert (tmp_path / "back.mp4").stat().st_size > 0
    finally:
        node.send_signal(signal.SIGINT)
        told = node.communicate(timeout=200)[1]
    assert node.returncode == 0 or "still busy 1.9 s after the signal" in told  # so it is on a busy machine


def test_the_program_on_export_runs_as_written_in_a_fresh_process(tmp_path):
    page = (ROOT / "docs" / "coming-from.md").read_text()
    program = re.search(r"## torch.compile and torch.export\n\n```python\n(.*?)```", page, re.DOTALL)[1]
    first = "import streamtok, torch\ntok, clip = streamtok.load('nano'), torch.rand(1, 3, 5, 64, 96) * 2 - 1\n"
    last = "assert torch.equal(program.module()(clip), tok.encode(clip).indices)\n"  # the tokenizer still works
    run([sys.executable, "-c", first + program + last], tmp_path)


def test_the_page_on_the_api_names_what_can_be_imported():
    page = (ROOT / "docs" / "api.md").read_text()
    homes, public = re.findall(r"^::: (\S+)", page, re.MULTILINE), re.findall(r"heading: ([\w.]+)", page)
    assert all(locate(name) is not None for name in homes + public)
    members = re.search(r"heading: streamtok.Tokenizer.*?members: \[(.*?)\]", page, re.DOTALL)[1].split(", ")
    assert all(hasattr(locate("streamtok.Tokenizer"), name) for name in members)


def test_names_on_the_pages_are_reached_by_importing_streamtok_alone():
    pages = [TEXT, *(page.read_text() for page in (ROOT / "docs").glob("*.md"))]
    named = set(re.findall(r"\bstreamtok\.(?:data|checkpoint)\.(?!\w+\.)\w+", "\n".join(pages)))
    assert "streamtok.data.TokenDataset" in named
    program = "; ".join(["import streamtok", *sorted(named), "streamtok.__version__"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_metric_is_on_the_page_on_operations():
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(HELP) <= set(re.findall(r"`streamtok_(\w+?)(?:_total)?`", page))


def test_every_page_and_picture_it_names_exists():
    for target in re.findall(r"\]\(([^)#]+?)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.mark.parametrize("program", ["examples/plain_coder.py", "benchmarks/view_cost.py"])
def test_a_program_says_how_it_is_used(program, tmp_path):
    pytest.importorskip("websockets", reason="view_cost.py needs: pip install 'websockets>=14'")
    assert "usage: " in run([sys.executable, str(ROOT / program), "--help"], tmp_path)
