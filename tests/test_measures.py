"""Figures that several reports give."""

import itertools

import pytest

from streamtok.measures import KEPT, LatestSamples, TimeJudge, count_between, is_uneven


def test_quantiles_are_those_of_the_latest_samples():
    samples = LatestSamples()
    for value in range(3 * KEPT):
        samples.add(value)
    assert samples.quantiles()["p50"] == pytest.approx(2.5 * KEPT, rel=1e-3)
    assert samples.count == 3 * KEPT
    assert LatestSamples().quantiles() == {}


def judge(times, **known):
    """What a judge of the steps before says is missing before each time."""
    judged = TimeJudge(**known)
    return [judged.count_missing(time_ns) for time_ns in times]


def test_a_gap_is_judged_by_the_streams_own_rate():
    assert judge([*range(0, 800, 100), 1200, 1300]) == [0] * 8 + [4, 0]
    throttled = [0, 1, 3, 4, 6, 7, 9, 10, 12]  # two images of three
    assert not any(judge([time * 33 for time in throttled]))
    slower = [*range(0, 1000, 100), *range(1200, 4000, 300)]
    assert judge(slower)[10:] == [2, 2, 2, 2, 0, 0, 0, 0, 0, 0]


def test_bursts_of_arrival_are_no_gaps_and_an_outage_among_them_is():
    times = [burst * 1000 + place for burst in range(8) for place in range(10)]
    steps = [after - before for before, after in itertools.pairwise(times)]
    assert is_uneven(steps)
    assert not any(judge(times, uneven=True, steps=steps[:40]))
    later = [time + 5000 * (time >= 4000) for time in times]
    assert sum(judge(later, uneven=True, steps=steps[:40])) in range(45, 70)
    assert not is_uneven([100] * 30 + [3000, 2000])


def test_a_jump_that_the_arrival_does_not_share_is_a_clock_that_was_set():
    day = 86_400 * 10**9
    judged = TimeJudge()
    assert [judged.count_missing(n * 10**8, 1 + n * 10**8) for n in range(8)] == [0] * 8
    assert judged.count_missing(day, 8 * 10**8) == -1
    assert judged.count_missing(2 * day, 2 * day) > 800_000
    assert count_between(10, 10) == 0
