"""Cameras that share a step: who waits for whom, where epochs start, and that tokens depend on nobody else."""

import numpy as np
import pytest
import torch

from streamtok.engine.configuration import EngineConfiguration
from streamtok.engine.optimized import apply_configuration
from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.model import Tokenizer
from streamtok.types import TokenGroup
from tests.kit.models import ATTENTION, VIDEO, expected_tokens
from tests.kit.pictures import SIZE, frame
from tests.kit.steps import CAMERAS, TINY, Clock, shared

ON_GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
)
MODELS = {}
for config in (VIDEO, ATTENTION):
    torch.manual_seed(0)
    MODELS[config.name] = Tokenizer(config)
EXACT = Tokenizer(VIDEO, deterministic=True)
EXACT.load_state_dict(TINY.state_dict())


def feed(core: IngestCore, numbers, cameras=CAMERAS) -> list[TokenGroup]:
    """These frames of all cameras, in turn."""
    return [group for number in numbers for name in cameras for group in core.feed(frame(number, name))]


def cuts(groups: list[TokenGroup], stream: str) -> list[list[int]]:
    return [group.frame_ids for group in groups if group.stream == stream]


def test_all_groups_come_with_the_last_of_the_frames_that_complete_them():
    core = shared()
    assert core.batch("b") == CAMERAS
    assert [group.stream for group in feed(core, [0])] == CAMERAS
    assert feed(core, [1, 2, 3]) == []
    assert core.feed(frame(4, "a")) == core.feed(frame(4, "b")) == []
    groups = core.feed(frame(4, "c"))
    assert [(group.stream, group.frame_ids) for group in groups] == [(name, [1, 2, 3, 4]) for name in CAMERAS]
    assert len({group.encode_ns for group in groups}) == 1


def test_a_full_group_waits_so_long_and_no_longer():
    clock = Clock()
    core = shared(timer=clock)
    feed(core, range(4))
    clock.ms = 100
    core.feed(frame(4, "a"))
    clock.ms = 103
    core.feed(frame(4, "b"))
    assert core.overdue() == []
    assert core.patience() == pytest.approx(0.002)
    clock.ms = 105
    assert core.patience() == 0
    assert [group.stream for group in core.overdue()] == ["a", "b"]
    assert core.patience() == float("inf")
    assert [group.stream for group in core.feed(frame(4, "c")) + core.settle("c")] == ["c"]


def test_the_next_frame_of_a_camera_ends_its_wait():
    core = shared()
    feed(core, range(4))
    core.feed(frame(4, "a"))
    assert core.settle("b") == []
    [group] = core.feed(frame(5, "a"))
    assert (group.stream, group.frame_ids) == ("a", [1, 2, 3, 4])
    assert core.lane("a").frame_ids == [5]


def test_nobody_waits_for_a_camera_that_has_ended():
    core = shared()
    feed(core, range(4))
    core.feed(frame(4, "a"))
    core.feed(frame(4, "b"))
    assert [group.stream for group in core.flush("c", "drop")] == ["a", "b"]
    assert len(feed(core, range(5, 9), ["a", "b"])) == 2
    assert [group.stream for group in core.feed(frame(9, "c")) + core.settle("c")] == ["c"]
    assert feed(core, range(9, 13), ["a", "b"]) == []


def test_a_full_group_is_no_tail_at_the_end():
    core = shared()
    feed(core, range(4))
    core.feed(frame(4, "a"))
    [group] = core.flush("a", "drop")
    assert group.frame_ids == [1, 2, 3, 4]


@pytest.mark.parametrize("device", ["cpu", ON_GPU])
@pytest.mark.parametrize("name", MODELS)
def test_tokens_depend_neither_on_who_was_ready_nor_on_what_the_others_see(name, device):
    tok = MODELS[name]
    if device == "cuda":
        tok = apply_configuration(
            tok, EngineConfiguration(device="cuda", precision="float32", graph=True, slots_per_step=3)
        )
    together, apart = (shared(tok) for _ in range(2))
    groups = feed(together, range(13))
    alone = []
    for number in range(13):
        alone += apart.feed(frame(number, "b")) + apart.settle("b")
        if number == 6:
            alone += apart.feed(frame(0, "a")) + apart.settle("a")
    wanted = [group.tokens for group in groups if group.stream == "b"]
    found = [group.tokens for group in alone if group.stream == "b"]
    np.testing.assert_array_equal(found, wanted)


def test_in_deterministic_mode_tokens_are_those_of_a_camera_alone():
    groups = feed(shared(EXACT), range(9))
    for name in CAMERAS:
        own = [group for group in groups if group.stream == name]
        np.testing.assert_array_equal([group.tokens for group in own], expected_tokens(EXACT, own, name))


def test_a_keyframe_that_one_camera_asks_for_is_one_of_all():
    core = shared()
    feed(core, range(3))
    core.request_keyframe("b")
    groups = feed(core, range(3, 14))
    for name in CAMERAS:
        own = [group for group in groups if group.stream == name]
        assert [(group.frame_ids, group.epoch) for group in own] == [
            ([1, 2, 3, 4], 0),
            ([5], 1),
            ([6, 7, 8, 9], 1),
            ([10, 11, 12, 13], 1),
        ]
    assert not core.lane("a").counts["dropped"]


