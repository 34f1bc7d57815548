"""The queue between a source and a node: what is left out, and that the frame behind it tells of it."""

import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.io.base import RecordedSource, Source
from streamtok.io.capture import Capture
from streamtok.io.images.stills import write_png
from streamtok.io.source import open_source
from streamtok.types import Frame, Prepared
from tests.kit.pictures import scene, write_video
from tests.kit.wire import eventually

PICTURE = np.zeros((8, 8, 3), np.uint8)


class Given(Source):
    """A source that gives what a test puts into `frames`, and ends at None."""

    live = True

    def __init__(self):
        super().__init__("a")
        self.frames, self.there = [], threading.Semaphore(0)

    def give(self, *numbers):
        for number in numbers:
            self.frames.append(number)
            self.there.release()

    def _open(self):
        pass

    def _read(self, timeout):
        if not self.there.acquire(timeout=timeout):
            return None
        number = self.frames.pop(0)
        if number is None:
            self.end("that was all")
        return Frame("a", number, number + 1, PICTURE)

    def _close(self):
        pass


def prepare(frame):
    return Prepared("a", frame.frame_id, frame.capture_ns, None, (8, 8))


@pytest.fixture
def started():
    with Given() as source:
        yield source, Capture(source)


def begin(capture, capacity=4, lossless=False):
    capture.begin(prepare, capacity=capacity, lossless=lossless, wake=threading.Event())


def taken(capture):
    """(number, frames that were left out before it) of what `pop` gives."""
    return [(item.prepared.frame_id, item.behind) for item in iter(capture.pop, None)]


def test_a_full_queue_leaves_out_its_oldest_and_the_next_one_says_how_many(started):
    source, capture = started
    begin(capture)
    source.give(*range(10), None)
    capture.join(60)
    assert [item.frame.frame_id for item in capture.arrivals()] == [6, 7, 8, 9]
    assert capture.arrivals() == []
    capture.limit(lambda waiting: waiting - 1)
    assert (capture.depth, capture.finished) == (3, False)
    assert taken(capture) == [(7, 7), (8, 0), (9, 0)]
    assert (source.counts["frames"], source.counts["dropped"]) == (10, 7)
    assert (capture.finished, capture.end_reason, source.state) == (True, "that was all", "ended")


def test_a_lossless_queue_waits(started):
    source, capture = started
    begin(capture, lossless=True)
    source.give(*range(10), None)
    found = []
    while not capture.finished:
        assert capture.depth <= 4
        capture.arrivals()
        found += taken(capture)
    assert found == [(number, 0) for number in range(10)]


def test_what_is_held_is_not_left_out_for_newer_frames(started):
    source, capture = started
    begin(capture)
    source.give(0, 1, 2)
    assert eventually(lambda: capture.depth == 3)
    capture.arrivals()
    source.give(*range(3, 10), None)
    capture.join(60)
    assert (capture.held, capture.depth) == (3, 7)
    capture.arrivals()
    assert taken(capture) == [(0, 0), (1, 0), (2, 0), (6, 3), (7, 0), (8, 0), (9, 0)]


def test_a_camera_that_is_taken_over_begins_with_its_newest_frame(started):
    source, capture = started
    capture.start()
    source.give(*range(5))
    assert eventually(lambda: capture.depth == 5)
    begin(capture)
    source.give(5, None)
    capture.join(60)
    numbers = [(item.frame.frame_id, item.behind) for item in capture.arrivals()]
    assert numbers == [(4, 0), (5, 0)]
    assert (source.counts["frames"], source.counts["dropped"]) == (2, 4)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=20))
def test_every_frame_is_taken_or_told_of(turns):
    with Given() as source:
        capture, found, number = Capture(source), [], 0
        begin(capture)
        for came, room in turns:
            source.give(*range(number, number + came))
            number += came
            assert eventually(lambda number=number: source.counts["frames"] == number)
            capture.arrivals()
            capture.limit(lambda waiting, room=room: min(waiting, room))
            found += taken(capture)
        source.give(None)
        capture.join(60)
    assert len(found) + source.counts["dropped"] == number
    assert sum(behind for _, behind in found) == source.counts["dropped"]
    expected = 0
    for frame_id, behind in found:
        assert frame_id == expected + behind
        expected = frame_id + 1


