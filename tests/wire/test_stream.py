"""Publisher and subscriber over real sockets."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice

import msgspec
import numpy as np
import pytest
import zmq

from streamtok.bench.soak.link import BreakableLink
from streamtok.types import Frame
from streamtok.wire import arrivals, connection, drain, guard, intake, streams
from streamtok.wire.arrivals import KINDS
from streamtok.wire.control import ControlClient, ControlError
from streamtok.wire.message import FrameMessage, pack, unpack, unpack_frame, unpack_info, unpack_status
from streamtok.wire.publisher import Publisher, ReaderTooSlow
from streamtok.wire.subscriber import subscribe
from streamtok.wire.tcp import EVERYTHING, attach_filter
from tests.kit.ports import keep_port
from tests.kit.threads import beside
from tests.kit.wire import Served, SetClock, eventually, make_group, make_info
from tests.kit.zmtp import frame, shake_hands


def sequence(messages) -> list[int]:
    return [message.header.seq for message in messages]


def test_every_message_arrives_in_order_with_its_tokens():
    with Served("front") as node, subscribe(node.endpoint, ["front"], timeout=60) as reader:
        node.wait_subscribers(1)
        groups = [make_group(number) for number in range(20)]
        node.publish(*groups)
        for seq, (message, group) in enumerate(zip(islice(reader, 20), groups, strict=True)):
            header = message.header
            assert (header.seq, header.epoch, header.keyframe) == (seq, group.epoch, group.keyframe)
            assert (header.frame_ids, header.capture_ns) == (group.frame_ids, group.capture_ns)
            assert np.array_equal(message.tokens, group.tokens)
            assert message.decodable
        counts = reader.counts()["front"]
        assert (counts["messages"], counts["keyframes"], counts["lost"], counts["discarded"]) == (20, 3, 0, 0)


@pytest.mark.parametrize(
    ("dtype", "grid", "levels"),
    [("float16", [16, 4, 6], []), ("uint16", [3, 4, 6], [8, 8]), ("uint32", [4, 6], [1024, 1024])],
)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_kind_of_grid_arrives_bit_for_bit(dtype, grid, levels, compression):
    if compression == "zstd":
        pytest.importorskip("zstandard")
    tokens = np.random.default_rng(0).integers(0, 64, grid).astype(dtype)
    with Served("other") as node, subscribe(node.endpoint, ["front"], timeout=60) as reader:
        info = make_info("front", dtype=dtype, grid=grid, levels=levels, compression=compression)
        node.do(lambda publisher: publisher.add_stream(info))
        node.wait_subscribers(1)
        node.publish(make_group(0, tokens=tokens))
        message = next(reader)
        assert message.tokens.dtype == tokens.dtype
        assert message.tokens.tobytes() == tokens.tobytes()


def test_a_stream_is_not_announced_with_a_compression_that_cannot_be_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with Publisher("tcp://127.0.0.1:*") as publisher:
        with pytest.raises(ImportError, match="pip install 'zstandard"):
            publisher.add_stream(make_info(compression="zstd"))
        publisher.add_stream(make_info())


def test_a_name_that_begins_another_does_not_deliver_both():
    with Served("front", "front_left") as node, subscribe(node.endpoint, ["front"], timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(make_group(0, stream="front_left"), make_group(0), make_group(1))
        assert [message.stream for message in islice(reader, 2)] == ["front", "front"]
        assert list(reader.counts()) == ["front"]
        assert reader.rejects.counts.total() == 0


def test_info_comes_on_joining_and_every_second_with_the_clock():
    with Served("front") as node:
        node.publish(make_group(0), make_group(1))
        with subscribe(node.endpoint) as reader:
            first = reader.info("front")
            assert first.last_seq == 1
            assert first.control == node.publisher.control_endpoint
            assert first.session == node.publisher.session
            assert eventually(lambda: reader.infos["front"].clock > first.clock)
            monotonic, utc = first.clock
            offset = time.time_ns() - time.monotonic_ns()
            assert abs((utc - monotonic) - offset) < 1_000_000_000


def test_no_message_comes_before_the_clock_that_its_times_need():
    """Although the system clock was set just before it was sent."""
    clock = SetClock()
    with Served(clock_pair=clock.read) as node, subscribe(node.endpoint) as reader:
        reader.info("front")
        node.do(clock.publish)
        assert [reader.get(60).info.clock for _ in range(4)] == clock.pairs


def test_each_of_two_equal_subscriptions_gets_info():
    """Without XPUB_VERBOSER the publisher would not see the second one."""
    with Served("front") as node, subscribe(node.endpoint) as one:
        one.info("front")
        with subscribe(node.endpoint) as two:
            two.info("front")
            node.wait_subscribers(2)
        assert eventually(lambda: node.do(lambda publisher: publisher.subscribers("front")) == 1)


def test_subscribers_are_counted_by_any_matching_prefix(context):
    with Served("front", "rear") as node:
        sockets = []
        for prefix in (b"", b"tokens/", b"tokens/front", b"tokens/front_left", b"info/", b"tokens/rear"):
            socket = context.socket(zmq.SUB)
            socket.subscribe(prefix)
            socket.connect(node.endpoint)
            sockets.append(socket)
        assert eventually(lambda: node.do(lambda publisher: publisher.subscribers("front")) == 3)
        assert eventually(lambda: node.do(lambda publisher: publisher.subscribers()) == 4)
        for socket in sockets:
            socket.close(0)
        assert eventually(lambda: node.do(lambda publisher: publisher.subscribers()) == 0)


def test_wait_subscribers_holds_until_enough_have_joined():
    with Publisher("tcp://127.0.0.1:*") as publisher:
        publisher.add_stream(make_info())
        assert not publisher.wait_subscribers(1, timeout=0.05)
        with subscribe(publisher.endpoint, ["front"]):
            assert publisher.wait_subscribers(1, timeout=60)


def test_readers_are_counted_before_a_stream_is_announced():
    with Publisher("tcp://127.0.0.1:*") as publisher, subscribe(publisher.endpoint, ["front"]):
        assert publisher.wait_subscribers(1, timeout=60)
        publisher.add_stream(make_info("rear"))
        assert publisher.subscribers() == 0
        publisher.add_stream(make_info("front"))
        assert publisher.subscribers() == 1


def test_late_join_by_epoch_gives_the_whole_epoch_then_live():
    with Served("front") as node:
        node.publish(*[make_group(number) for number in range(12)])
        with subscribe(node.endpoint, join="epoch", timeout=60) as reader:
            node.wait_subscribers(1)
            reader.info("front")
            node.publish(*[make_group(number) for number in range(12, 18)])
            messages = list(islice(reader, 10))
            assert not node.events or {event.kind for event in node.events} == {"joined"}
        assert sequence(messages) == list(range(8, 18))
        assert all(message.decodable for message in messages)
        assert all(message.catch_up for message in messages[:4])


def test_late_join_without_asking_waits_for_the_keyframe():
    with Served("front") as node:
        node.publish(*[make_group(number) for number in range(5)])
        with subscribe(node.endpoint, timeout=60) as reader:
            node.wait_subscribers(1)
            node.publish(*[make_group(number) for number in range(5, 10)])
            messages = list(islice(reader, 5))
            assert reader.counts()["front"]["undecodable"] == 3
        assert [message.decodable for message in messages] == [False, False, False, True, True]
        assert all(message.lost == 0 and not message.catch_up for message in messages)


def test_joining_by_epoch_goes_on_without_a_control_socket_or_before_the_first_message():
    with Served("front", control="") as node:
        node.publish(make_group(0), make_group(1))
        with subscribe(node.endpoint, join="epoch", timeout=60) as reader:
            node.wait_subscribers(1)
            reader.info("front")
            node.publish(make_group(2), make_group(8))
            assert [message.decodable for message in islice(reader, 2)] == [False, True]
    with Served("front") as node, subscribe(node.endpoint, join="epoch", timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(make_group(0))
        assert next(reader).decodable


def test_a_restarted_node_is_a_new_session_and_no_loss(ipc_path):
    with subscribe(f"ipc://{ipc_path}", timeout=60) as reader:
        for _ in range(2):
            with Served("front", bind=f"ipc://{ipc_path}") as node:
                node.wait_subscribers(1)
                node.publish(make_group(0), make_group(1))
                assert sequence(islice(reader, 2)) == [0, 1]
        counts = reader.counts()["front"]
        assert (counts["sessions"], counts["lost"], counts["messages"]) == (2, 0, 4)


@pytest.mark.parametrize("join", ["keyframe", "epoch"])
def test_a_node_that_comes_while_the_reader_waits_is_read_from_its_start(join, ipc_path, monkeypatch, caplog):
    monkeypatch.setattr(connection, "SILENCE_S", 0.1)
    with subscribe(f"ipc://{ipc_path}", join=join, timeout=60) as reader:
        assert eventually(lambda: "event=waiting" in caplog.text)
        for session in range(3):
            with Served("front", bind=f"ipc://{ipc_path}") as node:
                node.publish(*[make_group(number) for number in range(5)])
                node.wait_subscribers(1)
                node.publish(make_group(5))
                messages = list(islice(reader, 6))
            assert sequence(messages) == list(range(6)), session
            assert all(message.decodable for message in messages)
        counts = reader.counts()["front"]
        assert (counts["sessions"], counts["lost"], counts["undecodable"]) == (3, 0, 0)


def test_the_newest_message_is_not_held_back_when_a_node_comes_back(ipc_path):
    with subscribe(f"ipc://{ipc_path}", latest_only=True, timeout=60) as reader:
        for _ in range(2):
            with Served("front", bind=f"ipc://{ipc_path}") as node:
                node.publish(make_group(0), make_group(1))
                node.wait_subscribers(1)
                node.publish(make_group(2))
                message = next(message for message in reader if message.header.seq == 2)
                assert not message.catch_up


@pytest.mark.parametrize("join", ["keyframe", "epoch"])
@pytest.mark.parametrize("outage", ["cut", "freeze"])
def test_what_an_outage_has_cost_is_fetched_as_long_as_the_epoch_is_kept(outage, join, monkeypatch):
    monkeypatch.setattr(intake, "SILENT_S", 1.5)
    monkeypatch.setattr(arrivals, "BACK_S", 60)
    with (
        Served("front") as node,
        BreakableLink(node.endpoint) as link,
        subscribe(link.endpoint, join=join, timeout=60) as reader,
    ):
        node.wait_subscribers(1)
        node.publish(make_group(0, interval=100), make_group(1, interval=100))
        messages = list(islice(reader, 2))
        getattr(link, outage)()
        assert eventually(lambda: not reader.connected)
        node.publish(*[make_group(number, interval=100) for number in range(2, 90)])  # more than waits for a reader
        link.restore()
        node.wait_subscribers(1)
        node.publish(make_group(90, interval=100))
        messages += list(islice(reader, 89))
        assert sequence(messages) == list(range(91))
        assert all(message.decodable and message.lost == 0 for message in messages)
        assert reader.counts()["front"]["stale"] == 0


def test_a_reader_of_a_node_that_came_late_is_no_more_patient():
    """How long a node took to come says nothing of how long it may be silent: a link that hangs is soon left."""
    with keep_port() as port, subscribe(f"tcp://127.0.0.1:{port}", timeout=60) as reader:
        time.sleep(3)
        with Served("front", bind=f"tcp://127.0.0.1:{port}") as node:
            node.wait_subscribers(1)
            node.publish(make_group(0))
            assert next(reader).decodable
            assert reader._drain._silence.patience < intake.PATIENCE * 3


def test_a_node_that_is_busy_for_long_is_not_left_for_it(monkeypatch):
    """What it sends while a reader connects anew is lost if it lies before a keyframe."""
    monkeypatch.setattr(intake, "SILENT_S", 0.5)
    monkeypatch.setattr(intake, "PATIENCE", 0)
    monkeypatch.setattr(drain, "BUSY", 40)
    with Served("front") as node, subscribe(node.endpoint, timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(*[make_group(number) for number in range(6)])

        def step(publisher):
            time.sleep(3)
            for number in range(6, 10):  # a keyframe among them
                publisher.publish(make_group(number))

        node.do(step)
        node.publish(make_group(10), make_group(11))  # and the node looks at its readers meanwhile
        assert sequence(islice(reader, 12)) == list(range(12))
        assert [event.kind for event in node.events] == ["joined"]


def test_a_link_that_hangs_is_left_although_nobody_is_told(monkeypatch):
    monkeypatch.setattr(intake, "SILENT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, subscribe(endpoint_of(server), timeout=60):
        server.settimeout(60)
        publisher = shake_hands(server.accept()[0], b"PUB")
        publisher.sendall(b"".join(frame(bytes(part), more=place < 2) for place, part in enumerate(pack(make_info()))))
        attach_filter(publisher, EVERYTHING)
        assert server.accept()


def endpoint_of(server):
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_a_tail_that_is_lost_shows_in_info():
    """Nothing follows the lost messages, so only `last_seq` can tell."""
    with Served("front") as node, subscribe(node.endpoint, timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(make_group(0))
        next(reader)

        def lose(publisher):
            state = publisher._table.get("front")
            state.info = msgspec.structs.replace(state.info, last_seq=3)

        node.do(lose)
        assert eventually(lambda: reader.counts()["front"]["lost"] == 3)
        node.publish(make_group(4))
        message = next(reader)
        assert (message.lost, message.decodable) == (3, False)


def test_the_queue_discards_its_oldest_and_decoding_resumes_at_a_keyframe():
    with Served("front") as node, subscribe(node.endpoint, queue_size=6, timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(*[make_group(number) for number in range(20)])
        assert eventually(lambda: reader.counts().get("front", {}).get("messages") == 20)
        messages = list(islice(reader, 6))
        assert sequence(messages) == list(range(14, 20))
        assert [message.decodable for message in messages] == [False, False, True, True, True, True]
        counts = reader.counts()["front"]
        assert (counts["discarded"], counts["lost"], counts["undecodable"]) == (14, 0, 2)


def test_only_decodable_messages_on_request():
    with Served("front") as node, subscribe(node.endpoint, queue_size=6, timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(*[make_group(number) for number in range(20)])
        assert eventually(lambda: reader.counts().get("front", {}).get("messages") == 20)
        assert sequence(islice(reader.decodable(), 4)) == [16, 17, 18, 19]


def test_latest_only_keeps_one_message_per_stream():
    with Served("front", "rear") as node, subscribe(node.endpoint, latest_only=True, timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(*[make_group(number, stream=name) for number in range(9) for name in ("front", "rear")])
        received = lambda: [counts["messages"] for counts in reader.counts().values()]  # noqa: E731
        assert eventually(lambda: received() == [9, 9])
        assert {message.stream: message.header.seq for message in islice(reader, 2)} == {"front": 8, "rear": 8}
        assert reader.get(0.05) is None


def make_small_reader(context, topic, messages):
    """A plain client whose queue is full after a few messages; not connected yet."""
    reader = context.socket(zmq.SUB)
    reader.set(zmq.RCVHWM, messages)
    reader.set(zmq.RCVBUF, 4096)
    reader.subscribe(topic)
    return reader


def test_a_reader_that_stops_costs_only_itself(context):
    """A plain client that never reads: the publisher goes on, others lose nothing, it finds a jump in `seq`."""
    stalled = make_small_reader(context, b"tokens/front", 4)
    big = np.zeros([128, 256], np.uint16)
    with (
        Served("other", messages_per_second=16) as node,
        subscribe(node.endpoint, ["front"], queue_size=500, timeout=60) as reader,
    ):
        node.do(lambda publisher: publisher.add_stream(make_info(grid=[128, 256])))
        stalled.connect(node.endpoint)
        node.wait_subscribers(2)
        for first in range(0, 400, 8):  # no more at once than waits for a reader that a busy machine holds up
            node.publish(*(make_group(number, tokens=big) for number in range(first, first + 8)))
            assert sequence(islice(reader, 8)) == list(range(first, first + 8))
        assert reader.counts()["front"]["lost"] == 0
        later, found = iter(range(400, 1000)), []  # a minute of them
        while not found or found[-1] < 400:  # the stale backlog first: libzmq drops the newest for a full reader
            if stalled.poll(100):
                found.append(unpack(stalled.recv_multipart()).header.seq)
            else:
                node.publish(make_group(next(later), tokens=big))
        assert found[0] == 0
        assert found[-1] > found[-2] + 1


def test_lossless_waits_for_a_slow_reader_and_loses_nothing(context):
    slow = make_small_reader(context, b"tokens/", 4)
    big = np.zeros([128, 256], np.uint16)
    received = []

    def read() -> None:
        while len(received) < 200 and slow.poll(60_000):
            received.append(unpack(slow.recv_multipart()).header.seq)
            time.sleep(0.002)

    with Publisher("tcp://127.0.0.1:*", lossless=True, messages_per_second=16) as publisher:
        publisher.add_stream(make_info(grid=[128, 256]))
        slow.connect(publisher.endpoint)
        assert publisher.wait_subscribers(1, 60)
        with beside(read):
            for number in range(200):
                publisher.publish(make_group(number, tokens=big))
    assert received == list(range(200))


def test_a_lossless_reader_makes_a_lossless_node_wait_for_its_program():
    big = np.zeros([128, 256], np.uint16)
    received = []

    def read() -> None:
        for message in reader:
            received.append(message.header.seq)
            time.sleep(0.001)

    with Publisher("tcp://127.0.0.1:*", lossless=True, messages_per_second=16) as publisher:
        publisher.add_stream(make_info(grid=[128, 256]))
        reader = subscribe(publisher.endpoint, lossless=True, queue_size=4, until_end=True, timeout=60)
        assert publisher.wait_subscribers(1, 60)
        thread = threading.Thread(target=read)
        thread.start()
        for number in range(400):
            publisher.publish(make_group(number, tokens=big))
    thread.join()
    assert received == list(range(400))
    assert reader.counts()["front"]["discarded"] == 0
    reader.close()


def test_a_reader_whose_program_pauses_is_not_taken_for_gone():
    """Its queues are full, so probes go both ways: kernels leave some unanswered, and count some as dropped packets."""
    count = 2000
    with (
        Served(lossless=True, messages_per_second=16) as node,
        subscribe(node.endpoint, lossless=True, queue_size=4, timeout=60) as reader,
    ):
        node.wait_subscribers(1)
        with beside(lambda: node.do(lambda publisher: [publisher.publish(make_group(n)) for n in range(count)])):
            time.sleep(2.5)
            assert sequence(islice(reader, count)) == list(range(count))


@pytest.mark.parametrize("stopped", [False, True])
def test_lossless_ends_in_an_error_when_a_reader_hangs(stopped, context, monkeypatch):
    monkeypatch.setattr(guard, "STALLED_S", 0.0)
    monkeypatch.setattr(guard, "MAX_UNTAKEN", 0)
    stuck = make_small_reader(context, b"tokens/", 1)
    stop = threading.Event()
    big = np.zeros([256, 512], np.uint16)
    options = {"lossless": True, "messages_per_second": 16, "stop": stop.is_set}
    with Publisher("tcp://127.0.0.1:*", lossless_timeout=60 if stopped else 1, **options) as publisher:
        publisher.add_stream(make_info(grid=[256, 512]))
        stuck.connect(publisher.endpoint)
        assert publisher.wait_subscribers(1, 60)
        if stopped:
            threading.Timer(1, stop.set).start()
        with pytest.raises(ReaderTooSlow, match="tokens/front"):
            deque(publisher.publish(make_group(number, tokens=big)) for number in range(1000))
        stuck.close(0)


def test_what_was_sent_before_closing_arrives():
    with Served("front") as node:
        reader = subscribe(node.endpoint, until_end=True, timeout=60)
        node.wait_subscribers(1)
        node.publish(*[make_group(number) for number in range(50)])
    with reader:
        assert sequence(reader) == list(range(50))
        assert reader.infos["front"].ended
        assert reader.ended


def test_silence_is_an_error_when_a_timeout_is_set():
    with Served("front") as node, subscribe(node.endpoint, timeout=0.1) as reader:
        with pytest.raises(TimeoutError, match=r"no message from .* for 0.1 s"):
            next(reader)
        with pytest.raises(TimeoutError, match="no info of stream 'rear'"):
            reader.info("rear", timeout=0.1)


def test_closing_ends_a_reader_that_waits():
    with Served("front") as node:
        reader = subscribe(node.endpoint)
        threading.Timer(0.1, reader.close).start()
        assert list(reader) == []
        reader.close()


def test_asyncio_reads_the_same_and_cancelling_loses_nothing():
    async def read(reader) -> list[int]:
        task = asyncio.create_task(anext(reader))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(node.publish, *[make_group(number) for number in range(5)])
        found = []
        async for message in reader:
            found.append(message.header.seq)
            if len(found) == 5:
                return found

    async def run() -> list[int]:
        async with subscribe(node.endpoint, timeout=60) as reader:
            await asyncio.to_thread(node.wait_subscribers, 1)
            return await read(reader)

    async def wait_in_vain() -> None:
        async with subscribe(node.endpoint, timeout=0.1) as reader:
            await anext(reader)

    with Served("front") as node:
        assert asyncio.run(run()) == [0, 1, 2, 3, 4]
        with pytest.raises(TimeoutError, match="no message"):
            asyncio.run(wait_in_vain())


def test_control_answers_info_stats_and_errors():
    with Served("front", "rear", stats=lambda: {"fps": np.float32(29.5)}) as node:
        node.publish(make_group(0))
        with ControlClient(node.publisher.control_endpoint) as client:
            assert client.request("info", "front")["last_seq"] == 0
            assert sorted(client.request("info")) == ["front", "rear"]
            stats = client.request("stats")
            assert stats["streams"]["front"]["published"] == 1
            assert stats["node_stats"] == {"fps": 29.5}
            assert list(client.request("stats", "rear")["streams"]) == ["rear"]
            for op, stream, text in (
                ("info", "left", "there are front, rear"),
                ("epoch", "rear", "ask for a keyframe instead"),
                ("epoch", None, "not announced"),
                ("keyframe", "left", "not announced"),
                ("reboot", None, "expected one of info, stats, keyframe, epoch"),
            ):
                with pytest.raises(ControlError, match=text):
                    client.request(op, stream)


def test_control_answers_while_the_publisher_is_busy():
    with Publisher("tcp://127.0.0.1:*") as publisher:  # nobody polls it: its thread is in a long step
        publisher.add_stream(make_info())
        publisher.publish(make_group(0))
        with ControlClient(publisher.control_endpoint) as client:
            assert client.request("info", "front", timeout=60)["last_seq"] == 0
            assert len(client.request("epoch", "front", timeout=60).messages) == 1
            assert client.request("keyframe", "front", timeout=60) == {"coalesced": False}
        assert [event.kind for event in publisher.poll()] == ["keyframe"]


def test_what_control_says_is_whole_while_messages_go_out():
    """Three clients ask without a pause while 1,500 messages go out: each epoch runs from its keyframe on."""

    def ask() -> int:
        asked, last = 0, -1
        with ControlClient(publisher.control_endpoint) as client:
            while not done.is_set():
                epoch = [unpack(parts).header for parts in client.request("epoch", "front", timeout=60).messages]
                assert [header.seq for header in epoch] == list(range(epoch[0].seq, epoch[-1].seq + 1))
                assert [header.keyframe for header in epoch] == [True] + [False] * (len(epoch) - 1)
                known = client.request("info", "front", timeout=60)["last_seq"]
                counts = client.request("stats", timeout=60)["streams"]["front"]
                assert last <= epoch[-1].seq <= known <= counts["last_seq"] == counts["published"] - 1
                asked, last = asked + 1, counts["last_seq"]
        return asked

    done = threading.Event()
    with Publisher("tcp://127.0.0.1:*") as publisher, ThreadPoolExecutor(3) as clients:
        publisher.add_stream(make_info())
        publisher.publish(make_group(0))
        asking = [clients.submit(ask) for _ in range(3)]
        try:
            for number in range(1, 1500):
                publisher.publish(make_group(number))
                publisher.poll()
                time.sleep(0.0005)
        finally:
            done.set()
        assert all(each.result() > 3 for each in asking)


def test_a_fault_in_the_nodes_own_numbers_is_answered_not_fatal():
    def broken() -> dict:
        raise KeyError("gpu")

    with Served("front", stats=broken) as node, ControlClient(node.publisher.control_endpoint) as client:
        with pytest.raises(ControlError, match="gpu"):
            client.request("stats")
        assert client.request("info", "front")["stream"] == "front"


def test_a_turn_that_cost_much_delays_the_next_by_a_second_at_most():
    """19 times its CPU time is the rule, but a virtual machine counts its own pauses as such."""

    def slow() -> dict:
        began = time.thread_time()
        while time.thread_time() - began < 1:
            pass
        return {}

    with Served("front", stats=slow) as node, ControlClient(node.publisher.control_endpoint) as client:
        assert client.request("stats", timeout=60)["node_stats"] == {}
        assert client.request("info", "front", timeout=15)["stream"] == "front"


def test_control_without_a_node_times_out():
    with ControlClient("tcp://127.0.0.1:1") as client, pytest.raises(TimeoutError, match="is the node running"):
        client.request("info", timeout=0.1)


def test_keyframe_requests_are_coalesced_and_limited_to_one_a_second(monkeypatch):
    monkeypatch.setattr(streams, "KEYFRAME_SPACING_NS", 10**15)  # a second that does not end before the test

    def asked() -> int:
        return [event.kind for event in node.events].count("keyframe")

    with Served("front") as node, ControlClient(node.publisher.control_endpoint) as client:

        def ask(times: int) -> list[bool]:
            return [client.request("keyframe", "front")["coalesced"] for _ in range(times)]

        assert ask(1) == [False]
        assert eventually(lambda: asked() == 1)
        assert ask(4) == [False, True, True, True]
        # the next one has to wait for its second, and is then not needed any more
        node.publish(make_group(0))
        assert node.do(lambda publisher: publisher._table.get("front").gate.pending) is False
        assert ask(2) == [False, True]
        assert asked() == 1
        monkeypatch.setattr(streams, "KEYFRAME_SPACING_NS", 0)  # the second is over
        assert eventually(lambda: asked() == 2)


def test_keyframes_that_are_asked_for_without_end_are_due_once_a_second():
    gate, due = streams.KeyframeGate(), []
    for now_ns in range(0, 3_000_000_000, 100_000_000):
        gate.ask()
        due += [now_ns] if gate.take_due(now_ns) else []
    assert due == [0, 1_000_000_000, 2_000_000_000]
    assert gate.take_due(3_000_000_000)
    assert not gate.take_due(9_000_000_000)  # the last one has served all who asked


def test_an_epoch_beyond_its_bound_is_not_kept():
    with Served("front", max_epoch_bytes=2000) as node, ControlClient(node.publisher.control_endpoint) as client:
        node.publish(*[make_group(number, interval=100) for number in range(4)])
        assert len(client.request("epoch", "front").messages) == 4
        node.publish(*[make_group(number, interval=100) for number in range(4, 20)])
        with pytest.raises(ControlError, match="over 2000 bytes"):
            client.request("epoch", "front")
        node.publish(make_group(100, interval=100))
        assert len(client.request("epoch", "front").messages) == 1


def test_a_new_size_is_announced_and_seq_runs_on():
    with Served("front") as node, subscribe(node.endpoint, timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(make_group(0))
        with pytest.raises(ValueError, match=r"tokens \[2, 2\], announced \[4, 6\]"):
            node.publish(make_group(1, tokens=np.zeros([2, 2], np.uint16)))
        with pytest.raises(ValueError, match="tokens of int32, announced uint16"):
            node.publish(make_group(1, tokens=np.zeros([4, 6], np.int32)))
        with pytest.raises(ValueError, match="'left' is not announced; there are front"):
            node.publish(make_group(1, stream="left"))
        node.do(lambda publisher: publisher.add_stream(make_info(grid=[2, 2])))
        node.publish(make_group(8, tokens=np.zeros([2, 2], np.uint16)))
        assert [(message.header.seq, message.header.grid) for message in islice(reader, 2)] == [
            (0, [4, 6]),
            (1, [2, 2]),
        ]


def test_frames_go_out_only_to_those_who_listen(context):
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    frame = Frame("front", 7, 1234, image)
    socket = context.socket(zmq.SUB)
    socket.subscribe(b"frames/")
    with Served("front") as node:
        assert node.do(lambda publisher: publisher.publish_frame(frame)) is False
        socket.connect(node.endpoint)
        assert eventually(lambda: node.do(lambda publisher: publisher.publish_frame(frame)))
        message = unpack_frame(socket.recv_multipart())
        assert (message.header.frame_id, message.header.capture_ns, message.header.encoding) == (7, 1234, "rgb8")
        assert bytes(message.payload) == image.tobytes()
        packet = replace(frame, packet=b"\x00\x00\x01", codec="h264")
        node.do(lambda publisher: publisher.publish_frame(packet))
        message = unpack_frame(socket.recv_multipart())
        assert (message.header.encoding, message.header.seq, bytes(message.payload)) == ("h264", 1, b"\x00\x00\x01")


def test_tokens_and_frames_come_out_of_one_subscription_in_order_each_with_its_own_losses():
    image = np.zeros((2, 3, 3), np.uint8)
    kinds = ("tokens", "info", "frames")
    with Served("front") as node, subscribe(node.endpoint, ["front"], kinds=kinds, timeout=60) as reader:
        node.wait_subscribers(1)

        def send(publisher):
            for number in range(3):
                publisher.publish_frame(Frame("front", number, number, image))
                publisher.publish(make_group(number))
            publisher._table.get("front").counts["frames"] += 2  # two more that nobody gets
            publisher.publish_frame(Frame("front", 5, 5, image))

        node.do(send)
        messages = list(islice(reader, 7))
        assert [isinstance(message, FrameMessage) for message in messages] == [True, False] * 3 + [True]
        assert [message.header.frame_id for message in messages[::2]] == [0, 1, 2, 5]
        assert [message.lost for message in messages] == [0, 0, 0, 0, 0, 0, 2]
        assert reader.counts()["front"]["messages"] == 3
        assert reader.missing == 0


def test_frames_that_are_not_read_in_time_are_discarded_without_touching_the_tokens():
    image = np.zeros((2, 3, 3), np.uint8)
    with Served("front") as node, subscribe(node.endpoint, kinds=KINDS, queue_size=4, timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(make_group(0))
        for number in range(10):
            node.do(lambda publisher, number=number: publisher.publish_frame(Frame("front", number, number, image)))
        node.publish(make_group(1))
        assert eventually(lambda: reader.counts().get("front", {}).get("messages") == 2)
        messages = list(islice(reader, 6))
        frames = [message for message in messages if isinstance(message, FrameMessage)]
        assert [(message.header.frame_id, message.lost) for message in frames] == [(6, 0), (7, 0), (8, 0), (9, 0)]
        assert reader.missing == 0


def test_a_named_stream_that_never_comes_does_not_keep_a_reader_when_the_node_has_gone():
    with Served("front") as node:
        reader = subscribe(node.endpoint, ["front", "rear"], until_end=True, timeout=60)
        node.wait_subscribers(1)
        node.publish(make_group(0))
        assert next(reader).header.seq == 0
        assert not reader.ended
    with reader:
        assert list(reader) == []


def test_status_reaches_dashboards(context):
    socket = context.socket(zmq.SUB)
    socket.subscribe(b"status/")
    with Served("front", node="rig") as node:
        socket.connect(node.endpoint)
        send = lambda: node.do(lambda publisher: publisher.publish_status({"fps": np.float64(3)}))  # noqa: E731
        assert eventually(lambda: send() or socket.poll(10))
        assert unpack_status(socket.recv_multipart()).values == {"fps": 3.0}


def test_a_replay_gives_its_own_clock():
    options = {"clock_ns": lambda: 77, "clock_pair": lambda: (5, 6)}
    with Served("front", **options) as node, subscribe(node.endpoint, timeout=60) as reader:
        node.do(lambda publisher: publisher.add_stream(make_info(replay=True)))
        node.wait_subscribers(1)
        info = reader.info("front")
        assert info.clock == (5, 6)
        node.publish(make_group(0))
        assert next(reader).header.publish_ns == 77


def test_plain_sockets_see_three_parts_on_every_topic(context):
    socket = context.socket(zmq.SUB)
    socket.subscribe(b"")
    with Served("front") as node:
        socket.connect(node.endpoint)
        node.wait_subscribers(1)
        node.publish(make_group(0))
        topics = {}
        while len(topics) < 2 and socket.poll(60_000):
            parts = socket.recv_multipart()
            assert len(parts) == 3
            topics[parts[0]] = parts
        assert unpack_info(topics[b"info/front"]).stream == "front"
        assert unpack(topics[b"tokens/front"]).header.seq == 0


@pytest.mark.parametrize(
    "options",
    [
        {"join": "now"},
        {"latest_only": True, "join": "epoch"},
        {"queue_size": 0},
        {"kinds": ["frame"]},
        {"kinds": []},
        {"kinds": ["frames"], "until_end": True},
    ],
)
def test_a_subscription_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match=r"expected|choose one"):
        subscribe("tcp://127.0.0.1:1", **options)


def test_a_port_that_libzmq_would_take_for_another_is_refused():
    with pytest.raises(ValueError, match=r"99999.*expected a port up to 65535"):
        subscribe("tcp://127.0.0.1:99999")


@pytest.mark.parametrize("name", ["peers", "control"])
def test_a_publisher_that_gets_no_thread_says_so_and_leaves_nothing_open(name, monkeypatch):
    start = threading.Thread.start

    def start_or_fail(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    with pytest.raises(RuntimeError, match="new thread"):
        Publisher("tcp://127.0.0.1:*")


def test_one_name_for_several_is_told(ipc_path):
    with pytest.raises(ValueError, match=r"streams is 'front', expected several names: \['front'\]"):
        subscribe(f"ipc://{ipc_path}", "front")


def test_a_message_that_waits_keeps_the_info_that_it_came_with():
    with Served("front") as node, subscribe(node.endpoint, lossless=True, timeout=60) as reader:
        node.wait_subscribers(1)
        for number, size in enumerate(([30, 40], [20, 48], [30, 40])):
            node.do(lambda publisher, size=size: publisher.add_stream(make_info(source_size=size)))
            node.publish(make_group(8 * number))
        node.do(lambda publisher: publisher.add_stream(make_info(source_size=[9, 9])))
        assert eventually(lambda: reader.info("front").source_size == [9, 9])
        assert [reader.info_of(message).source_size for message in islice(reader, 3)] == [[30, 40], [20, 48], [30, 40]]


def publish_frames(node: Served, stream: str, *seqs: int) -> None:
    """Send camera images with these numbers."""

    def send(publisher: Publisher) -> None:
        for seq in seqs:
            publisher._table.get(stream).counts["frames"] = seq
            publisher.publish_frame(Frame(stream, seq, seq, np.zeros((2, 3, 3), np.uint8)))

    node.do(send)


def test_an_image_after_a_loss_comes_though_only_another_camera_goes_on():
    kinds = ("frames", "info")
    with Served("front", "rear") as node, subscribe(node.endpoint, kinds=kinds, timeout=60) as reader:
        reader.info("front")
        publish_frames(node, "front", 0, 1, 5)
        seqs = count()

        def has_come() -> bool:
            publish_frames(node, "rear", next(seqs))
            return ("front", 5) in [(each.stream, each.header.seq) for each in iter(lambda: reader.get(0), None)]

        assert eventually(has_come)


def test_an_image_after_a_loss_comes_when_the_reader_closes(monkeypatch):
    monkeypatch.setattr(drain, "QUIET_S", 1e9)
    kinds = ("frames", "info")
    with Served("front", "rear") as node, subscribe(node.endpoint, kinds=kinds, timeout=60) as reader:
        reader.info("front")
        publish_frames(node, "front", 0, 5)
        publish_frames(node, "rear", 0)
        assert [(message.stream, message.header.seq) for message in islice(reader, 2)] == [("front", 0), ("rear", 0)]
        reader.close()
        assert sequence(reader) == [5]


def test_a_forked_process_that_exits_is_held_up_by_no_reader_of_its_parent():
    program = """
