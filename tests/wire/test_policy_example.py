"""examples/policy.py against a publisher of two cameras."""

import importlib.util
import re
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.wire.wirekit import Served, make_group, make_info

SPEC = importlib.util.spec_from_file_location("policy_example", Path(__file__).parents[2] / "examples" / "policy.py")
policy = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(policy)


def publish_live(node: Served, streams: list[str], stop: threading.Event) -> None:
    """Groups with capture times of now, until told to stop."""
    number = 0
    while not stop.is_set():
        for stream in streams:
            group = make_group(number, stream=stream, interval=1000)
            times = [time.monotonic_ns() - 1000 * age for age in range(len(group.frame_ids))]
            node.publish(make_group(number, stream=stream, interval=1000, capture_ns=sorted(times)))
        number += 1
        stop.wait(0.02)


@pytest.fixture
def cameras():
    """A node with two cameras that publish all the time."""
    stop = threading.Event()
    with Served("front", "left") as node:
        thread = threading.Thread(target=publish_live, args=[node, ["front", "left"], stop])
        thread.start()
        yield node
        stop.set()
        thread.join()


def test_the_policy_acts_on_both_cameras_at_its_rate(cameras, capsys):
    arguments = [
        "--stream",
        "front",
        "--stream",
        "left",
        "--rate",
        "20",
        "--steps",
        "4",
        "--ticks",
        "20",
        "--max-age",
        "30",
    ]
    assert policy.main([cameras.endpoint, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [str(tick) for tick in range(20)]
    acted = [line for line in lines if re.search(r"steering [+-]0\.\d+ acceleration [+-]0\.\d+ cameras 2", line)]
    assert acted, lines


def test_the_policy_holds_when_the_pictures_are_old(cameras, capsys):
    arguments = ["--stream", "front", "--stream", "left", "--rate", "20", "--ticks", "5", "--max-age", "0"]
    assert policy.main([cameras.endpoint, *arguments]) == 0
    assert all("hold" in line for line in capsys.readouterr().out.splitlines())


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
