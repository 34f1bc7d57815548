"""A node whose cameras share a step: real cameras in real time, what readers get, and the recording of it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.drives.drive_settings import ReplaySettings
from streamtok.drives.replay_node import ReplayNode
from streamtok.engine.ingest import StreamOptions
from streamtok.model import Tokenizer
from streamtok.runtime.ingest import IngestNode
from streamtok.runtime.rig import batches_of
from streamtok.settings import SettingsError
from streamtok.wire.subscriber import subscribe
from tests.engine.test_batch import CAMERAS, Clock, shared
from tests.engine.tiny import VIDEO, frame
from tests.nodes.tiny import RunningNode, rig

torch.manual_seed(0)
TINY = Tokenizer(VIDEO)


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/node"


def cameras(count: int, frames: int) -> dict[str, dict]:
    return {
        name: {"source": f"camera:synthetic:32x48@20?seed={seed}&frames={frames}", "size": "32x48"}
        for seed, name in enumerate("abcdef"[:count])
    }


def test_cameras_of_one_size_share_a_step_and_their_recording_verifies(endpoint, tmp_path):
    streams = cameras(3, 41) | {"file": {"source": "synthetic:32x48@50?seed=9&frames=21"}}
    path = tmp_path / "drive.mcap"
    settings = rig(endpoint, streams, batch_wait_ms=15, record=str(path), wait_subscribers=1)
    with RunningNode(IngestNode(settings, TINY)) as running:
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
        checked = ReplayNode(ReplaySettings(path=path, verify=True, topics=streams), TINY).run()
        assert not checked["different"], checked["first_difference"]
        assert checked["compared"] == sum(message.stream in streams for message in messages)


def test_sizes_decide_who_shares_a_step():
    options = {
        "a": StreamOptions(size=(32, 48)), "b": StreamOptions(size=(64, 48)), "c": StreamOptions(size=(32, 48)),
        "file": StreamOptions("lossless"),
    }  # fmt: skip
    assert batches_of(options) == [["a", "c"], ["b"]]
    with pytest.raises(ValueError, match=r"streams \['d'\] have no `size`: give them one"):
        batches_of(options | {"d": StreamOptions()})


def test_a_wait_is_not_negative():
    with pytest.raises(SettingsError, match="batch_wait_ms"):
        rig("ipc:///tmp/x", cameras(1, 1), batch_wait_ms=-1)


@settings(deadline=None, max_examples=25)
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
