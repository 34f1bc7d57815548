"""examples/policy.py against a publisher of two cameras."""

import argparse
import importlib.util
import math
import re
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from streamtok.wire.subscriber import subscribe
from tests.kit.threads import beside
from tests.kit.wire import Served, eventually, make_group, make_info

SPEC = importlib.util.spec_from_file_location("policy_example", Path(__file__).parents[2] / "examples" / "policy.py")
policy = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(policy)


def publish_live(node: Served, streams: list[str], stop: threading.Event) -> None:
    """Groups with capture times of now, until told to stop."""
    number = 0
    while not stop.is_set():
        now_ns, frames = time.monotonic_ns(), len(make_group(number, interval=1000).frame_ids)
        times = [now_ns - 1000 * age for age in reversed(range(frames))]
        node.publish(*(make_group(number, stream, interval=1000, capture_ns=times) for stream in streams))
        number += 1
        stop.wait(0.02)


@pytest.fixture
def cameras():
    """A node with two cameras that publish all the time."""
    stop = threading.Event()
    with Served("front", "left") as node, beside(publish_live, node, ["front", "left"], stop):
        yield node
        stop.set()


def test_the_policy_acts_on_both_cameras_at_its_rate(cameras, capsys):
    arguments = ["--stream", "front", "--stream", "left", "--rate", "20"]
    arguments += ["--steps", "4", "--ticks", "20", "--max-age", "30"]
    assert policy.main([cameras.endpoint, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [str(tick) for tick in range(20)]
    acted = [line for line in lines if re.search(r"steering [+-]0\.\d+ acceleration [+-]0\.\d+ cameras 2", line)]
    assert acted, lines


def test_the_policy_holds_when_the_pictures_are_old(cameras, capsys):
    arguments = ["--stream", "front", "--stream", "left", "--rate", "20", "--ticks", "5", "--max-age", "0"]
    assert policy.main([cameras.endpoint, *arguments]) == 0
    assert all("hold" in line for line in capsys.readouterr().out.splitlines())


def test_a_policy_slower_than_its_period_acts_on_the_newest_step(monkeypatch, capsys):
    acted_on, arrived = [], []

    class SlowPolicy(policy.Policy):
        """Three more groups have arrived by the time it is done."""

        def forward(self, tokens, valid):
            acted_on.append(int(tokens[0, -1].max()))
            first = arrived[-1] + 1
            node.publish(*[make_group(number, interval=1000) for number in range(first, first + 3)])
            arrived.append(first + 2)
            assert eventually(lambda: reader.counts()["front"]["messages"] == first + 3)
            return super().forward(tokens, valid)

    monkeypatch.setattr(policy, "Policy", SlowPolicy)
    options = {"cameras": ["front"], "rate": 1e6, "steps": 4, "max_skew": 0.05, "max_age": math.inf, "ticks": 6}
    with Served("front") as node, subscribe(node.endpoint, ["front"], join="epoch") as reader:
        node.wait_subscribers(1)
        node.publish(make_group(0, interval=1000), make_group(1, interval=1000))
        arrived.append(1)
        assert eventually(lambda: reader.counts().get("front", {}).get("messages") == 2)
        policy.run(argparse.Namespace(**options), reader)
    assert capsys.readouterr().out.count("steering") == 6
    # a message is counted just before it can be read, so the very last one may be missing
    assert all(number >= newest - 1 for number, newest in zip(acted_on, arrived, strict=False)), (acted_on, arrived)
    assert all(earlier < later for earlier, later in pairwise(acted_on))


def test_tokens_of_another_tokenizer_are_not_acted_on(cameras, capsys, monkeypatch):
    """A node that starts again with another model: its tokens mean something else. Ticks count on meanwhile."""
    policy_ticks = iter(range(6))
    monkeypatch.setattr(policy.itertools, "count", lambda: policy_ticks)
    cameras.do(lambda publisher: publisher.add_stream(make_info("late", tokenizer="other")))
    stop, arguments = threading.Event(), ["--stream", "late", "--rate", "20"]
    monkeypatch.setattr(policy, "describe", lambda reader, names: make_info("late"))
    with beside(publish_live, cameras, ["late"], stop):
        assert policy.main([cameras.endpoint, *arguments]) == 0
        stop.set()
    assert [line.split(" late")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"tick {tick} hold: no tokens yet" for tick in range(6)
    ]


def test_one_wrong_clock_is_forgotten(monkeypatch):
    now = [10**15]
    monkeypatch.setattr(policy.time, "monotonic_ns", lambda: now[0])
    freshness = policy.Freshness()
    freshness.note(make_info(session="a" * 32, clock=(2 * now[0], 0)))
    assert freshness.age(now[0], "a" * 32) > 10**5
    for _ in range(policy.OFFSETS):
        now[0] += 10**9
        freshness.note(make_info(session="a" * 32, clock=(now[0], 0)))
    assert freshness.age(now[0], "a" * 32) == 0


def test_two_tokenizers_are_refused(capsys):
    with Served("front") as node:
        node.do(lambda publisher: publisher.add_stream(make_info("left", tokenizer="other")))
        assert policy.main([node.endpoint, "--stream", "front", "--stream", "left", "--ticks", "1"]) == 1
    assert "different tokenizers" in capsys.readouterr().err


def test_what_is_not_valid_does_not_change_the_action():
    torch.manual_seed(0)
    model = policy.Policy([8, 8, 8, 5, 5, 5], 2)
    tokens = torch.randint(0, 64000, (2, 4, 4, 6), dtype=torch.int32)
    valid = torch.tensor([[True] * 4, [False] * 4])
    changed = tokens.clone()
    changed[1] = 0
    assert torch.equal(model(tokens, valid), model(changed, valid))
    assert not torch.equal(model(tokens, valid), model(tokens, ~valid))


@pytest.mark.parametrize("uptime_s", [-99_989, 0, 99_989])
def test_a_frozen_picture_is_old_on_any_clock_and_a_fresh_one_is_not(uptime_s, monkeypatch):
    """The node's clock is ahead of ours or behind by a day: it has more uptime, or less."""
    now = [10**15]
    monkeypatch.setattr(policy.time, "monotonic_ns", lambda: now[0])
    freshness, theirs = policy.Freshness(), lambda: now[0] + uptime_s * 10**9
    for _ in range(50):
        now[0] += 10**8
        freshness.note(make_info(session="a" * 32, clock=(theirs(), 0)))
        assert freshness.age(theirs() - 5 * 10**7, "a" * 32) == pytest.approx(0.05)
    frozen = theirs() - 5 * 10**7
    for _ in range(50):
        now[0] += 10**8
        freshness.note(make_info(session="a" * 32, clock=(theirs(), 0)))
        age = freshness.age(frozen, "a" * 32)
    assert age == pytest.approx(5.05)
    assert freshness.age(theirs() + 10**10, "a" * 32) < 0


def test_a_clock_that_says_what_it_likes_does_not_make_a_frozen_picture_fresh(monkeypatch):
    now = [10**15]
    monkeypatch.setattr(policy.time, "monotonic_ns", lambda: now[0])
    freshness = policy.Freshness()
    freshness.note(make_info(session="a" * 32, clock=(77, 0)))
    freshness.age(77, "a" * 32)
    now[0] += 3 * 10**9
    freshness.note(make_info(session="b" * 32, clock=(77, 0)))
    assert freshness.age(77, "b" * 32) == pytest.approx(3)
