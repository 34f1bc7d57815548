"""A node whose cameras share a step: real cameras in real time, what readers get, and the recording of it."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.commands.ingest import make_node
from streamtok.ingest.core import StreamOptions
from streamtok.io.base import Source
from streamtok.model import Tokenizer
from streamtok.node.replay_node import ReplayNode
from streamtok.node.rig import find_batches
from streamtok.recording.reader import open_recording
from streamtok.settings.errors import SettingsError
from streamtok.settings.replay import ReplaySettings
from streamtok.types import Frame
from streamtok.wire.subscriber import subscribe
from tests.kit.models import VIDEO
from tests.kit.nodes import RunningNode, rig
from tests.kit.pictures import SIZE, frame, image
from tests.kit.steps import CAMERAS, Clock, shared

torch.manual_seed(0)
TINY = Tokenizer(VIDEO)


def cameras(count: int, frames: int) -> dict[str, dict]:
    return {
        name: {"source": f"camera:synthetic:32x48@20?seed={seed}&frames={frames}", "size": "32x48"}
        for seed, name in enumerate("abcdef"[:count])
    }


def test_cameras_of_one_size_share_a_step_and_their_recording_verifies(endpoint, tmp_path):
    streams = cameras(3, 41) | {"file": {"source": "synthetic:32x48@50?seed=9&frames=21"}}
    path = tmp_path / "drive.mcap"
    settings = rig(endpoint, streams, batch_wait_ms=15, record=str(path), wait_subscribers=1)
    with RunningNode(make_node(settings, TINY)) as running:
        with subscribe(endpoint, until_end=True, timeout=60, queue_size=1 << 12) as subscription:
            messages = list(subscription)
            batches = {name: info.batch for name, info in subscription.infos.items()}
        summary = running.result()
    assert {message.stream for message in messages} == {"a", "b", "c", "file"}
    assert sum(message.lost for message in messages) == 0
    assert batches == {"a": ["a", "b", "c"], "b": ["a", "b", "c"], "c": ["a", "b", "c"], "file": ["file"]}
    for name, stream in summary["streams"].items():
        assert stream["published"] == stream["groups"] == sum(message.stream == name for message in messages)
    for streams in (["a", "b", "c", "file"], ["b"]):
        checked = ReplayNode(ReplaySettings(path=path, verify=True, streams=streams), TINY).run()
        assert not checked["different"], checked["first_difference"]
        assert checked["compared"] == sum(message.stream in streams for message in messages)


class Bursts(Source):
    """A camera whose frames 1 to 7 come all at once, when they are let go; from frame 5 on they are `size_from`."""

    live = True

    def __init__(self, stream, go, size_from=SIZE):
        super().__init__(stream)
        self.go, self.size_from, self.number = go, size_from, 0

    def _open(self):
        self.size = SIZE

    def _read(self, timeout):
        if self.number == 8:
            self.end("that was all")
        if self.number == 1 and not self.go.wait(timeout):
            return None
        number, self.number, self.state = self.number, self.number + 1, "up"
        size = SIZE if number < 5 else self.size_from
        return Frame(self.stream, number, 33_000_000 * number, image(number, size, self.stream))

    def _close(self):
        pass


def run_bursts(settings, **sources):
    """A node whose loop stands still until all of the burst has come."""
    go = threading.Event()

    def wait(node):
        if not go.is_set() and all(lane.counts["groups"] == 1 for lane in node.core.lanes.values()):
            go.set()
            while min(capture.depth for capture in node.captures.values()) < 7:
                time.sleep(0.001)

    node = make_node(settings, TINY, on_update=wait)
    node.sources = {name: Bursts(name, go, **options) for name, options in sources.items()}
    return node.run()


def test_a_backlog_is_stepped_together_too(endpoint, tmp_path):
    """After a moment in which the node stood still every camera has more than a group waiting."""
    path = tmp_path / "drive.mcap"
    settings = rig(endpoint, cameras(3, 1), batch_wait_ms=5, record=str(path), defaults={"tail": "drop"})
    run_bursts(settings, a={}, b={}, c={})
    groups = [message.header for message in open_recording(path).messages() if not message.header.keyframe]
    assert sorted((header.stream, header.frame_ids) for header in groups) == [(name, [1, 2, 3, 4]) for name in "abc"]
    assert len({header.encode_ns for header in groups}) == 1


@pytest.mark.parametrize("together", [{}, {"batch_wait_ms": 5}])
def test_a_camera_that_changes_its_size_replays(endpoint, tmp_path, together):
    path = tmp_path / "drive.mcap"
    settings = rig(endpoint, cameras(2, 1), record=str(path), **together)
    summary = run_bursts(settings, a={}, b={"size_from": (64, 96)})
    checked = ReplayNode(ReplaySettings(path=path, verify=True), TINY).run()
    assert not checked["different"], checked["first_difference"]
    assert checked["compared"] == sum(stream["groups"] for stream in summary["streams"].values())


def test_drives_of_another_rig_in_one_folder_replay(endpoint, tmp_path):
    """Who shared a step with whom may have changed between two recordings."""
    for part, names in enumerate(("ab", "bc")):
        streams = {name: cameras(3, 1)[name] for name in names}
        settings = rig(endpoint, streams, batch_wait_ms=5, record=str(tmp_path / f"drive/{part}.mcap"))
        (tmp_path / "drive").mkdir(exist_ok=True)
        run_bursts(settings, **{name: {} for name in names})
    checked = ReplayNode(ReplaySettings(path=tmp_path / "drive", verify=True), TINY).run()
    assert not checked["different"], checked["first_difference"]
    assert checked["compared"] == 2 * 2 * 3


def test_sizes_decide_who_shares_a_step():
    options = {
        "a": StreamOptions(size=(32, 48)),
        "b": StreamOptions(size=(64, 48)),
        "c": StreamOptions(size=(32, 48)),
        "file": StreamOptions("lossless"),
    }
    rates = {"a": 30.0, "b": 30.0, "c": 30.0, "file": 30.0}
    assert find_batches(options, rates) == [["a", "c"], ["b"]]
    assert find_batches(options, rates | {"c": 20.0}) == [["a"], ["b"], ["c"]]
    with pytest.raises(ValueError, match=r"streams \['d'\] have no `size`: give them one"):
        find_batches(options | {"d": StreamOptions()}, rates | {"d": None})


def test_a_wait_is_not_negative():
    with pytest.raises(SettingsError, match="batch_wait_ms"):
        rig("ipc:///tmp/x", cameras(1, 1), batch_wait_ms=-1)


@settings(max_examples=25)
@given(st.data())
def test_any_order_of_frames_and_losses_replays_bit_for_bit(data):
    """Whatever waits, is lost or restarts: each group encoded again by itself has the same tokens."""
    core = shared(keyframe_interval=data.draw(st.sampled_from([0, 0.08])), timer=Clock())
    numbers, groups = dict.fromkeys(CAMERAS, 0), []
    for name in data.draw(st.lists(st.sampled_from(CAMERAS), min_size=20, max_size=60)):
        numbers[name] += data.draw(st.sampled_from([1, 1, 1, 1, 1, 2]))
        groups += core.feed(frame(numbers[name], name))
        if data.draw(st.integers(0, 9)) == 0:
            core.request_keyframe(name)
        if data.draw(st.booleans()):
            groups += core.settle(name)
    for name in CAMERAS:
        groups += core.flush(name)
    replay = shared()
    for group in groups:
        frames = [frame(number, group.stream) for number in group.frame_ids]
        facts = {"keyframe": group.keyframe, "epoch": group.epoch, "dropped": group.dropped}
        again = replay.encode_recorded(group.stream, frames, repeated=group.repeated, **facts)
        np.testing.assert_array_equal(again.tokens, group.tokens)
    for name in CAMERAS:
        own = [group for group in groups if group.stream == name]
        assert all(group.repeated == 0 for group in own[:-1])
        for before, after in pairwise(own):
            assert after.frame_ids[0] - before.frame_ids[-1] == 1 + after.dropped
