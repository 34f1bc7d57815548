"""The ingest core without sockets: groups, gaps, keyframes, drops, sizes, failures."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.ingest.core import IngestCore, StreamOptions
from streamtok.types import TokenGroup
from tests.kit.models import ATTENTION, CONTINUOUS, IMAGE, VIDEO, build, expected_tokens
from tests.kit.pictures import MS, frame

MODELS = {config.name: build(config) for config in (VIDEO, ATTENTION, CONTINUOUS, IMAGE)}
TINY = MODELS["tiny"]


def core(tokenizer=TINY, streams: str = "a", **options) -> IngestCore:
    return IngestCore(tokenizer, dict.fromkeys(streams, StreamOptions(**{"keyframe_interval": 0} | options)))


def feed(ingest: IngestCore, frames) -> list[TokenGroup]:
    return [group for item in frames for group in ingest.feed(item)]


def choose(ingest: IngestCore, waiting: list) -> list:
    """Those of the waiting frames of stream a that are encoded."""
    return waiting[len(waiting) - ingest.lane("a").room_for(len(waiting)) :]


def ids(groups: list[TokenGroup]) -> list[list[int]]:
    return [group.frame_ids for group in groups]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_a_clip_gives_one_keyframe_and_the_groups_of_tok_stream(name, count):
    tok = MODELS[name]
    ingest = core(tok)
    groups = feed(ingest, map(frame, range(count))) + ingest.flush("a", "pad")
    assert len(groups) == 1 + math.ceil((count - 1) / tok.config.temporal_compression)
    assert [number for group in groups for number in group.frame_ids] == list(range(count))
    assert groups[0].keyframe
    assert {group.epoch for group in groups} == {0}
    for group, tokens in zip(groups, expected_tokens(tok, groups), strict=True):
        assert group.tokens.dtype == (np.uint16 if tok.config.discrete else np.float16)
        np.testing.assert_array_equal(group.tokens, tokens)


def test_the_tail_is_padded_with_its_last_frame_or_dropped():
    padded, dropped = core(), core()
    feed(padded, map(frame, range(7)))
    feed(dropped, map(frame, range(7)))
    [group] = padded.flush("a", "pad")
    assert (group.frame_ids, group.repeated) == ([5, 6], 2)
    assert dropped.flush("a", "drop") == []
    assert dropped.lane("a").counts["dropped"] == 2


def test_a_gap_under_latest_drops_the_partial_group_and_starts_an_epoch():
    groups = feed(core(), map(frame, [0, 1, 2, 3, 4, 5, 6, 9, 10]))
    assert ids(groups) == [[0], [1, 2, 3, 4], [9]]
    assert [group.dropped for group in groups] == [0, 0, 4]  # 5 and 6 were pending, 7 and 8 never came
    assert [group.epoch for group in groups] == [0, 0, 1]
    assert groups[2].keyframe


def test_a_gap_under_lossless_pads_the_partial_group_before_it():
    groups = feed(core(policy="lossless"), map(frame, [0, 1, 2, 5]))
    assert ids(groups) == [[0], [1, 2], [5]]
    assert [(group.repeated, group.dropped) for group in groups] == [(0, 0), (2, 0), (0, 2)]


def test_a_gap_between_two_groups_is_noticed():
    groups = feed(core(), map(frame, [0, 1, 2, 3, 4, 6]))
    assert ids(groups) == [[0], [1, 2, 3, 4], [6]]
    assert groups[2].dropped == 1


def test_gaps_in_quick_succession_are_logged_together(caplog):
    now = [0]
    ingest = IngestCore(TINY, {"a": StreamOptions(), "b": StreamOptions()}, timer=lambda: now[0])
    for number in range(0, 100, 2):  # 49 gaps of one frame each
        feed(ingest, [frame(number), frame(number, "b")])
    assert caplog.text.count("event=gap gaps=1 lost=1") == 2  # one line per stream
    caplog.clear()
    now[0] += 10 * 10**9
    ingest.feed(frame(100))
    assert "stream=a event=gap gaps=49 lost=49 on_gap=reset" in caplog.text


@pytest.mark.parametrize("end", [IngestCore.flush, IngestCore.discard])
def test_gaps_that_were_only_summed_up_are_logged_when_the_stream_ends(end, caplog):
    ingest = core()
    feed(ingest, map(frame, range(0, 100, 2)))
    caplog.clear()
    end(ingest, "a")
    end(ingest, "a")
    assert [record.getMessage() for record in caplog.records] == ["stream=a event=gap gaps=48 lost=48 on_gap=reset"]


def test_numbers_that_run_backwards_again_and_again_are_logged_together(caplog):
    ingest = core()
    feed(ingest, [frame(number, time_ms=100 + number) for number in range(50, 0, -1)])
    assert caplog.text.count("event=restart") == 1
    ingest.flush("a")
    assert "event=restart restarts=48 frame_id=1 capture_ns=101000001" in caplog.text


def test_a_bridged_gap_is_marked_and_invents_no_frame():
    groups = feed(core(on_gap="bridge"), map(frame, [0, 1, 2, 5, 6, 7]))
    assert ids(groups) == [[0], [1, 2, 5, 6]]
    assert [(group.dropped, group.epoch) for group in groups] == [(0, 0), (2, 0)]
    np.testing.assert_array_equal(groups[1].tokens, expected_tokens(TINY, groups)[1])


@pytest.mark.parametrize("on_gap", ["reset", "bridge"])
@pytest.mark.parametrize(("following", "lost"), [(3, 0), (6, 3)])
def test_a_camera_that_comes_back_starts_an_epoch_and_counts_one_gap(on_gap, following, lost):
    ingest = core(on_gap=on_gap)
    feed(ingest, map(frame, range(3)))
    assert ingest.restart("a") == []
    [group] = ingest.feed(frame(following))
    assert (group.keyframe, group.epoch, group.dropped) == (True, 1, 2 + lost)
    assert ingest.lane("a").counts["gaps"] == 1


@pytest.mark.parametrize(("number", "time_ms"), [(60, 10_000), (60, 1), (1, 10_000)])
def test_frames_that_were_left_out_count_also_where_no_number_tells_of_them(number, time_ms):
    """Before the first frame, and where number or time run back; a jump tells of those that never came, too."""
    ingest = core()
    [first] = ingest.feed(frame(2, time_ms=66), behind=2)
    ingest.feed(frame(3, time_ms=99))
    [second] = ingest.feed(frame(number, time_ms=time_ms), behind=49)
    missed = 7 if (number, time_ms) == (60, 10_000) else 0
    assert (first.dropped, second.dropped) == (2, 1 + 49 + missed)
    assert ingest.lane("a").reasons["behind"] == 2 + 49
    assert ingest.lane("a").reasons["missed"] == missed


def test_going_back_in_number_or_time_starts_an_epoch():
    restarted = feed(core(on_gap="bridge"), [*map(frame, range(5)), *(frame(n, time_ms=900 + n) for n in range(5))])
    assert [group.epoch for group in restarted] == [0, 0, 1, 1]
    stuck_clock = feed(core(), [frame(0), frame(1), frame(2, time_ms=10), frame(3)])
    assert ids(stuck_clock) == [[0], [2]]


def test_keyframes_come_with_capture_time_at_a_group_boundary():
    groups = feed(core(keyframe_interval=0.1), map(frame, range(26)))  # 100 Hz: due from frame 10 on
    assert ids(groups)[:5] == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13]]
    assert [group.keyframe for group in groups] == [True, False, False, False] * 2
    assert sum(group.dropped for group in groups) == 0


def test_a_requested_keyframe_waits_for_the_boundary():
    ingest = core()
    feed(ingest, map(frame, range(3)))
    ingest.request_keyframe("a")
    assert ids(feed(ingest, map(frame, range(3, 7)))) == [[1, 2, 3, 4], [5]]
    assert ids(feed(ingest, map(frame, range(7, 11)))) == [[6, 7, 8, 9]]


def test_a_new_size_starts_an_epoch_with_a_new_grid():
    groups = feed(core(), [frame(0), frame(1), frame(2, size=(48, 48))])
    assert [group.image_size for group in groups] == [(32, 48), (48, 48)]
    assert groups[1].keyframe
    assert groups[1].tokens.shape == (6, 6)


def test_a_size_that_changes_again_and_again_is_logged_together(caplog):
    caplog.set_level("INFO", "streamtok.ingest")
    ingest = core()
    feed(ingest, [frame(number, size=((48, 48), (32, 48))[number % 2]) for number in range(12)])
    assert caplog.text.count("event=allocated") == caplog.text.count("event=resize") == 1
    ingest.finish_logs()
    assert caplog.text.count("event=allocated") == caplog.text.count("event=resize") == 2


def test_latest_skips_to_the_newest_groups_and_lossless_keeps_all():
    live, kept, bridged = core(), core(policy="lossless"), core(on_gap="bridge")
    waiting = [frame(number) for number in range(13)]
    assert [item.frame_id for item in choose(live, waiting)] == list(range(4, 13))
    assert choose(live, waiting[:12]) == waiting[:12]  # three groups behind: still worth their epoch
    assert choose(kept, waiting) == waiting
    feed(bridged, map(frame, range(3)))
    assert [item.frame_id for item in choose(bridged, waiting[3:9])] == [7, 8]


@pytest.mark.parametrize("load", [1.1, 1.4, 2, 3, 20])
def test_an_encoder_that_is_always_behind_gives_epochs_that_last_and_stays_near_the_camera(load):
    """Each turn finds the frames that came during the steps of the turn before, `load` groups in the time of a step."""
    ingest, groups, waiting, now, came = core(), [], [], 1.0, 0
    while now < 400 * load:
        waiting = (waiting + [frame(number) for number in range(came, int(now))])[-ingest.lane("a").most_waiting :]
        came = int(now)
        turn = feed(ingest, choose(ingest, waiting))
        assert all(came - group.frame_ids[-1] <= 3 * 4 for group in turn)
        groups, waiting, now = groups + turn, [], now + 4 * load * max(1, len(turn))
    lengths = [sum(group.epoch == epoch for group in groups) for epoch in range(groups[-1].epoch)]
    assert len(lengths) > 2
    assert min(lengths[1:]) >= 3  # the first began with all the frames that there were
    for group, tokens in zip(groups, expected_tokens(TINY, groups), strict=True):
        np.testing.assert_array_equal(group.tokens, tokens)


def test_streams_do_not_touch_each_other():
    together, alone = core(streams="ab"), core(streams="a")
    mixed = [frame(number, stream) for number in range(9) for stream in "ab" if not (stream == "b" and number == 5)]
    groups = [group for group in feed(together, mixed) if group.stream == "a"]
    for group, same in zip(groups, feed(alone, map(frame, range(9))), strict=True):
        assert (group.frame_ids, group.epoch) == (same.frame_ids, same.epoch)
        np.testing.assert_array_equal(group.tokens, same.tokens)


def test_a_latent_that_is_not_finite_resets_its_stream_and_no_other():
    tok = build(VIDEO)
    ingest = core(tok, streams="ab")
    feed(ingest, [frame(0), frame(0, "b"), frame(1), frame(1, "b")])
    weights = {name: tensor.clone() for name, tensor in tok.state_dict().items()}
    with torch.no_grad():
        next(tok.encoder.parameters()).fill_(float("nan"))
    assert feed(ingest, map(frame, [2, 3, 4])) == []
    tok.load_state_dict(weights)
    [first, second] = feed(ingest, map(frame, range(5, 10)))
    assert (first.keyframe, first.epoch, first.dropped) == (True, 1, 4)
    np.testing.assert_array_equal(second.tokens, expected_tokens(tok, [first, second])[1])
    [other] = feed(ingest, [frame(number, "b") for number in (2, 3, 4)])
    assert (other.epoch, other.frame_ids) == (0, [1, 2, 3, 4])
    assert ingest.lane("a").counts["nonfinite"] == 1


def test_latents_that_are_never_finite_are_logged_together(caplog):
    tok = build(VIDEO)
    with torch.no_grad():
        next(tok.encoder.parameters()).fill_(float("nan"))
    ingest = core(tok)
    assert feed(ingest, map(frame, range(20))) == []
    assert caplog.text.count("event=nonfinite groups=1 frame_ids=[0] action=reset") == 1
    caplog.clear()
    ingest.flush("a")
    [record] = caplog.records
    assert record.getMessage() == "stream=a event=nonfinite groups=19 frame_ids=[19] action=reset"
    assert record.levelname == "ERROR"


@settings(max_examples=25)
@given(
    lost=st.sets(st.integers(0, 39), max_size=12),
    policy=st.sampled_from(["latest", "lossless"]),
    interval=st.sampled_from([0, 0.07, 0.2]),
)
def test_recorded_headers_drive_the_core_to_the_same_tokens(lost, policy, interval):
    sent = [number for number in range(40) if number not in lost]
    live = core(policy=policy, keyframe_interval=interval)
    groups = feed(live, map(frame, sent)) + live.flush("a")
    replayed = core(policy=policy)
    for group in groups:
        again = replayed.encode_recorded(
            "a",
            [frame(number) for number in group.frame_ids],
            keyframe=group.keyframe,
            epoch=group.epoch,
            dropped=group.dropped,
            repeated=group.repeated,
        )
        assert (again.epoch, again.keyframe, again.dropped) == (group.epoch, group.keyframe, group.dropped)
        np.testing.assert_array_equal(again.tokens, group.tokens)
    told = [number for group in groups for number in group.frame_ids]
    assert sorted(told) == told
    assert len(told) + live.lane("a").counts["dropped"] == (max(sent) + 1 - min(sent) if sent else 0)


def test_a_recorded_group_that_does_not_fit_is_refused():
    ingest = core()
    with pytest.raises(ValueError, match="start at its keyframe"):
        ingest.encode_recorded("a", [frame(number) for number in range(1, 5)], keyframe=False, epoch=0)
    with pytest.raises(ValueError, match="needs 1 frames, got 2"):
        ingest.encode_recorded("a", [frame(0), frame(1)], keyframe=True, epoch=0)


def test_capture_times_are_those_of_the_frames():
    groups = feed(core(), map(frame, range(5)))
    assert groups[1].capture_ns == [10 * number * MS + 1 for number in range(1, 5)]
