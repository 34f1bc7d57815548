"""TokenWindow: alignment, restarts and the mask, against plain reasoning."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.wire.message import TokenMessage
from streamtok.wire.window import TokenWindow
from tests.kit.wire import make_header as header

MS = 1_000_000


def message(stream: str, seq: int, time_ms: float, epoch: int = 0, session: int = 0, value: int | None = None, **marks):
    """A 2 x 3 grid of one value (default: seq), captured at `time_ms`."""
    head = header(seq, session)
    frame = {"stream": stream, "capture_ns": [int(time_ms * MS)], "epoch": epoch, "grid": [2, 3]}
    tokens = np.full((2, 3), seq if value is None else value, np.uint16)
    return TokenMessage(msgspec.structs.replace(head, **frame), tokens, **marks)


def fill(window: TokenWindow, stream: str, times_ms, start: int = 0) -> None:
    for seq, time_ms in enumerate(times_ms, start):
        assert window.push(message(stream, seq, time_ms))


def test_a_full_window_holds_the_last_grids_of_each_camera():
    window = TokenWindow(["left", "right"], 4)
    fill(window, "left", range(0, 1000, 100))
    fill(window, "right", range(10, 1010, 100))
    view = window.read()
    assert view.tokens.shape == (2, 4, 2, 3)
    assert view.tokens.dtype == torch.int32
    assert view.valid.all()
    assert view.tokens[:, :, 0, 0].tolist() == [[6, 7, 8, 9]] * 2
    assert view.capture_ns[1].tolist() == [610 * MS, 710 * MS, 810 * MS, 910 * MS]
    assert len(window) == 4


def test_a_young_window_is_filled_from_the_right():
    window = TokenWindow(["left", "right"], 3)
    fill(window, "left", [0, 100])
    fill(window, "right", [100])
    view = window.read()
    assert view.valid.tolist() == [[False, True, True], [False, False, True]]
    assert view.tokens[0, 0].eq(0).all()


def test_the_window_ends_where_the_slowest_living_camera_is():
    window = TokenWindow(["left", "right"], 2, max_skew_ns=20 * MS)
    fill(window, "left", [0, 100, 200, 300])
    fill(window, "right", [5, 105, 205])
    assert window.read().capture_ns[0].tolist() == [100 * MS, 200 * MS]
    fill(window, "right", [305], start=3)
    assert window.read().capture_ns[0].tolist() == [200 * MS, 300 * MS]


def test_a_dead_camera_is_not_waited_for_and_not_valid():
    window = TokenWindow(["left", "right"], 2, max_age_ns=500 * MS)
    fill(window, "left", range(0, 1000, 100))
    fill(window, "right", [0, 100])
    view = window.read()
    assert view.capture_ns[0].tolist() == [800 * MS, 900 * MS]
    assert view.valid.tolist() == [[True, True], [False, False]]


def test_the_other_cameras_lead_when_the_first_is_dead_or_restarts():
    window = TokenWindow(["left", "right"], 3, max_age_ns=500 * MS)
    fill(window, "left", [0, 100])
    fill(window, "right", range(0, 1000, 100))
    assert window.read().capture_ns[1].tolist() == [700 * MS, 800 * MS, 900 * MS]
    window.push(message("left", 5, 900, epoch=1))
    assert window.read().valid.tolist() == [[False, False, True], [True, True, True]]


def test_grids_further_apart_than_the_skew_are_not_valid():
    window = TokenWindow(["left", "right"], 3, max_skew_ns=30 * MS)
    fill(window, "left", [0, 100, 200])
    fill(window, "right", [0, 160, 220])
    assert window.read().valid.tolist() == [[True, True, True], [True, False, True]]


@pytest.mark.parametrize("late_ms", [0, 40, 65, 90, 133])
@pytest.mark.parametrize("fps", [30, 10])
def test_cameras_that_nobody_triggers_fill_every_step_whatever_their_rate(late_ms, fps):
    """Groups of 4 frames, of a camera of 30 per second and one that begins later and may be slower."""
    window = TokenWindow(["left", "right"], 3)
    fill(window, "left", [400 / 3 * n for n in range(18)])
    fill(window, "right", [late_ms + 4000 / fps * n for n in range(18 * fps // 30)])
    view = window.read()
    assert view.valid.all()
    apart = (view.capture_ns[0] - view.capture_ns[1]).abs().max()
    assert apart <= 0.6 * 4e9 / fps


def test_a_camera_whose_rate_changed_fills_every_step():
    window = TokenWindow(["left", "right"], 3)
    fill(window, "left", [400 / 3 * n for n in range(121)])
    fill(window, "right", [400 / 3 * n for n in range(91)] + [12000 + 400 * n for n in range(1, 11)])
    assert window.read().valid.all()


def test_a_camera_that_restarts_fills_the_newest_step_as_before():
    window = TokenWindow(["left", "right"], 3)
    fill(window, "left", [400 / 3 * n for n in range(30)])
    fill(window, "right", [190 + 400 * n for n in range(8)])
    assert window.push(message("right", 8, 3390, epoch=1))
    assert window.read().valid.all()


def test_a_grid_older_than_the_most_age_fills_no_step():
    window = TokenWindow(["left", "right"], 2, max_age_ns=500 * MS)
    fill(window, "left", range(0, 8001, 100))
    fill(window, "right", [0, 4000, 8000])
    assert window.read().valid.all()
    fill(window, "left", [8100, 8200, 8300, 8400, 8600, 8700], start=81)
    assert window.read().valid.tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("change", [{"epoch": 1}, {"session": 1}, {"lost": 2}])
def test_a_row_restarts_at_a_new_epoch_session_or_loss(change):
    window = TokenWindow(["left"], 4)
    fill(window, "left", [0, 100, 200])
    window.push(message("left", 4, 300, **change))
    assert window.read().valid.tolist() == [[False, False, False, True]]


def test_nothing_is_kept_until_a_keyframe_after_a_loss():
    window = TokenWindow(["left"], 4)
    fill(window, "left", [0, 100])
    assert not window.push(message("left", 3, 300, lost=1, decodable=False))
    assert len(window) == 0
    assert not window.push(message("left", 3, 300, decodable=False))
    assert window.push(message("left", 4, 400, epoch=1))
    assert window.read().valid.tolist() == [[False, False, False, True]]


def test_across_epochs_a_periodic_keyframe_continues_the_row_and_a_gap_does_not():
    window = TokenWindow(["left"], 4, across_epochs=True)
    fill(window, "left", [0, 100])
    window.push(message("left", 2, 200, epoch=1))
    assert len(window) == 3
    gap = message("left", 3, 900, epoch=2)
    window.push(replace(gap, header=msgspec.structs.replace(gap.header, dropped=3)))
    assert len(window) == 1


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 90), st.sampled_from("-----ekl")), max_size=60),
    st.integers(1, 5),
    st.sampled_from([0, 20, 60, None]),
)
def test_whatever_arrives_the_window_holds_what_was_sent_and_when(arrivals, length, skew_ms):
    """Cameras of any rates with epochs (e), losses with (k) and without (l) a keyframe: every valid place is right."""
    window = TokenWindow(list("abc"), length, max_skew_ns=None if skew_ms is None else skew_ms * MS)
    clocks, epochs, kept = dict.fromkeys("abc", 0), dict.fromkeys("abc", 0), {name: {} for name in "abc"}
    for value, (name, step_ms, event) in enumerate(arrivals, 1):
        clocks[name] += step_ms
        epochs[name] += event == "e"
        if event != "-":
            kept[name].clear()
        marks = {"lost": int(event in "kl"), "decodable": event != "l"}
        window.push(message(name, value, clocks[name], epoch=epochs[name], value=value, **marks))
        if event != "l":
            kept[name][clocks[name] * MS] = value
        view = window.read()
        for row, camera in enumerate("abc"):
            times = view.capture_ns[row][view.valid[row]].tolist()
            assert [kept[camera][time_ns] for time_ns in times] == view.tokens[row, view.valid[row], 0, 0].tolist()
            assert times == sorted(times)
        for step in range(length):
            times = view.capture_ns[view.valid[:, step], step]
            assert skew_ms is None or times.numel() == 0 or times.max() - times.min() <= 2 * skew_ms * MS


def test_streams_of_no_camera_are_left_out():
    assert not TokenWindow(["left"], 4).push(message("rear", 0, 0))


def test_a_window_with_another_shape_is_refused_naming_both():
    window = TokenWindow(["left", "right"], 4)
    fill(window, "left", [0])
    other = message("right", 0, 0)
    with pytest.raises(ValueError, match=r"right sends grids \[3, 3\].*\[2, 3\]"):
        window.push(replace(other, grid=np.zeros((3, 3), np.uint16)))


def test_a_single_camera_may_change_its_size():
    window = TokenWindow(["left"], 2)
    fill(window, "left", [0, 100])
    window.push(replace(message("left", 2, 200, epoch=1), grid=np.zeros((5, 7), np.uint16)))
    view = window.read()
    assert view.tokens.shape == (1, 2, 5, 7)
    assert view.valid.tolist() == [[False, True]]


def test_the_view_is_its_own_memory():
    window = TokenWindow(["left"], 2)
    fill(window, "left", [0, 100])
    view = window.read()
    fill(window, "left", [200], start=2)
    assert view.tokens[0, :, 0, 0].tolist() == [0, 1]


def test_an_empty_window_says_so():
    with pytest.raises(ValueError, match="no message of left yet"):
        TokenWindow(["left"], 2).read()
    assert len(TokenWindow(["left"], 2)) == 0


@pytest.mark.parametrize(("cameras", "length"), [([], 2), (["a", "a"], 2), (["a"], 0)])
def test_a_window_of_nothing_is_refused(cameras, length):
    with pytest.raises(ValueError, match="expected a length"):
        TokenWindow(cameras, length)


def sized(stream: str, seq: int, size: tuple[int, int], epoch: int = 1) -> TokenMessage:
    return replace(message(stream, seq, seq, epoch=epoch), grid=np.zeros(size, np.uint16))


def test_a_message_that_cannot_be_read_is_a_loss():
    window = TokenWindow(["left"], 4)
    fill(window, "left", range(3))
    assert not window.push(replace(message("left", 3, 3), grid=None, unreadable="coded"))
    assert window.push(message("left", 4, 4))
    assert window.read().valid.tolist() == [[False, False, False, True]]


def test_a_camera_that_changes_its_size_starts_the_window_anew_and_the_others_join():
    window = TokenWindow(["left", "right"], 4, max_skew_ns=50 * MS)
    fill(window, "left", range(3))
    fill(window, "right", range(3))
    assert [window.push(sized("left", seq, (5, 7))) for seq in (3, 4)] == [False, True]
    assert [window.push(message("right", seq, seq)) for seq in (3, 4)] == [False, False]
    view = window.read()
    assert view.tokens.shape == (2, 4, 5, 7)
    assert view.valid.sum(1).tolist() == [1, 0]
    assert window.push(sized("right", 5, (5, 7)))
    assert window.push(sized("left", 5, (5, 7)))
    assert window.read().valid.sum(1).tolist() == [2, 2]


def test_one_message_of_another_size_costs_that_camera_alone():
    window = TokenWindow(["left", "right"], 4)
    fill(window, "left", range(3))
    fill(window, "right", range(3))
    assert not window.push(sized("left", 3, (9, 9), epoch=0))
    assert window.push(message("left", 4, 4))
    assert window.read().tokens.shape == (2, 4, 2, 3)
    assert window.read().valid[1].sum() > 0
