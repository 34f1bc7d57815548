"""kill -9 at random moments: whatever was recorded is verified once it is repaired, and little of it is missing.

BUSY=4 NICE=5 KILLS=16: beside so many busy loops, what is killed at this lower priority, so many kills of each kind.
"""

import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from streamtok.commands.ingest import make_node
from streamtok.commands.record import RecordSettings, record_streams
from streamtok.node.replay_node import ReplayNode
from streamtok.recording.reader import open_recording
from streamtok.recording.repair import repair
from streamtok.settings.reading import read_settings
from streamtok.settings.replay import ReplaySettings
from streamtok.settings.rig import load_rig
from streamtok.wire.subscriber import subscribe
from tests.kit.models import VIDEO, build
from tests.kit.nodes import RunningNode
from tests.kit.wire import eventually

KILLS = int(os.environ.get("KILLS", "50"))  # of each kind
BUSY, NICE = int(os.environ.get("BUSY", "0")), int(os.environ.get("NICE", "0"))
MOST_LOST_NS = 1_000_000_000
START_S = 300  # on a busy machine


def rig(endpoint: str, **options: object) -> dict:
    streams = [{"name": "cam", "source": "synthetic:32x48@30", "realtime": True, "keyframe_interval": 0.5}]
    return {"streams": streams, "bind": endpoint, **options}


@pytest.fixture(autouse=True)
def busy_loops() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


def run_node(endpoint: str, path: str) -> None:
    torch.set_num_threads(1)
    node = make_node(load_rig(None, rig(endpoint, record=path)), build(VIDEO))
    os.nice(NICE)  # of what runs: a start takes minutes beside enough others
    node.run()


def run_recorder(endpoint: str, path: str) -> None:
    settings = read_settings(RecordSettings, None, {"endpoint": endpoint, "out": path, "record_frames": "lossless"})
    os.nice(NICE)
    record_streams(settings)


def has_tokens(path: Path) -> bool:
    try:
        return bool(open_recording(path).streams)
    except (OSError, ValueError):  # it is not there, or has only begun
        return False


def kill_while(target: Callable[[str, str], None], endpoint: str, path: Path, chance: random.Random) -> tuple[int, int]:
    """Run a recorder in a process of its own until it is killed; returns the `seq` and capture time of the last message
    that a reader had got by then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    child = context.Process(target=target, args=(endpoint, str(path)), daemon=True)
    last = -1, 0
    with subscribe(endpoint, join="epoch", timeout=60) as reader:
        child.start()
        try:
            begun = eventually(lambda: has_tokens(path) or not child.is_alive(), START_S) and child.is_alive()
            size = path.stat().st_size if path.exists() else None
            assert begun, (
                f"nothing was recorded: exit status {child.exitcode}, file of {size} bytes, load {os.getloadavg()}"
            )
            until = time.monotonic() + chance.uniform(0, 2)
            while time.monotonic() < until:
                message = reader.get(0.05)
                last = last if message is None else (message.header.seq, message.header.capture_ns[-1])
        finally:  # else it goes on beside the tests that follow
            child.kill()
            child.join()
    return last


def check_recording(path: Path, last: tuple[int, int]) -> None:
    """What is left is repaired and verified, and ends at most a second before the last message that was seen."""
    repaired = repair(path).path
    settings = ReplaySettings(path=repaired, verify=True)
    node = ReplayNode(settings, build(VIDEO))
    summary = node.run()
    headers = [message.header for message in open_recording(repaired).messages()]
    assert headers, f"nothing is left, {last[0]} was seen, {summary}"
    lost_ns = last[1] - headers[-1].capture_ns[-1]
    found = (
        f"{len(headers)} messages up to {headers[-1].seq}, {last[0]} was seen, {lost_ns / 1e9:.3f} s lost, {summary}"
    )
    print(found)
    assert summary["verified"], found
    assert summary["compared"] == len(headers) > 0, found
    assert lost_ns <= MOST_LOST_NS, found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(KILLS))
def test_what_a_killed_node_has_recorded_is_verified(tmp_path, part):
    endpoint = f"ipc://{tmp_path}/node"
    last = kill_while(run_node, endpoint, tmp_path / "d.mcap", random.Random(part))
    check_recording(tmp_path / "d.mcap", last)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_a_killed_recorder_has_recorded_of_a_running_node_is_verified(tmp_path):
    endpoint, chance = f"ipc://{tmp_path}/node", random.Random(0)
    node = make_node(load_rig(None, rig(endpoint, publish_frames=True)), build(VIDEO))
    with RunningNode(node):
        for number in range(KILLS):
            path = tmp_path / f"{number}.mcap"
            check_recording(path, kill_while(run_recorder, endpoint, path, chance))
        node.stop()
