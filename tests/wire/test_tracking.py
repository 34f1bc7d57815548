"""Continuity of a stream as a reader sees it, and the queue between draining and reading."""

import threading
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.wire.mailbox import Closed, Mailbox
from streamtok.wire.message import Info
from streamtok.wire.tracking import HELD_CLAIMS, Believer, Claim, Continuity, StreamTracker
from tests.kit.wire import make_header as header
from tests.kit.wire import make_info as info_of


def test_a_jump_is_loss_until_the_next_keyframe():
    tracker = StreamTracker()
    verdicts = [tracker.take_message(header(seq)) for seq in (0, 1, 3, 4, 5, 9, 12)]
    assert verdicts == [
        Continuity(0, True),
        Continuity(0, True),
        Continuity(1, False),
        Continuity(0, True),
        Continuity(0, True),
        Continuity(3, False),
        Continuity(2, True),
    ]
    assert tracker.counts["lost"] == 6


def info(last_seq: int, session: int = 0) -> Info:
    return info_of(session=f"{session:032x}", last_seq=last_seq)


def test_joining_in_the_middle_is_no_loss_but_waits_for_a_keyframe():
    tracker = StreamTracker()
    assert [tracker.take_message(header(seq)) for seq in (6, 7, 8)] == [
        Continuity(0, False),
        Continuity(0, False),
        Continuity(0, True),
    ]


def test_a_new_session_is_not_loss_and_the_old_one_is_stale():
    tracker = StreamTracker()
    for seq in range(6):
        tracker.take_message(header(seq))
    assert tracker.take_message(header(0, session=1)) == Continuity(0, True)
    assert tracker.take_message(header(6)) is None
    assert tracker.take_message(header(2, session=2)) == Continuity(0, False)
    assert tracker.counts["lost"] == 0
    assert tracker.counts["stale"] == 1
    assert tracker.counts["sessions"] == 3


def test_a_repeated_message_is_stale():
    tracker = StreamTracker()
    tracker.take_message(header(0))
    assert tracker.take_message(header(0)) is None
    assert tracker.take_message(header(1)) == Continuity(0, True)


def test_info_finds_a_loss_that_nothing_follows():
    tracker = StreamTracker()
    tracker.take_message(header(0))
    assert tracker.take_info(info(0)) == 0
    assert tracker.take_info(info(2)) == 2
    assert tracker.take_info(info(2)) == 0
    assert tracker.take_message(header(3)) == Continuity(0, False)
    assert tracker.counts["lost"] == 2


def test_info_at_joining_sets_what_comes_next():
    tracker = StreamTracker()
    assert tracker.take_info(info(9)) == 0
    assert tracker.take_message(header(12)) == Continuity(2, True)


def test_info_of_a_replaced_session_changes_nothing():
    tracker = StreamTracker()
    tracker.take_message(header(0))
    tracker.take_message(header(0, session=1))
    assert tracker.take_info(info(7)) == 0
    assert tracker.take_message(header(1, session=1)) == Continuity(0, True)


@settings(max_examples=200)
@given(st.sets(st.integers(0, 60)), st.integers(1, 9))
def test_what_arrives_and_what_is_lost_add_up(missing, interval):
    """Any messages may be missing: the counts add up, and only unbroken runs from a keyframe are decodable."""
    tracker = StreamTracker()
    tracker.take_info(info(-1))
    decodable = False
    for seq in range(61):
        if seq in missing:
            decodable = False
            continue
        decodable = decodable or seq % interval == 0
        assert tracker.take_message(header(seq, interval=interval)).decodable == decodable
    tracker.take_info(info(60))
    assert tracker.counts["messages"] + tracker.counts["lost"] == 61
    assert tracker.counts["lost"] == len(missing)


def test_a_full_queue_discards_its_oldest_per_stream():
    mailbox = Mailbox(3)
    mailbox.put("slow", "s0")
    for number in range(10):
        mailbox.put("fast", f"f{number}")
    mailbox.put("slow", "s1")
    assert [mailbox.take() for _ in range(6)] == ["s0", "f7", "f8", "f9", "s1", None]
    assert mailbox.discarded == {"fast": 7}


def test_a_burst_is_kept_whole_and_then_the_bound_holds_again():
    mailbox = Mailbox(2)
    for number in range(10):
        mailbox.put("a", number, extra=True)
    mailbox.put("a", 10)
    assert mailbox.waiting("a") == 11
    assert [mailbox.take() for _ in range(11)] == list(range(11))
    for number in range(5):
        mailbox.put("a", number)
    assert [mailbox.take(), mailbox.take(), mailbox.take()] == [3, 4, None]


