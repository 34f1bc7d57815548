"""The long forms: a node killed while it records, and hours of driving in constant memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from streamtok.drives.drive import Drive
from streamtok.drives.item import Item
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.node.replay import DriveReplay
from streamtok.recording.mcap_file import McapFile
from streamtok.recording.recorder import Recorder
from streamtok.recording.recorder_options import RecorderOptions
from tests.kit.drives import picture
from tests.kit.models import VIDEO, build

COMMAND = [sys.executable, "-m", "streamtok.cli"]


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, **options)


@pytest.mark.slow
def test_a_killed_ingest_is_repaired_and_verified(tmp_path):
    """kill -9 of a node with two cameras in real time; what is left replays to the same tokens, repaired or not, and is
    vouched for once it is repaired."""
    path = tmp_path / "drive.mcap"
    sources = ["synthetic:64x96@30?seed=1", "synthetic:48x64@20?seed=2"]
    arguments = ["--source", sources[0], "--source", sources[1], "--realtime", "--model", "nano"]
    arguments += ["--bind", f"ipc://{tmp_path}/i", "--record", str(path)]
    with subprocess.Popen([*COMMAND, "ingest", *arguments], stderr=subprocess.DEVNULL) as node:
        while not path.exists() or path.stat().st_size < 2_000_000:
            assert node.poll() is None
            time.sleep(0.1)
        os.kill(node.pid, signal.SIGKILL)
    assert not McapFile(path).indexed
    before = run("replay", str(path), "--verify", "--json")
    assert before.returncode == 1, before.stderr
    assert run("repair", str(path)).returncode == 0
    after = run("replay", str(tmp_path / "drive_repaired.mcap"), "--verify", "--json")
    assert after.returncode == 0, after.stderr
    results = [json.loads(done.stdout) for done in (before, after)]
    assert results[0]["compared"] == results[1]["compared"] > 10
    assert results[0]["different"] == results[1]["different"] == 0
    assert "damaged" in results[0]["faults"][0]
    assert results[1]["verified"]


class LongDrive(Drive):
    """Hours of one camera, made as they are read."""

    def __init__(self, hours: float, fps: int = 30) -> None:
        super().__init__("long", ["front"])
        self.count, self.step_ns = round(hours * 3600 * fps), 10**9 // fps
        self.pictures = [picture(number, size=(16, 16)) for number in range(64)]

    def _items(self, streams):
        for number in range(self.count):
            image = self.pictures[number % 64]
            yield Item("front", number * self.step_ns, lambda image=image: image)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_two_hours_of_driving_are_replayed_and_recorded_in_constant_memory(tmp_path):
    """Frames through the core and tokens to a file; the slope of resident memory over the second half is printed."""
    from streamtok.wire.message import Info
    from streamtok.wire.streams import StreamTable

    tokenizer = build(VIDEO)
    core = IngestCore(tokenizer, {"front": StreamOptions("lossless")})
    table = StreamTable({"node": "test", "session": "ab" * 16, "control": None}, max_epoch_bytes=0)
    facts = {"tokenizer": tokenizer.fingerprint, "dtype": "uint16", "levels": list(tokenizer.config.levels)}
    info = table.add(Info(stream="front", grid=[2, 2], image_size=[16, 16], temporal_compression=4, **facts))
    sizes, groups = [], 0
    with Recorder(tmp_path / "d.mcap", RecorderOptions(wait=True, min_free_bytes=0)) as recorder:
        recorder.add_stream(info)
        for replayed in DriveReplay(LongDrive(2.0), core):
            state = table.get("front")
            made, parts = state.pack_group(replayed.group, replayed.group.capture_ns[-1])
            state.note_sent(made, parts)
            recorder.write_group(made, replayed.group.tokens)
            groups += 1
            if groups % 500 == 0:
                sizes.append(resident_bytes())
    half = np.array(sizes[len(sizes) // 2 :], np.float64)
    slope = np.polyfit(np.arange(len(half)), half, 1)[0] / 500
    print(f"\n{groups} groups, {sizes[-1] >> 20} MiB, slope {slope:.1f} bytes per group over the second half")
    assert recorder.counts["tokens"] == groups > 53_000
    assert slope < 200  # the index of the file grows by a few bytes per message
