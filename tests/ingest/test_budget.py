"""A byte budget: it holds a rate that can be held, without cost where there is room, and never runs away."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtok.ingest.budget import FEWEST, MOST_HOLD, ByteBudget
from streamtok.ingest.lane import Lane, StreamOptions

FPS, GROUP = 30.0, 4


def drive(
    budget: ByteBudget, seconds: float, costs: list[float], seed: int = 0
) -> tuple[float, list[float], list[float]]:
    """Frames of a scene whose groups take `costs` bits in turn, a fifth of it saved at a hold of 0.5 -> bits per second
    sent in the second half, and every margin and share."""
    rng, waiting, last, sent, margins, shares = np.random.default_rng(seed), 0, 0.0, 0.0, [], []
    for frame in range(round(seconds * FPS)):
        waiting += not budget.leaves_out()
        if waiting < GROUP:
            continue
        now, waiting = frame / FPS, 0
        bits = costs[len(margins) % len(costs)] * (1 - 0.4 * budget.hold) * rng.uniform(0.9, 1.1)
        sent += bits if now > seconds / 2 else 0
        budget.note(round(bits / 8), now - last)
        last = now
        margins.append(budget.hold)
        shares.append(budget.share)
    return sent / (seconds / 2), margins, shares


@pytest.mark.parametrize("most_hold", [MOST_HOLD, 0.0])
@pytest.mark.parametrize("wanted", [0.9, 0.6, 0.2])
def test_the_asked_rate_is_sent(wanted, most_hold):
    costs = [20_000.0] + [12_000.0] * 19  # a keyframe now and then
    plain = np.mean(costs) * FPS / GROUP
    sent, margins, shares = drive(ByteBudget(round(wanted * plain), most_hold), 60, costs)
    assert 0.9 * wanted * plain < sent < 1.05 * wanted * plain
    assert max(margins) <= most_hold
    if wanted == 0.9 and most_hold:
        assert np.mean(shares[-100:]) > 0.97  # cheaper tokens are enough
    if wanted == 0.2:
        assert np.mean(margins[-100:]) == most_hold  # frames are left out only where they are not


def test_where_there_is_room_nothing_is_taken_away():
    budget = ByteBudget(200_000)
    sent, margins, shares = drive(budget, 20, [10_000.0])
    assert set(margins) == {0.0}
    assert set(shares) == {1.0}
    assert sent == pytest.approx(75_000, rel=0.1)
    assert budget.sent == pytest.approx(75_000, rel=0.2)


def test_after_a_scene_that_was_too_dear_the_stream_is_whole_again_within_seconds():
    budget = ByteBudget(64_000)
    drive(budget, 30, [100_000.0])
    assert budget.share < 0.15
    _, margins, shares = drive(budget, 30, [4_000.0])
    assert margins[-1] == 0.0
    assert shares[-1] == 1.0


@given(
    st.integers(1, 2**31),
    st.sampled_from([0.0, 0.25, MOST_HOLD]),
    st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 60))),
)
def test_whatever_is_sent_margins_and_shares_stay_within_their_bounds(bitrate, most_hold, sent):
    budget = ByteBudget(bitrate, most_hold)
    for nbytes, seconds in sent:
        budget.note(nbytes, seconds)
        assert 0 <= budget.hold <= most_hold
        assert np.float32(budget.hold) == budget.hold
        assert FEWEST * 0.999 <= budget.share <= 1
        assert np.isfinite([budget.debt, budget.effort, budget.sent]).all()


def test_a_lane_leaves_out_frames_evenly_and_accounts_for_each():
    lane = Lane("a", StreamOptions("lossless", bitrate=1000, keyframe_interval=0), group_frames=4)
    lane.open((16, 16), (16, 16), (0, 0, 16, 16))
    groups = []
    for number in range(400):
        assert not lane.judge(number, number * 10**7, (16, 16)).lost
        if not lane.leave_out(number, number * 10**7) and lane.append(number, number * 10**7):
            groups.append(lane.finish(np.zeros((2, 2), np.uint16), 0))
            lane.note_sent(groups[-1], 200)
    taken = [number for group in groups for number in group.frame_ids]
    assert lane.counts["frames"] + lane.counts["dropped"] == 400
    assert lane.reasons == {"budget": lane.counts["dropped"]}
    assert sum(group.dropped for group in groups) == taken[-1] + 1 - len(taken)
    assert 2 < np.diff(taken[-20:]).mean() < 17
    assert {group.epoch for group in groups} == {0}


def test_an_epoch_ends_when_the_tokens_have_drifted_from_its_keyframe():
    lane = Lane("a", StreamOptions("lossless", keyframe_interval=0, keyframe_drift=0.5), group_frames=1, video=True)
    lane.open((16, 16), (16, 16), (0, 0, 16, 16))
    keyframes = []
    for number in range(40):
        verdict = lane.judge(number, number * 10**8, (16, 16))
        if verdict.because:
            assert verdict.because == ("keyframe",)
            lane.cut()
        lane.append(number, number * 10**8)
        tokens = np.arange(4, dtype=np.uint16).reshape(2, 2) + np.uint16(number >= 3)
        tokens[0, 0] += number >= 20  # one of four is not enough
        tokens[0] += number >= 25
        keyframes.append(lane.finish(tokens, 0).keyframe)
    assert np.flatnonzero(keyframes).tolist() == [0, 10, 26]  # no two within a second