class OldClock(Given):
    """Frames that were taken half a minute ago, as in the buffers of a camera while this machine was suspended."""

    own_clock = True
    age_ns = 30 * 10**9

    def _read(self, timeout):
        frame = super()._read(timeout)
        return frame and replace(frame, capture_ns=time.monotonic_ns() - self.age_ns)


@pytest.mark.parametrize("lossless", [False, True])
def test_frames_that_are_too_old_are_left_out_and_the_next_one_tells(lossless):
    with OldClock() as source:
        capture = Capture(source)
        begin(capture, lossless=lossless)
        source.give(0, 1, 2)
        assert eventually(lambda: capture.depth == 3)
        capture.arrivals()
        assert taken(capture) == ([(0, 0), (1, 0), (2, 0)] if lossless else [])
        assert capture.age_ns >= OldClock.age_ns  # said, whether or not they are left out
        source.age_ns = 0
        source.give(3, None)
        capture.join(60)
        capture.arrivals()
        assert taken(capture) == [(3, 0 if lossless else 3)]
        assert source.counts["dropped"] == (0 if lossless else 3)


def test_a_frame_may_be_as_old_as_the_steps_that_it_waits_for():
    with OldClock() as source:
        capture = Capture(source)
        begin(capture)
        source.give(0, None)
        capture.join(60)
        capture.arrivals()
        assert capture.pop(steps_ns=OldClock.age_ns).frame.frame_id == 0


class SlowPainter(RecordedSource):
    """A drive at 200 frames per second on a machine that paints 50."""

    fps, total = 200.0, 300

    def __init__(self):
        super().__init__("a", realtime=True)
        self.fps, self.number = 200.0, 0

    def _open(self):
        pass

    def skip_to(self, capture_ns):
        self.number = max(self.number, int((capture_ns - self.start_ns) * self.fps / 1e9))

    def _next(self):
        if self.number >= self.total:
            return None
        self._stop.wait(0.02)
        self.number += 1
        return Frame("a", self.number - 1, self.start_ns + round((self.number - 1) * 1e9 / self.fps), PICTURE)


@pytest.mark.parametrize("lossless", [False, True])
def test_a_recording_in_real_time_that_is_painted_too_slowly_goes_on_with_what_is_due(lossless):
    with SlowPainter() as source:
        source.total = 30 if lossless else 300
        capture, found = Capture(source), []
        begin(capture, lossless=lossless)
        while not capture.finished:
            time.sleep(0.001)  # or the capture hardly gets its lock
            capture.arrivals()
            found += taken(capture)
        passed_over = sum(behind for _, behind in found)
        assert source.counts["frames"] - len(found) == source.counts["dropped"] == passed_over
        assert (passed_over == 0) == lossless
        assert all(number == before + 1 + behind for (before, _), (number, behind) in pairwise(found))


@pytest.mark.parametrize("kind", ["synthetic", "images", "video"])
def test_frames_that_are_passed_over_up_to_the_end_of_a_recording_are_counted(kind, tmp_path):
    pictures = scene(20, 32, 48)
    for number, picture in enumerate(pictures):
        write_png(tmp_path / f"{number:02}.png", picture)
    video = write_video(tmp_path / "a.mp4", pictures, 10)
    spec = {"synthetic": "synthetic:32x48@10?frames=20", "images": f"images:{tmp_path}?fps=10", "video": str(video)}[
        kind
    ]
    with open_source(spec, "a", realtime=True) as source:
        source.start_ns -= 10_000_000_000  # as if this machine had stood still: all of it is late
        capture = Capture(source)
        begin(capture)
        capture.join(60)
        capture.arrivals()
        assert source.counts["frames"] == 20
        assert len(taken(capture)) + source.counts["dropped"] == 20