def test_what_waits_is_read_before_the_end():
    mailbox = Mailbox(4)
    mailbox.put("a", 1)
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


def sent(seq: int, session: int = 0, epoch: int = 0) -> Claim:
    return Claim(f"{session:032x}", seq - 1, seq, ("message", session, seq), epoch, seq == 0)


def told(last_seq: int, session: int = 0) -> Claim:
    return Claim(f"{session:032x}", last_seq, last_seq, ("info", session, last_seq))


def items(believed: list[Claim]) -> list:
    return [claim.item[1:] for claim in believed]


def test_a_jump_waits_for_the_message_that_bears_it_out():
    believer = Believer()
    assert [items(believer.take(sent(seq))) for seq in (0, 1, 5, 6, 7)] == [
        [(0, 0)],
        [(0, 1)],
        [],
        [(0, 5), (0, 6)],
        [(0, 7)],
    ]
    assert believer.dropped == 0


@pytest.mark.parametrize("witness", [told(5), sent(9)])
def test_a_jump_is_borne_out_by_an_info_or_by_another_jump(witness):
    believer = Believer()
    believer.take(sent(0))
    assert believer.take(sent(5)) == []
    assert (0, 5) in items(believer.take(witness))


def test_a_new_connection_may_begin_anywhere():
    believer = Believer()
    believer.take(sent(0))
    believer.connected_anew = True
    assert [claim.anew for claim in believer.take(sent(0, session=1))] == [True]
    believer.connected_anew = True
    assert [(claim.item[2], claim.anew) for claim in believer.take(sent(7, session=1))] == [(7, False)]


def test_what_is_held_at_the_end_counts():
    believer = Believer()
    believer.take(sent(0))
    believer.take(told(4))
    assert items(believer.settle()) == [(0, 4)]


@pytest.mark.parametrize("first", [told(-1, session=1), told(3, session=1), sent(4, session=1)])
@pytest.mark.parametrize("second", [told(4, session=1), sent(5, session=1)])
def test_a_session_takes_over_with_its_second_message_or_info(first, second):
    believer = Believer()
    for seq in range(6):
        believer.take(sent(seq))
    assert believer.take(first) == []
    believed = believer.take(second)
    assert believed[0].anew
    assert believed[0].item == first.item
    assert believer.session == first.session


claims = st.builds(
    lambda kind, seq, session: kind(seq, session),
    st.sampled_from([sent, told, partial(sent, epoch=9)]),
    st.integers(0, 30) | st.sampled_from([2**31, 2**63 - 1]),
    st.integers(0, 1),
)


@settings(max_examples=500)
@given(st.sets(st.integers(0, 20)), st.integers(0, 20), claims, st.integers(1, 4))
def test_one_wrong_message_costs_no_other(missing, place, wrong, info_every):
    """Any messages may be lost and any one claim may be forged: the others come out, none after a wait of two more."""
    genuine = [seq for seq in range(21) if seq not in missing]
    believer, out, waiting = Believer(), [], []
    believer.take(told(-1))
    for seq in range(21):
        steps = [wrong] if seq == place else []
        steps += [sent(seq)] if seq in genuine else []
        steps += [told(seq)] if seq % info_every == 0 else []
        for claim in steps:
            out += [each.item for each in believer.take(claim)]
        waiting = [each for each in genuine if each <= seq and ("message", 0, each) not in out]
        assert len(waiting) <= 3
    for last in (told(20), told(20)):
        out += [each.item for each in believer.take(last)]
    came = [item[2] for item in out if item[:2] == ("message", 0) and item != wrong.item]
    assert came == sorted(set(came))
    lost = set(genuine) - set(came) - {wrong.item[2]}
    # A number that a message of about then really had, or lost, cannot be told from the true one: that may cost one.
    plausible = wrong.session == sent(0).session and wrong.last <= 20
    plausible = plausible and (wrong.epoch in (None, 0) or wrong.begins or not genuine or wrong.before < genuine[0])
    assert len(lost) <= plausible


@settings(max_examples=300)
@given(st.lists(claims, max_size=8))
def test_after_any_messages_a_stream_is_followed_within_three_of_its_own(before):
    believer = Believer()
    for claim in before:
        believer.take(claim)
    out = [each.item for seq in range(100, 108) for each in believer.take(sent(seq, session=2))]
    assert [item[2] for item in out if item[1] == 2] == list(range(100, 108))
    assert len(believer.held) <= HELD_CLAIMS
