"""A link that loses messages: by its pattern and no other, and its readers get right tokens or are told."""

import numpy as np
import pytest

from benchmarks.lossy import LossPattern, LossyLink
from streamtok.coding.coder import save_coder
from streamtok.node.live_decoder import LiveDecoder
from streamtok.wire.subscriber import subscribe
from tests.kit.coders import draw_grids, make_coder
from tests.kit.models import VIDEO, build
from tests.kit.wire import GRID, Served, make_group, make_info

COUNT = 5000


@pytest.mark.parametrize(("loss", "burst", "late"), [(0.0, 1, 0.0), (0.05, 1, 0.0), (0.2, 1, 0.1), (0.1, 4, 0.0)])
def test_a_pattern_loses_and_delays_what_it_says_and_the_same_each_time(loss, burst, late):
    runs = [LossPattern[int](loss, burst, late, seed=seed) for seed in (1, 1, 2)]
    came = [[number for item in range(COUNT) for number in run.pass_on(item)] for run in runs]
    assert came[0] == came[1]
    assert (came[0] == came[2]) == (loss == late == 0)
    assert len(came[0]) == pytest.approx(COUNT - runs[0].lost, abs=3)  # the last may still be held
    assert runs[0].lost == pytest.approx(loss * COUNT, rel=0.2)
    gaps = np.diff(np.sort(came[0])) - 1
    assert gaps[gaps > 0].mean() == pytest.approx(burst / (1 - loss if burst == 1 else 1), rel=0.2) if loss else True
    moved = np.flatnonzero(np.diff(came[0]) < 0)
    assert len(moved) == pytest.approx(late * (1 - loss) * COUNT, rel=0.2)


def test_what_a_link_does_not_lose_arrives_also_where_a_reader_waits_to_ask_for_what_was_lost():
    """It has just connected, so it would ask the node for the epoch; until it hears whom to ask, it holds back."""
    pattern = LossPattern[int](0.1, seed=1)
    expected = [number for number in range(60) for _ in pattern.pass_on(number) if number < 50]
    with (
        Served(lossless=True, control="") as node,
        LossyLink(node.endpoint, LossPattern(0.1, seed=1)) as link,
        subscribe(link.endpoint, timeout=60) as reader,
    ):
        node.wait_subscribers(1)
        node.publish(*(make_group(number, interval=100) for number in range(60)))
        assert [next(reader).header.seq for _ in expected] == expected


@pytest.mark.parametrize("compression", ["none", "independent", "coded"])
def test_over_a_lossy_link_readers_get_the_right_tokens_or_are_told(tmp_path, compression):
    """And a decoder that goes on across losses shows every grid that can be read, once it has begun."""
    tokenizer = build(VIDEO)
    coder, facts = make_coder(VIDEO.levels, tokenizer.fingerprint), {"levels": list(VIDEO.levels)}
    save_coder(coder, tmp_path)
    grids = draw_grids(coder, 40, (GRID[0], GRID[1]))
    sent = "none" if compression == "none" else "coded"
    info = make_info(tokenizer=tokenizer.fingerprint, compression=sent, **facts)
    strict, goes_on = LiveDecoder(tokenizer), LiveDecoder(tokenizer, across_losses=True)
    with Served(compression=compression, coder=coder, lossless=True, control="") as node:  # nobody can ask
        node.do(lambda publisher: publisher.add_stream(info))
        with (
            LossyLink(node.endpoint, LossPattern(0.1, late=0.1, seed=3)) as link,
            subscribe(link.endpoint, timeout=60, coders=[tmp_path]) as reader,
        ):
            node.wait_subscribers(1)
            node.publish(*(make_group(number, interval=10, tokens=grids[number]) for number in range(40)))
            messages = []
            while not messages or messages[-1].header.seq < 36:
                messages.append(next(reader))
            assert link.pattern.lost > 1
            assert link.pattern.delayed > 1
    assert [m.header.seq for m in messages] == sorted({m.header.seq for m in messages})
    assert len(messages) < 37
    for message in messages:
        if not message.unreadable:
            assert np.array_equal(message.tokens, grids[message.header.seq])
        assert bool(message.unreadable) == (compression == "coded" and not message.decodable)
        exact, shown = strict.feed(message), goes_on.feed(message)
        assert bool(exact) == message.decodable
        assert len(shown) >= len(exact)
    begun = next(place for place, message in enumerate(messages) if message.header.keyframe)
    readable = sum(not message.unreadable for message in messages[begun:])
    assert len(messages) - goes_on.counts["skipped"] == readable
    assert (goes_on.counts["pictures"] > strict.counts["pictures"]) == (compression != "coded")