def test_an_interval_ends_for_all_cameras_at_one_time():
    core = shared(keyframe_interval=0.1)
    groups = [
        group
        for n in range(30)
        for k, name in enumerate(CAMERAS)
        for group in core.feed(frame(n, name, time_ms=10 * n + 3 * k))
    ]
    starts = {
        name: [group.frame_ids[0] for group in groups if group.stream == name and group.keyframe] for name in CAMERAS
    }
    assert starts["a"] == starts["b"] == starts["c"]
    assert len(starts["a"]) == 3
    assert not any(lane.counts["dropped"] for lane in core.lanes.values())


def test_a_camera_that_lost_a_frame_is_in_step_again_after_the_next_common_epoch():
    core = shared()
    feed(core, range(7))
    for number in range(7, 16):
        feed(core, [number], CAMERAS if number != 7 else ["a", "b"])
        if number == 9:
            core.request_keyframe("a")
    groups = feed(core, range(16, 30)) + core.settle("c")
    epochs = {name: [group.frame_ids[0] for group in groups if group.stream == name] for name in CAMERAS}
    assert epochs["a"] == epochs["b"] == epochs["c"]
    assert core.lane("c").counts["dropped"] > 1
    assert not core.lane("a").counts["dropped"]
    assert len({lane.epoch for lane in core.lanes.values()} - {core.lane("c").epoch}) == 1


def test_a_bad_camera_harms_nobody_else(monkeypatch):
    core, whole = shared(), feed(shared(), range(13))
    groups = feed(core, range(5))
    batch = core._batch_of["b"]
    step = batch._encoder.step
    spoil = lambda x, *masks: step(torch.cat([x[:1].float() / 255, x[1:2] * torch.nan, x[2:].float() / 255]), *masks)  # noqa: E731
    monkeypatch.setattr(batch._encoder, "step", spoil)
    assert [group.stream for group in feed(core, range(5, 9))] == ["a", "c"]
    monkeypatch.undo()
    assert core.lane("b").counts["nonfinite"] == 1
    assert core.lane("b").dropped == 4
    groups = feed(core, range(9, 13)) + core.settle("a")
    assert cuts(groups, "b")[0] == [9]
    assert next(group.epoch for group in groups if group.stream == "b") == 1
    assert cuts(groups, "a") == cuts(whole, "a")[-1:]


def test_frames_of_other_sizes_cannot_share_a_step():
    core = shared(size=None)
    core.open("a", SIZE)
    with pytest.raises(ValueError, match=r"stream 'b' has frames of 48x48, a, c of 32x48.*one `size`"):
        core.open("b", (48, 48))
    core.open("c", SIZE)
    assert core.lane("c").image_size == SIZE


def test_wrong_batches_say_why():
    options = dict.fromkeys("ab", StreamOptions())
    with pytest.raises(ValueError, match="each stream in one at most"):
        IngestCore(TINY, options, batches=["ab", "b"])
    with pytest.raises(ValueError, match="unknown stream 'z'"):
        IngestCore(TINY, options, batches=["az"])


def keyframes(groups: list[TokenGroup]) -> dict[str, int]:
    return {name: sum(group.keyframe for group in groups if group.stream == name) for name in CAMERAS}


@pytest.mark.parametrize(("speed", "offset_ms"), [(1, 0), (1, -1e6), (1000, -1e6), (1, 3.6e6)])
def test_a_camera_with_a_clock_of_its_own_costs_the_others_nothing(speed, offset_ms):
    core = shared(keyframe_interval=30)
    groups = []
    for number in range(61):
        if number == 30:
            core.request_keyframe("c")
        for name in CAMERAS:
            time_ms = 2e6 + 33 * number if name != "b" else 2e6 + offset_ms + 33 * number * speed
            groups += core.feed(frame(number, name, time_ms=time_ms))
    found = keyframes(groups)
    assert found["a"] == found["c"] == 2
    assert found["b"] >= 2
    assert core.lane("a").counts["dropped"] == core.lane("c").counts["dropped"] == 0


def test_what_is_discarded_takes_no_step_and_is_counted():
    core = shared()
    feed(core, range(4))
    core.feed(frame(4, "a"))
    core.discard("a")
    assert (core.lane("a").counts["dropped"], core.lane("a").counts["groups"]) == (4, 1)
    assert core.flush("a") == core.overdue() == []
    assert feed(core, [4], ["b"]) == []
    assert len(feed(core, [4], ["c"])) == 2


def test_idle_slots_have_no_say():
    alone, rig = IngestCore(TINY, {"b": StreamOptions()}, batches=[[None, "b", None]]), shared()
    found, wanted = feed(alone, range(9), ["b"]), [group for group in feed(rig, range(9)) if group.stream == "b"]
    np.testing.assert_array_equal([group.tokens for group in found], [group.tokens for group in wanted])
    assert alone.batch("b") == ["b"]
