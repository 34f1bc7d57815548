"""A byte budget: it holds a rate that can be held, without cost where there is room, and never runs away."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.ingest.budget import FEWEST, MOST_HOLD, StreamBudget, share_budget
from streamtok.ingest.lane import Lane, StreamOptions
from streamtok.io.source import open_source
from streamtok.node.metrics import Metrics
from streamtok.node.stream_metrics import copy_totals
from streamtok.settings.errors import SettingsError
from streamtok.settings.rig import load_rig

FPS, GROUP = 30.0, 4
RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "message_sizes.json").read_text())
SIZES = {name: [[np.array(own) for own in each] for each in sizes] for name, sizes in RECORDED["clips"].items()}
KEYFRAME_S = 10.0


def drive(
    budget: StreamBudget, seconds: float, costs: list[float], seed: int = 0
) -> tuple[float, list[float], list[float]]:
    """Frames of a scene whose groups take `costs` bits in turn, a fifth of it saved at a hold of 0.5 -> bits per second
    sent in the second half, and every margin and share."""
    rng, waiting, sent, margins, shares = np.random.default_rng(seed), 0, 0.0, [], []
    for frame in range(round(seconds * FPS)):
        waiting += not budget.leaves_out()
        if waiting < GROUP:
            continue
        now, waiting = frame / FPS, 0
        bits = costs[len(margins) % len(costs)] * (1 - 0.4 * budget.hold) * rng.uniform(0.9, 1.1)
        sent += bits if now > seconds / 2 else 0
        budget.note(round(bits / 8), round(1e9 * now))
        margins.append(budget.hold)
        shares.append(budget.kept)
    return sent / (seconds / 2), margins, shares


@pytest.mark.parametrize("most_hold", [MOST_HOLD, 0.0])
@pytest.mark.parametrize("wanted", [0.9, 0.6, 0.2])
def test_the_asked_rate_is_sent(wanted, most_hold):
    costs = [20_000.0] + [12_000.0] * 19  # a keyframe now and then
    plain = np.mean(costs) * FPS / GROUP
    sent, margins, shares = drive(StreamBudget(most_hold, round(wanted * plain)), 60, costs)
    assert 0.9 * wanted * plain < sent < 1.05 * wanted * plain
    assert max(margins) <= most_hold
    if wanted == 0.9 and most_hold:
        assert np.mean(shares[-100:]) > 0.97  # cheaper tokens are enough
    if wanted == 0.2:
        assert np.mean(margins[-100:]) == most_hold  # frames are left out only where they are not


def test_where_there_is_room_nothing_is_taken_away():
    budget = StreamBudget(MOST_HOLD, 200_000)
    sent, margins, shares = drive(budget, 20, [10_000.0])
    assert set(margins[5:]) == {0.0}  # the first message comes before any time has gone by
    assert max(margins) < 0.1
    assert set(shares) == {1.0}
    assert sent == pytest.approx(75_000, rel=0.1)
    assert budget.spent.recent == pytest.approx(75_000, rel=0.2)


def test_after_a_scene_that_was_too_dear_the_stream_is_whole_again_within_seconds():
    budget = StreamBudget(MOST_HOLD, 64_000)
    drive(budget, 30, [100_000.0])
    assert budget.kept < 0.15
    _, margins, shares = drive(budget, 30, [4_000.0])
    assert margins[-1] == 0.0
    assert shares[-1] == 1.0


@given(
    st.integers(1, 2**31),
    st.sampled_from([0.0, 0.25, MOST_HOLD]),
    st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 60))),
)
def test_whatever_is_sent_margins_and_shares_stay_within_their_bounds(bitrate, most_hold, sent):
    budget, now = StreamBudget(most_hold, bitrate), 0.0
    for nbytes, seconds in sent:
        now += seconds
        budget.note(nbytes, round(1e9 * now))
        assert 0 <= budget.hold <= most_hold
        assert np.float32(budget.hold) == budget.hold
        assert FEWEST * 0.999 <= budget.kept <= 1
        assert np.isfinite([budget.own.debt, budget.own.effort, budget.spent.recent, budget.spent.mean]).all()


@dataclass
class Camera:
    """A real clip, over and over: its messages take what benchmarks/byte_budget.py has recorded."""

    clip: str
    budget: StreamBudget
    frame: int = 0
    first: int = 0  # frame of the group
    kept: int = 0
    keyframe: int = -10_000
    sent: dict[int, int] = field(default_factory=dict)  # bits by second
    margins: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def size(self, keyframe: bool, frames: int) -> float:
        """Between what was recorded with the margins and with the distances of frames next to these."""
        if keyframe:
            return float(SIZES[self.clip][0][0][0])
        sizes = SIZES[self.clip]
        at = [
            [
                own[1 + self.first // (GROUP * stride) % (len(own) - 1)]
                for own, stride in zip(each, RECORDED["strides"], strict=True)
            ]
            for each in sizes
        ]
        by_margin = [np.interp(np.log2(frames / GROUP), np.log2(RECORDED["strides"]), each) for each in at]
        return float(np.interp(self.budget.hold, RECORDED["margins"], by_margin))

    def take(self) -> None:
        """The next frame."""
        due = self.frame - self.keyframe >= KEYFRAME_S * FPS and not self.kept
        self.kept += due or not self.budget.leaves_out()
        if self.kept == (1 if due else GROUP):
            size = round(self.size(due, self.frame + 1 - self.first))
            self.keyframe = self.frame if due else self.keyframe
            second = int(self.frame / FPS)
            self.sent[second] = self.sent.get(second, 0) + 8 * size
            self.budget.note(size, round(self.frame / FPS * 1e9))
            self.margins.append(self.budget.hold)
            self.shares.append(self.budget.kept)
            self.first, self.kept = self.frame + 1, 0
        self.frame += 1

    def rate(self, begin: int, end: int) -> float:
        """Bits per second."""
        return sum(self.sent.get(second, 0) for second in range(begin, end)) / (end - begin)


def plain_rate(clip: str) -> float:
    """Bits per second of a clip without a budget."""
    return 8 * float(np.mean(SIZES[clip][0][0][1:])) * FPS / GROUP


@settings(max_examples=60)
@given(st.sampled_from(sorted(SIZES)), st.floats(0.2, 0.98), st.integers(0, 7))
def test_real_clips_take_what_was_asked_and_the_cheapest_means_first(clip, wanted, start):
    asked = round(wanted * plain_rate(clip))
    camera = Camera(clip, StreamBudget(MOST_HOLD, asked), start * int(FPS), start * int(FPS))
    for _ in range(int(60 * FPS)):
        camera.take()
    assert camera.rate(start, start + 60) == pytest.approx(asked, rel=0.05)  # the first keyframe counts
    assert camera.rate(start + 10, start + 60) == pytest.approx(asked, rel=0.05)
    windows = [camera.rate(at, at + 10) for at in range(start + 10, start + 50)]
    assert 0.75 * asked < min(windows) < max(windows) < 1.25 * asked  # a message or two more or less
    for margin, share in zip(camera.margins, camera.shares, strict=True):
        assert share == 1 or margin == MOST_HOLD
    assert min(camera.shares[:20]) > 0.4 * np.mean(camera.shares[20:])  # the first keyframe starves nothing


@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(SIZES)), min_size=2, max_size=6), st.floats(0.2, 0.95), st.data())
def test_a_rig_keeps_to_one_budget_at_the_same_effort_of_all(clips, wanted, data):
    """Cameras that start, stop and run on clocks of their own; each second's bits are those of all."""
    asked = round(wanted * sum(map(plain_rate, clips)))
    cameras = [Camera(clip, StreamBudget(MOST_HOLD), 60 * n, 60 * n) for n, clip in enumerate(clips)]
    share_budget(asked, [camera.budget for camera in cameras])
    order = data.draw(st.permutations(cameras))
    for _ in range(int(41 * FPS)):
        for camera in order:
            camera.take()
    sent = [camera.rate(2 * n + 11, 2 * n + 41) for n, camera in enumerate(cameras)]
    assert sum(sent) == pytest.approx(asked, rel=0.05)
    assert max(camera.budget.hold for camera in cameras) == min(camera.budget.hold for camera in cameras)


