"""The lane by itself: headers in, verdicts and groups out, and every frame accounted for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.ingest.lane import Lane, StreamOptions, Verdict

TOKENS = np.zeros((2, 2), np.uint16)
SIZES = (32, 48), (48, 48)
STEPS = st.sampled_from(["next", "next", "next", "next", "lost", "back", "size", "cut", "reject", "request", "restart"])


class Driver:
    """What a core does with a lane, without a network: it acts on verdicts and notes what becomes of each frame."""

    def __init__(self, lane: Lane) -> None:
        self.lane, self.groups = lane, []

    def take(self, frame_id: int, time_ns: int, size: tuple[int, int], behind: int) -> Verdict:
        verdict = self.lane.judge(frame_id, time_ns, size)
        if verdict.because:
            self.end_epoch()
        self.lane.drop(behind, "behind")
        self.lane.drop(max(0, verdict.lost - behind), "missed")
        if self.lane.source_size != size:
            self.lane.open(size, size, (0, 0, *size))
        if self.lane.append(frame_id, time_ns):
            self.groups.append(self.lane.finish(TOKENS, 1))
        return verdict

    def end_epoch(self) -> None:
        if self.lane.frame_ids and self.lane.options.policy == "lossless":
            self.groups.append(self.lane.finish(TOKENS, 1))
        self.lane.cut()


@settings(max_examples=200)
@given(
    steps=st.lists(st.tuples(STEPS, st.integers(1, 5)), max_size=80),
    policy=st.sampled_from(["latest", "lossless"]),
    on_gap=st.sampled_from(["reset", "bridge"]),
    interval=st.sampled_from([0, 0.05]),
)
def test_every_frame_is_in_a_group_or_pending_or_dropped_for_one_reason(steps, policy, on_gap, interval):
    lane = Lane("a", StreamOptions(policy, on_gap, keyframe_interval=interval), group_frames=4)
    driver, frame_id, time_ns, size, taken, missing = Driver(lane), -1, 0, SIZES[0], 0, 0
    for kind, count in steps:
        if kind == "cut":
            driver.end_epoch()
        elif kind == "reject" and lane.frame_ids:
            lane.reject()
        elif kind == "request":
            lane.keyframes.requested = True
        elif kind == "restart":
            lane.restart()
        lost = count if kind == "lost" and frame_id >= 0 else 0
        size = SIZES[size == SIZES[0]] if kind == "size" else size
        time_ns += 10_000_000
        frame_id = max(0, frame_id - count) if kind == "back" else frame_id + 1 + lost
        verdict = driver.take(frame_id, time_ns, size, behind=count // 2)
        taken, missing = taken + 1, missing + max(verdict.lost, count // 2)
        assert not (kind == "next" and verdict.lost)
        assert kind != "size" or taken == 1 or "resize" in verdict.because
    in_groups = sum(len(group.frame_ids) for group in driver.groups)
    assert taken + missing == in_groups + len(lane.frame_ids) + lane.counts["dropped"]
    assert lane.counts["frames"] == taken
    assert sum(lane.reasons.values()) == lane.counts["dropped"]
    assert sum(group.dropped for group in driver.groups) + lane.dropped == lane.counts["dropped"]
    for group in driver.groups:
        assert len(group.frame_ids) + group.repeated == (1 if group.keyframe else 4)
        assert group.frame_ids == sorted(set(group.frame_ids))
    epochs = [group.epoch for group in driver.groups if group.keyframe]
    assert epochs == list(range(len(epochs)))


def test_a_verdict_names_every_cause():
    lane = Lane("a", StreamOptions(keyframe_interval=0), group_frames=4)
    driver = Driver(lane)
    assert driver.take(0, 1, SIZES[0], 0) == Verdict()
    assert driver.take(1, 2, SIZES[0], 0) == Verdict()
    assert driver.take(4, 3, SIZES[1], 1) == Verdict(("resize", "gap"), 2)
    assert lane.reasons == {"cut": 1, "behind": 1, "missed": 1}
    assert driver.take(3, 4, SIZES[1], 0) == Verdict(("restart",))
    lane.keyframes.requested = True
    assert driver.take(4, 5, SIZES[1], 0) == Verdict(("keyframe",))


@pytest.mark.parametrize(("time_ns", "because"), [(96, ()), (100, ("batch",)), (104, ("batch",)), (160, ())])
def test_a_lane_joins_the_epoch_of_its_batch_with_the_frame_nearest_to_its_start(time_ns, because):
    lane = Lane("a", StreamOptions(keyframe_interval=0), group_frames=4)
    driver = Driver(lane)
    for number in range(3):
        driver.take(number, 90 - 10 * (2 - number), SIZES[0], 0)
    assert lane.judge(3, time_ns, SIZES[0], batch_ns=102).because == because


def test_a_clock_set_back_after_a_group_that_is_not_finite_is_a_restart_but_not_after_an_epoch_was_cut():
    rejected, cut = (Lane("a", StreamOptions(keyframe_interval=0), group_frames=4) for _ in range(2))
    for lane in (rejected, cut):
        driver = Driver(lane)
        driver.take(0, 100, SIZES[0], 0)
        driver.take(1, 110, SIZES[0], 0)
    rejected.reject()
    cut.cut()
    assert [lane.judge(2, 50, SIZES[0]) for lane in (rejected, cut)] == [Verdict(("restart",)), Verdict()]
    assert (rejected.counts["gaps"], cut.counts["gaps"]) == (1, 0)
