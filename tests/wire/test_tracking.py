"""Continuity of a stream as a reader sees it, and the queue between draining and reading."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.wire.mailbox import Closed, Mailbox
from streamtok.wire.message import Info
from streamtok.wire.tracking import StreamTracker, Verdict
from tests.kit.wire import make_header as header
from tests.kit.wire import make_info as info_of


def test_a_jump_is_loss_until_the_next_keyframe():
    tracker = StreamTracker()
    verdicts = [tracker.message(header(seq)) for seq in (0, 1, 3, 4, 5, 9, 12)]
    assert verdicts == [
        Verdict(0, True),
        Verdict(0, True),
        Verdict(1, False),
        Verdict(0, True),
        Verdict(0, True),
        Verdict(3, False),
        Verdict(2, True),
    ]
    assert tracker.counts["lost"] == 6


def info(last_seq: int, session: int = 0) -> Info:
    return info_of(session=f"{session:032x}", last_seq=last_seq)


def test_joining_in_the_middle_is_no_loss_but_waits_for_a_keyframe():
    tracker = StreamTracker()
    assert [tracker.message(header(seq)) for seq in (6, 7, 8)] == [
        Verdict(0, False),
        Verdict(0, False),
        Verdict(0, True),
    ]


def test_a_new_session_is_not_loss_and_the_old_one_is_stale():
    tracker = StreamTracker()
    for seq in range(6):
        tracker.message(header(seq))
    assert tracker.message(header(0, session=1)) == Verdict(0, True)
    assert tracker.message(header(6)) is None
    assert tracker.message(header(2, session=2)) == Verdict(0, False)
    assert tracker.counts["lost"] == 0
    assert tracker.counts["stale"] == 1
    assert tracker.counts["sessions"] == 3


def test_a_repeated_message_is_stale():
    tracker = StreamTracker()
    tracker.message(header(0))
    assert tracker.message(header(0)) is None
    assert tracker.message(header(1)) == Verdict(0, True)


def test_info_finds_a_loss_that_nothing_follows():
    tracker = StreamTracker()
    tracker.message(header(0))
    assert tracker.info(info(0)) == 0
    assert tracker.info(info(2)) == 2
    assert tracker.info(info(2)) == 0
    assert tracker.message(header(3)) == Verdict(0, False)
    assert tracker.counts["lost"] == 2


def test_info_at_joining_sets_what_comes_next():
    tracker = StreamTracker()
    assert tracker.info(info(9)) == 0
    assert tracker.message(header(12)) == Verdict(2, True)


def test_info_of_a_replaced_session_changes_nothing():
    tracker = StreamTracker()
    tracker.message(header(0))
    tracker.message(header(0, session=1))
    assert tracker.info(info(7)) == 0
    assert tracker.message(header(1, session=1)) == Verdict(0, True)


@settings(deadline=None, max_examples=200)
@given(st.sets(st.integers(0, 60)), st.integers(1, 9))
def test_what_arrives_and_what_is_lost_add_up(missing, interval):
    """Any messages may be missing: the counts add up, and only unbroken runs from a keyframe are decodable."""
    tracker = StreamTracker()
    tracker.info(info(-1))
    decodable = False
    for seq in range(61):
        if seq in missing:
            decodable = False
            continue
        decodable = decodable or seq % interval == 0
        assert tracker.message(header(seq, interval=interval)).decodable == decodable
    tracker.info(info(60))
    assert tracker.counts["messages"] + tracker.counts["lost"] == 61
    assert tracker.counts["lost"] == len(missing)


def test_a_full_queue_discards_its_oldest_per_stream():
    mailbox = Mailbox(3)
    mailbox.put("slow", ["s0"])
    for number in range(10):
        mailbox.put("fast", [f"f{number}"])
    mailbox.put("slow", ["s1"])
    assert [mailbox.take() for _ in range(6)] == ["s0", "f7", "f8", "f9", "s1", None]
    assert mailbox.discarded == {"fast": 7}


def test_a_burst_is_kept_whole_and_then_the_bound_holds_again():
    mailbox = Mailbox(2)
    mailbox.put("a", list(range(10)))
    mailbox.put("a", [10])
    assert len(mailbox) == 11
    assert [mailbox.take() for _ in range(11)] == list(range(11))
    for number in range(5):
        mailbox.put("a", [number])
    assert [mailbox.take(), mailbox.take(), mailbox.take()] == [3, 4, None]


def test_what_waits_is_read_before_the_end():
    mailbox = Mailbox(4)
    mailbox.put("a", [1])
    mailbox.end()
    mailbox.end(RuntimeError("too late"))
    assert mailbox.get() == 1
    with pytest.raises(Closed):
        mailbox.get()


def test_an_error_of_the_drain_reaches_the_reader():
    mailbox = Mailbox(4)
    threading.Timer(0.05, mailbox.end, [RuntimeError("socket gone")]).start()
    with pytest.raises(RuntimeError, match="socket gone"):
        mailbox.get(10)


def test_a_queue_without_room_is_refused():
    with pytest.raises(ValueError, match="queue size is 0"):
        Mailbox(0)
