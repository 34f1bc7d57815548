"""`gpu_check` keeps what a part has found, however its process ends, and what that has started ends too."""

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import check as gpu_check
from tests.kit.wire import eventually

FOUND = "import json, os, pathlib, subprocess, sys, time; pathlib.Path(sys.argv[2]).write_text(json.dumps({'a': 1})); "
CHILD = "child = subprocess.Popen(['sleep', '600']); pathlib.Path(sys.argv[1]).write_text(str(child.pid)); "


def last(code, part="part", limit=60.0):
    *_, found = gpu_check.run_apart(part, limit, (sys.executable, "-c", FOUND + code))
    return found


@pytest.mark.parametrize(
    ("code", "says"),
    [("", None), ("os.abort()", "ended with status -6"), ("sys.exit(3)", "ended with status 3")],
)
def test_a_part_that_crashes_keeps_what_it_found(code, says):
    assert last(code) == {"a": 1} | ({"ended": {"ok": False, "error": says}} if says else {})


def test_a_part_that_hangs_is_stopped_with_what_it_started(tmp_path, monkeypatch):
    pid = tmp_path / "pid"
    monkeypatch.setattr(time, "monotonic", lambda: 4.0 * pid.exists())  # the time is up once it has a child
    found = last(CHILD + "time.sleep(600)", str(pid), 3.0)
    assert found == {"a": 1, "ended": {"ok": False, "error": "stopped after 3 s"}}
    child = Path("/proc", pid.read_text(), "stat")
    monkeypatch.undo()
    assert eventually(lambda: not child.exists() or child.read_text().split()[2] == "Z")


def test_the_report_names_what_failed_and_what_was_left_out(tmp_path, monkeypatch):
    ends = {"machine": {"gpu": "none", "peak": {"ok": False}}, "bench0": {"row": {}}}
    monkeypatch.setattr(gpu_check, "run_apart", lambda part, limit: iter([{}, ends[part]]))
    monkeypatch.setattr(gpu_check, "GROUPS", {"bench": ["bench0"]})
    out = tmp_path / "deep" / "report.json"
    report = gpu_check.run_parts(["machine", "bench"], out, time.monotonic() + 60)
    assert json.loads(out.read_text()) == report
    assert (report["parts"], report["failed"], report["skipped"]) == (ends, ["machine"], [])
    assert gpu_check.run_parts(["machine", "bench"], out, time.monotonic() + 5)["skipped"] == ["machine", "bench0"]


def test_a_part_that_raises_keeps_what_it_found(tmp_path, monkeypatch):
    def part():
        yield "first", {"ok": True}
        raise ValueError("no such device")

    monkeypatch.setitem(gpu_check.PARTS, "machine", (part, 1))
    assert gpu_check.run_part("machine", str(tmp_path / "entries.json"), "60") == 0
    found = json.loads((tmp_path / "entries.json").read_text())
    assert found["first"] == {"ok": True}
    assert "no such device" in found["error"]["error"]
