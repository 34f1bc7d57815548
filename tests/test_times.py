"""Steps between times: what is missing, which clock was set, what goes over a stretch twice."""

import itertools

import numpy as np
import pytest

from streamtok.times import Step, TimeJudge, count_between, find_time_jumps, go_over_twice, is_uneven


def judge(times, **known):
    """What a judge of the steps before says is missing before each time."""
    judged = TimeJudge(**known)
    return [judged.see(time_ns).missing for time_ns in times]


def test_a_gap_is_judged_by_the_streams_own_rate():
    assert judge([*range(0, 800, 100), 1200, 1300]) == [0] * 8 + [4, 0]
    throttled = [0, 1, 3, 4, 6, 7, 9, 10, 12]  # two images of three
    assert not any(judge([time * 33 for time in throttled]))
    slower = [*range(0, 1000, 100), *range(1200, 4000, 300)]
    assert judge(slower)[10:] == [2, 2, 2, 2, 0, 0, 0, 0, 0, 0]


def test_gaps_between_grids_are_judged_by_the_rate_that_they_have_there():
    slower = [*range(0, 6000, 133), *range(6400, 12000, 400)]  # the camera went from 30 to 10 frames a second
    assert np.flatnonzero(find_time_jumps(np.array(slower))).tolist() == [0, *range(46, 50)]
    lacks_one = [n * 133 for n in range(60) if n != 40]
    assert np.flatnonzero(find_time_jumps(np.array(lacks_one))).tolist() == [0, 40]
    assert find_time_jumps(np.array([5, 6, 7, 3, 4, 5])).tolist() == [True, False, False, True, False, False]
    assert [find_time_jumps(np.arange(n)).tolist() for n in (0, 1)] == [[], [True]]


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
    assert [judged.see(n * 10**8, 1 + n * 10**8) for n in range(8)] == [Step()] * 8
    assert judged.see(day, 8 * 10**8) == judged.see(day) == Step(was_set=True)
    assert judged.see(2 * day, 2 * day).missing > 800_000
    stepped = [(n * 10**8 + 10**10 * (n >= 20), 1 + n * 10**8) for n in range(40)]  # as NTP does
    judged = TimeJudge()
    assert [judged.see(*times) for times in stepped] == [Step()] * 20 + [Step(was_set=True)] + [Step()] * 19
    converted = TimeJudge()  # times of logging are those of a conversion
    assert sum(converted.see(time_ns, 1 + n * 10**5).missing for n, (time_ns, _) in enumerate(stepped)) == 100
    assert count_between(10, 10) == 0


def test_times_of_a_clock_that_was_set_back_go_over_a_stretch_twice():
    rises = np.arange(40) * 50_000_000
    assert go_over_twice(rises % (14 * 50_000_000))
    assert go_over_twice(np.concatenate([rises, rises[20:], rises + 40 * 50_000_000]))
    run = np.arange(200) * 50_000_000
    assert go_over_twice(np.concatenate([run, run + 25_000_000])), "half a step apart"
    assert not go_over_twice(rises)
    assert not go_over_twice([])
    assert not go_over_twice(rises[::-1])
    assert not go_over_twice(np.concatenate([rises[30:], rises[10:30], rises[:10]])), "parts in another order"
    shuffled = np.argsort(np.arange(400) + np.random.default_rng(0).uniform(0, 12, 400))
    assert not go_over_twice(shuffled)


def test_batches_that_fill_each_other_up_go_over_nothing_twice():
    steps = np.arange(200) * 33_000_000
    batches = np.concatenate([np.concatenate([part[::2], part[1::2]]) for part in steps.reshape(10, 20)])
    assert not go_over_twice(batches)
    jitter = np.random.default_rng(0).normal(0, 2_000_000, 200)
    assert not go_over_twice(batches + jitter)
    early = np.concatenate([steps[:50], [steps[51]], steps[60:70], [steps[50]], steps[52:60], steps[70:]])
    assert not go_over_twice(early)


@pytest.mark.parametrize("pause", [0, 10, 4000])
@pytest.mark.parametrize("step", [0.1, 6])
def test_images_that_changed_places_at_a_pause_set_no_clock_back(step, pause):
    times = (np.arange(200) * step + pause * (np.arange(200) >= 100)) * 10**9
    for written in ([98, 100, 99, 101], [100, 98, 99, 101], [98, 100, 101, 99]):
        assert not go_over_twice([*times[:98], *times[written], *times[102:]])
    times[100] = times[30] + 1
    assert go_over_twice(times), "a wrong one"


@pytest.mark.parametrize("back", [0.2, 0.5, 0.8])
def test_a_clock_that_was_set_back_by_any_part_of_a_step_is_seen(back):
    steps = np.arange(400) * 33_000_000
    assert go_over_twice(steps - (np.arange(400) >= 200) * round((15 + back) * 33_000_000))
