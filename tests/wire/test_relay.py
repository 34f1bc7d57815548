"""The relay: what passes it, and what its readers and its origin may do to it."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from streamtok.bench.soak.link import BreakableLink
from streamtok.wire import arrivals, keyframes
from streamtok.wire.control import MAX_EPOCH, ControlClient, ControlError
from streamtok.wire.message import pack
from streamtok.wire.publisher import Publisher
from streamtok.wire.relay import Relay
from streamtok.wire.subscriber import subscribe
from tests.kit.wire import Served, SetClock, eventually, make_group, make_info


class Relaying:
    """A relay with its own thread, as `subscribe --forward` runs it."""

    def __init__(self, endpoint: str, **options: Any) -> None:
        self._stop = threading.Event()
        self.endpoint = ""
        self._thread = threading.Thread(target=self._run, args=[endpoint], kwargs={"join": "epoch"} | options)
        self._thread.start()
        assert eventually(lambda: self.endpoint)

    def __enter__(self) -> "Relaying":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self, endpoint: str, **options: Any) -> None:
        with subscribe(endpoint, **options) as origin, Publisher("tcp://127.0.0.1:*", node="relay") as publisher:
            self.relay = Relay(origin, publisher)
            self.endpoint = publisher.endpoint
            while not self._stop.is_set():
                self.relay.get(0.01)
            self.relay.keyframes.finish_log()


def test_a_relay_passes_everything_on_unchanged():
    with Served("front", "rear") as node:
        node.publish(*[make_group(number) for number in range(10)])
        with (
            Relaying(node.endpoint) as relaying,
            subscribe(node.endpoint, timeout=60) as near,
            subscribe(relaying.endpoint, ["front"], join="epoch", timeout=60) as far,
        ):
            node.wait_subscribers(2)
            assert eventually(lambda: relaying.relay.counts["forwarded"] == 2)
            far.info("front")
            node.publish(*[make_group(number) for number in range(10, 14)])
            wanted = {message.header.seq: message for message in islice(near, 4)}
            got = list(islice(far, 6))
            assert [message.header.seq for message in got] == list(range(8, 14))
            assert all(message.decodable for message in got)
            for message in got[2:]:
                assert [bytes(part) for part in message.parts] == [bytes(p) for p in wanted[message.header.seq].parts]
            origin, passed = near.info("front"), far.info("front")
            assert (passed.session, passed.node, passed.tokenizer) == (origin.session, "node", origin.tokenizer)
            assert passed.control not in (None, origin.control)
            far.request_keyframe("front")
            assert eventually(lambda: "keyframe" in {event.kind for event in node.events})


def test_a_relay_passes_a_clock_that_was_set_before_the_next_message():
    clock = SetClock()
    with (
        Served("front", clock_pair=clock.read) as node,
        Relaying(node.endpoint) as relaying,
        subscribe(relaying.endpoint) as far,
    ):
        far.info("front", timeout=60)
        node.do(clock.publish)
        assert [far.get(60).info.clock for _ in range(4)] == clock.pairs


@pytest.mark.parametrize("join", ["keyframe", "epoch"])
@pytest.mark.parametrize(("first", "published"), [(8, 12), (9, 9)])
def test_a_relay_that_comes_in_the_middle_of_a_stream_is_read_from_its_first_message(first, published, join):
    """Its readers wait already. It fetches the epoch, slowly, or begins amid one that its origin has not kept."""
    options = {"max_epoch_bytes": MAX_EPOCH if first == 8 else 1, "stats": lambda: {"slept": time.sleep(1)}}
    with Served("front", **options) as node, BreakableLink(node.endpoint) as link:
        node.publish(*[make_group(number) for number in range(published)])
        link.cut()
        with Relaying(link.endpoint) as relaying, subscribe(relaying.endpoint, join=join, timeout=60) as far:
            assert eventually(lambda: far.connected)
            with ControlClient(node.publisher.control_endpoint) as client, pytest.raises(TimeoutError):
                client.request("stats", timeout=0.1)
            link.restore()
            far.info("front", timeout=60)
            node.publish(*[make_group(number) for number in range(published, 18)])
            assert [message.header.seq for message in islice(far, 18 - first)] == list(range(first, 18))
            counts = far.counts()["front"]
            assert (counts["stale"], counts["lost"], counts["undecodable"]) == (0, 0, 0 if first == 8 else 7)


@pytest.mark.parametrize("options", [{}, {"join": "keyframe"}, {"join": "keyframe", "latest_only": True}])
def test_a_stream_that_stands_still_or_has_ended_is_known_behind_a_relay_that_comes_later(options):
    with Served("front", max_epoch_bytes=1) as node:
        node.publish(make_group(0))
        with (
            Relaying(node.endpoint, **options) as relaying,
            subscribe(relaying.endpoint, ["front"], until_end=True, timeout=60) as far,
        ):
            far.info("front")
            far.request_keyframe("front")
            assert eventually(lambda: "keyframe" in {event.kind for event in node.events})
            node.close()
            assert list(far) == []


def test_an_origin_that_does_not_answer_delays_no_message_of_a_relay(monkeypatch):
    monkeypatch.setattr(keyframes, "TIMEOUT_S", 60)
    answering = threading.Event()
    with (
        Served("front", stats=lambda: {"waited": answering.wait(60)}) as node,
        subscribe(node.endpoint) as near,
        Relaying(node.endpoint) as relaying,
        subscribe(relaying.endpoint, timeout=60) as far,
        near.control("front") as client,
    ):
        with pytest.raises(TimeoutError):
            client.request("stats", timeout=0.1)
        far.info("front")
        for number in range(4):
            far.request_keyframe("front")
            node.publish(make_group(number))
            assert next(far).header.seq == number
        answering.set()
        assert eventually(lambda: "keyframe" in {event.kind for event in node.events})


def test_a_relay_says_once_in_ten_seconds_that_its_origin_makes_no_keyframes(caplog):
    streams = [f"camera{number}" for number in range(9)]
    with (
        Served(*streams, control="") as node,
        Relaying(node.endpoint) as relaying,
        subscribe(relaying.endpoint) as far,
    ):
        for stream in streams:
            far.info(stream)
            far.request_keyframe(stream)
        assert eventually(lambda: relaying.relay.keyframes.failed == 9)
        assert caplog.text.count("event=keyframe_failed") == 1
    assert "event=keyframe_failed requests=8" in caplog.text


def test_a_size_that_changes_passes_a_relay(monkeypatch):
    monkeypatch.setattr(arrivals, "BACK_S", 0.0)  # no jump is asked for again
    with (
        Served("front") as node,
        Relaying(node.endpoint) as relaying,
        subscribe(relaying.endpoint, lossless=True, timeout=60) as far,
    ):
        node.wait_subscribers(1)
        far.info("front")
        node.publish(make_group(0))
        assert next(far).header.grid == [4, 6]
        for number, grid in enumerate(([4, 8], [6, 4], [4, 6]), 1):
            node.do(lambda publisher, grid=grid: publisher.add_stream(make_info(grid=grid)))
            node.publish(make_group(8 * number, tokens=np.zeros(grid, np.uint16)))
        assert [message.header.grid for message in islice(far, 3)] == [[4, 8], [6, 4], [4, 6]]
        assert far.missing == sum(far.rejects.counts.values()) == 0


def test_an_origin_that_restarts_with_another_size_loses_no_message_behind_a_relay(ipc_path):
    """The connection to the relay stays, so that the new session has to be confirmed, by messages of the new size."""
    with Relaying(f"ipc://{ipc_path}") as relaying, subscribe(relaying.endpoint, timeout=60) as far:
        for grid in ([4, 6], [6, 8]):
            with Served("other", bind=f"ipc://{ipc_path}") as node:
                node.wait_subscribers(1)
                node.do(lambda publisher, grid=grid: publisher.add_stream(make_info(grid=grid)))
                tokens = np.zeros(grid, np.uint16)
                node.publish(*[make_group(number, interval=1000, tokens=tokens) for number in range(4)])
                messages = list(islice(far, 4))
                assert [message.header.seq for message in messages] == [0, 1, 2, 3]
                assert all(message.decodable and message.header.grid == grid for message in messages)
        assert sum(far.rejects.counts.values()) == 0


def test_a_keyframe_that_comes_before_its_info_passes_a_relay_with_it(context):
    """A node sends it to a reader whose subscription it has not read yet. Of a session without info nothing passes."""
    with Served("other") as maker, subscribe(maker.endpoint, timeout=20) as near:
        maker.do(lambda publisher: publisher.add_stream(make_info()))
        maker.wait_subscribers(1)
        maker.publish(*[make_group(number) for number in range(3)])
        messages, info = list(islice(near, 3)), near.info("front")
    socket = context.socket(zmq.XPUB)
    socket.linger = 0
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    with Relaying(f"tcp://127.0.0.1:{port}") as relaying, subscribe(relaying.endpoint, timeout=20) as far:

        def send(session: str, seqs: Sequence[int]) -> None:
            for message in [messages[seq] for seq in seqs]:
                header = msgspec.structs.replace(message.header, session=session * 32)
                socket.send_multipart(pack(header, message.payload))

        def send_info(session: str) -> None:
            news = msgspec.structs.replace(info, session=session * 32, control=None, last_seq=0, epoch=0)
            socket.send_multipart(pack(news))

        assert eventually(lambda: far.connected)
        while not socket.recv().startswith(b"\x01info/"):
            pass
        send("a", [0])
        assert eventually(lambda: relaying.relay.counts["no_info"] == 1)
        send_info("a")
        first = next(far)
        send("a", [1, 2])
        assert [(m.header.seq, m.decodable) for m in (first, *islice(far, 2))] == [(n, True) for n in range(3)]
        send("b", [0, 1])
        assert eventually(lambda: relaying.relay.counts["no_info"] == 2)
        send("c", [0])
        send_info("c")
        last = next(far)
        assert (last.header.session, last.header.seq, last.decodable) == ("c" * 32, 0, True)
        assert eventually(lambda: relaying.relay.counts == {"forwarded": 4, "no_info": 2})


def test_a_relay_whose_output_nobody_reads_goes_on(ipc_path):
    command = [sys.executable, "-m", "streamtok.cli", "subscribe"]
    with Served("front") as node, subscribe(f"ipc://{ipc_path}", timeout=60) as far:
        options = [node.endpoint, "--forward", far.endpoint]
        with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as relay:
            far.info("front", timeout=60)
            for number in range(800):
                node.publish(make_group(number))
                assert next(far).header.seq == number
            relay.terminate()
            assert "front: messages 800" in relay.communicate(timeout=60)[0]


def test_an_epoch_with_a_hole_is_not_kept():
    with Served("front") as node, subscribe(node.endpoint, timeout=60) as near:
        node.wait_subscribers(1)
        node.publish(*[make_group(number) for number in range(10)])
        messages = {message.header.seq: message for message in islice(near, 10)}
        with Served("other") as relay:
            relay.do(lambda publisher: publisher.forward_info(near.info("front"), -1))
            for kept, seqs in ((True, (0, 1)), (False, (3,)), (True, (8, 9))):
                relay.do(lambda publisher, seqs=seqs: [publisher.forward(messages[seq]) for seq in seqs])
                with ControlClient(relay.publisher.control_endpoint) as client:
                    if kept:
                        assert len(client.request("epoch", "front", 20).messages) == 2
                        continue
                    with pytest.raises(ControlError, match="not kept"):
                        client.request("epoch", "front", 20)