import os, signal, sys, threading, time
from streamtok.wire.subscriber import subscribe
from tests.kit.wire import Served, make_group

def publish():
    for first in range(0, 1_000_000, 50):
        node.publish(*(make_group(number) for number in range(first, first + 50)))

with Served() as node:
    reader = subscribe(node.endpoint, queue_size=4)
    reader.info("front")
    threading.Thread(target=publish, daemon=True).start()
    for _ in range(60):
        time.sleep(0.01)
        if (child := os.fork()) == 0:
            signal.alarm(10)
            sys.exit(0)
        if os.waitpid(child, 0)[1] != 0:
            os._exit(1)
    os._exit(0)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize("read", ["next(reader)", "reader.get()", "asyncio.run(anext(reader))"])
def test_a_forked_process_that_reads_its_parents_subscription_is_told_so(read):
    """As a worker of a torch DataLoader does; it would wait for ever."""
    program = f"""
import asyncio, os, signal
from streamtok.wire.subscriber import subscribe

reader = subscribe("tcp://127.0.0.1:1")
if os.fork() == 0:
    signal.alarm(60)
    {read}
os._exit(0 if os.wait()[1] == 256 else 1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, "subscribe in the process that reads" in done.stderr) == (0, True)


def test_a_publisher_that_is_interrupted_while_it_closes_does_not_close_twice():
    program = """
import os, signal, zmq
from streamtok.wire.publisher import Publisher
from tests.kit.wire import make_group, make_info

signal.signal(signal.SIGALRM, signal.default_int_handler)
reader = zmq.Context().socket(zmq.SUB)
reader.set(zmq.RCVHWM, 1)
reader.subscribe("")
try:
    with Publisher("tcp://127.0.0.1:*", messages_per_second=1e6) as publisher:
        publisher.add_stream(make_info())
        reader.connect(publisher.endpoint)
        assert publisher.wait_subscribers(1, 60)
        for number in range(40_000):
            publisher.publish(make_group(number))
        signal.setitimer(signal.ITIMER_REAL, 0.3)  # of the second that the reader has for what waits
        publisher.close()
except KeyboardInterrupt:
    os._exit(0)
os._exit(1)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_reader_that_a_closed_event_loop_waited_for_closes():
    with Served() as node:
        reader = subscribe(node.endpoint)
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(anext(reader))
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        reader.close()
        waiting.get_coro().close()
        waiting._log_destroy_pending = False