def test_what_a_camera_of_a_rig_leaves_others_get():
    """One ends, one falls silent: the third takes the whole budget."""
    cameras = [Camera("udacity_highway", StreamBudget(MOST_HOLD)) for _ in range(3)]
    asked = round(0.9 * plain_rate("udacity_highway"))
    share_budget(asked, [camera.budget for camera in cameras])
    for frame in range(int(80 * FPS)):
        for camera in cameras[: 3 if frame < 20 * FPS else 1]:
            camera.take()
        if frame == 20 * FPS:
            cameras[1].budget.end()
    assert cameras[0].rate(10, 20) == pytest.approx(asked / 3, rel=0.1)
    assert cameras[0].rate(50, 80) == pytest.approx(asked, rel=0.05)


def test_a_stream_of_a_rig_may_have_a_budget_of_its_own_as_well():
    cameras = [Camera("sam2_cups", StreamBudget(MOST_HOLD, bitrate)) for bitrate in (None, 12_000)]
    share_budget(60_000, [camera.budget for camera in cameras])
    for _ in range(int(41 * FPS)):
        for camera in cameras:
            camera.take()
    assert cameras[1].rate(10, 40) == pytest.approx(12_000, rel=0.05)
    assert cameras[0].rate(10, 40) == pytest.approx(min(48_000, plain_rate("sam2_cups")), rel=0.05)


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


@pytest.mark.parametrize(("given", "bits"), [("64k", 64_000), ("1.5M", 1_500_000), ("800", 800), (9600, 9600)])
def test_bitrates_are_read_as_people_write_them(given, bits):
    stream = {"name": "a", "source": "synthetic:32x48@30"}
    assert load_rig(None, {"streams": [stream | {"bitrate": given}]}).streams[0].bitrate == bits
    for wrong in ("64 kb/s", "-1", 0, "0k"):
        with pytest.raises(SettingsError, match="bitrate"):
            load_rig(None, {"streams": [stream | {"bitrate": wrong}]})


def test_what_a_bitrate_asks_and_costs_is_exported():
    metrics, lane = Metrics(), Lane("a", StreamOptions(bitrate=8000, hold=0.5), group_frames=4)
    copy_totals(metrics, open_source("synthetic:32x48@30?frames=1", "a"), lane)
    names = ("bitrate_asked", "encoded_share", "hold_margin", "hold_noise_db", "bitrate_sent")
    assert [metrics.gauge_value(name, "a", -1.0) for name in names] == [8000, 1, 0, 0, 0]
