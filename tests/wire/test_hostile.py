"""Malformed input on every socket: counted, logged once, nothing crashes, and the stream goes on."""

import logging
import re
import socket as socketlib
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from itertools import chain, islice, product

import msgpack
import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.wire import compression, drain
from streamtok.wire.control import MAX_UNSENT, ControlClient
from streamtok.wire.endpoint import open_socket, receive
from streamtok.wire.errors import Rejects
from streamtok.wire.header import FrameHeader
from streamtok.wire.joining import MAX_UNPACKED
from streamtok.wire.mailbox import Mailbox
from streamtok.wire.message import Limits, WireError, compute_checksum, pack, unpack_info
from streamtok.wire.streams import StreamTable
from streamtok.wire.subscriber import subscribe
from streamtok.wire.subscriptions import MAX_TOPICS, Subscriptions
from tests.kit.wire import Served, eventually, make_group, make_info

FIXED = {"node": "rig", "session": "0" * 32, "control": None}
old = msgpack.packb({"version": 0, "id": 1, "op": "info"})


@pytest.fixture
def node():
    with Served("front") as served:
        yield served


@pytest.fixture
def fake(context):
    """A publisher that sends whatever a test likes: (socket, endpoint)."""
    socket = context.socket(zmq.XPUB)
    socket.linger = 0
    socket.set(zmq.XPUB_VERBOSER, 1)
    return socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


@contextmanager
def plain_socket(kind: int, endpoint: str):
    """A connected socket of its own context; closed in any case, for an open one would hang its context."""
    context = zmq.Context()
    socket = context.socket(kind)
    socket.connect(endpoint)
    try:
        yield socket
    finally:
        context.destroy(linger=1000)


def joined(socket) -> None:
    """Wait until a reader's last subscription has come."""
    while not socket.recv().startswith(b"\x01info/"):
        pass


@pytest.mark.parametrize("kind", [zmq.XPUB, zmq.ROUTER, zmq.DEALER, zmq.SUB])
def test_no_socket_has_a_heartbeat_timer(kind, context):
    """A peer can end the process through one (libzmq 4364); `test_long` tries it on a node."""
    with open_socket(context, kind, high_water=16, max_part=1 << 16) as socket:
        assert socket.get(zmq.HEARTBEAT_IVL) == 0
        assert socket.get(zmq.TCP_KEEPALIVE) == 1


def good_parts(seq: int = 0, stream: str = "front") -> list[bytes]:
    table = StreamTable(FIXED)
    table.add(make_info(stream))
    state = table.get(stream)
    for number in range(seq + 1):
        header, parts = state.pack_group(make_group(number, stream=stream), 0)
        state.note_sent(header, parts)
    return parts


requests = st.lists(st.binary(max_size=200), min_size=1, max_size=5)
maps = st.dictionaries(
    st.sampled_from(["version", "id", "op", "stream", "x"]),
    st.none() | st.integers(-2, 2**40) | st.text(max_size=12) | st.lists(st.integers(0, 5), max_size=3) | st.floats(),
)


@settings(max_examples=40)
@given(data=st.lists(requests | maps.map(lambda value: [msgpack.packb(value)]), min_size=1, max_size=10))
def test_random_requests_leave_the_control_socket_working(node, data):
    with plain_socket(zmq.DEALER, node.publisher.control_endpoint) as socket:
        for parts in data:
            socket.send_multipart(parts)
    with ControlClient(node.publisher.control_endpoint) as client:
        assert client.request("info", "front", timeout=60)["stream"] == "front"


def test_requests_that_are_none_are_counted_and_logged_once(node, context, caplog):
    caplog.set_level(logging.WARNING, "streamtok.wire")
    socket = context.socket(zmq.DEALER)
    socket.connect(node.publisher.control_endpoint)
    for _ in range(20):
        socket.send(b"\xc1")
        socket.send_multipart([b"a", b"b", b"c", b"d"])
    counts = lambda: node.do(lambda publisher: dict(publisher.rejects.counts))  # noqa: E731
    assert eventually(lambda: counts() == {"control.header": 20, "control.parts": 20})
    assert len([record for record in caplog.records if "event=malformed" in record.message]) == 2
    socket.send(old)
    assert "version 0, this node knows version 1" in msgpack.unpackb(socket.recv())["error"]


def test_a_req_socket_works_too(node, context):
    socket = context.socket(zmq.REQ)
    socket.connect(node.publisher.control_endpoint)
    socket.send(msgpack.packb({"version": 1, "id": "mine", "op": "info", "stream": "front"}))
    reply = msgpack.unpackb(socket.recv())
    assert (reply["ok"], reply["id"], reply["result"]["stream"]) == (True, "mine", "front")


def test_a_request_beyond_the_size_limit_only_loses_its_sender(node, context):
    socket = context.socket(zmq.DEALER)
    socket.connect(node.publisher.control_endpoint)
    socket.send(bytes(1 << 20))
    with ControlClient(node.publisher.control_endpoint) as client:
        assert client.request("info", "front")["stream"] == "front"
    assert node.do(lambda publisher: publisher.rejects.counts.total()) == 0


def raw_subscriptions(parts: list[bytes], topic: bytes) -> tuple[int, int, int]:
    """What a publisher gets to know of the parts that one XSUB socket sends, as far as they match a topic: how many
    subscriptions begin, how many end, and how many of those that begin were held already.

    Such a socket passes on every subscription, but an end only when it ends what it asked for as often as it did.
    """
    joined, left, again, asked = 0, 0, 0, Counter()
    for part in parts:
        kind, prefix = part[:1], part[1:]
        if kind == b"\x01" and topic.startswith(prefix):
            joined += 1
            again += asked[prefix] > 0
            asked[prefix] += 1
        elif kind == b"\x00" and asked[prefix]:
            asked[prefix] -= 1
            left += not asked[prefix]
    return joined, left, again


upstream = st.binary(max_size=200) | st.sampled_from([b"\x01", b"\x00", b"\x01tokens/", b"\x00tokens/"])


@settings(max_examples=40)
@given(data=st.lists(st.lists(upstream, min_size=1, max_size=4), min_size=1, max_size=10))
def test_random_messages_from_a_reader_leave_the_stream_working(data):
    """An XSUB peer can send anything upstream, subscriptions and their ends among it."""
    data = [*data, [b"\x01tokens/front"]]
    joined, left, again = raw_subscriptions([*chain(*data)], b"tokens/front")
    with Served("front") as node:
        seen = lambda kind: sum(event.kind == kind for event in node.events)  # noqa: E731
        subscribers = lambda: node.do(lambda publisher: publisher.subscribers("front"))  # noqa: E731
        with plain_socket(zmq.XSUB, node.endpoint) as socket:
            for parts in data:
                socket.send_multipart(parts)
            assert eventually(lambda: seen("joined") == joined and seen("left") == left)
            assert subscribers() == joined - left > 0
            node.publish(make_group(0))
            assert eventually(lambda: socket.poll(20) and socket.recv_multipart()[0] == b"tokens/front")
        assert eventually(lambda: seen("left") == joined - again)
        # libzmq tells the end of what a closed socket held once, however often it was asked for
        assert subscribers() == again


def test_garbage_on_the_ports_themselves_leaves_the_stream_working(node):
    """Port scanners and lost web browsers speak no ZeroMQ."""
    rng = np.random.default_rng(0)
    for endpoint in (node.endpoint, node.publisher.control_endpoint):
        for start in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL"):
            with socketlib.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2]))) as raw:
                raw.sendall(start + rng.bytes(2000))
    with subscribe(node.endpoint, timeout=60) as reader:
        assert eventually(lambda: "front" in reader.infos)  # garbage may count as a subscription
        node.publish(make_group(0))
        assert next(reader).header.seq == 0


def test_what_no_reader_sends_is_counted(node, context):
    socket = context.socket(zmq.XSUB)
    socket.connect(node.endpoint)
    socket.send(b"\x07hello")
    socket.send_multipart([b"\x01tokens/", b"more"])
    socket.send(b"\x01" + b"x" * 300)
    counts = lambda: node.do(lambda publisher: dict(publisher.rejects.counts))  # noqa: E731
    assert eventually(lambda: sum(counts().values()) >= 2 and "publish.topic" in counts())
    assert set(counts()) <= {"publish.subscription", "publish.topic"}


def test_subscriptions_take_bounded_memory():
    subscriptions = Subscriptions()
    for number in range(MAX_TOPICS + 500):
        subscriptions.feed(b"\x01%d" % number)
    assert len(subscriptions.topics) == MAX_TOPICS
    subscriptions.feed(b"\x00never subscribed")
    for number in range(MAX_TOPICS + 500):
        subscriptions.feed(b"\x00%d" % number)
    assert len(subscriptions.topics) == 0


@settings(max_examples=40)
@given(data=st.data())
def test_random_messages_from_a_publisher_are_counted_and_the_good_ones_arrive(fake, data):
    socket, endpoint = fake
    good = good_parts()
    messages = []
    for _ in range(data.draw(st.integers(1, 6))):
        parts = list(good)
        which = data.draw(st.integers(0, 2))
        parts[which] = data.draw(st.binary(max_size=60)) if data.draw(st.booleans()) else parts[which][:-3]
        parts[0] = b"tokens/front" if which else b"tokens/" + parts[0][:9]
        messages.append(parts[: data.draw(st.integers(1, 3))])
    with subscribe(endpoint, timeout=60) as reader:
        joined(socket)
        for parts in messages:
            socket.send_multipart(parts)
        socket.send_multipart(good)
        message = next(reader)
        assert np.array_equal(message.tokens, make_group(0).tokens)
        assert 1 <= reader.rejects.counts.total() <= len(messages)


def test_bad_messages_are_counted_by_kind_and_logged_once(fake, caplog):
    caplog.set_level(logging.WARNING, "streamtok.wire")
    socket, endpoint = fake
    topic, head, payload = good_parts()
    fields = msgpack.unpackb(head)
    high = np.full([4, 6], 65535, np.uint16).tobytes()
    bad = {
        "parts": [topic, head],
        "version": [topic, msgpack.packb(fields | {"version": 3}), payload],
        "header": [topic, head[:-4], payload],
        "topic": [topic + b"_left", head, payload],
        "size": [topic, msgpack.packb(fields | {"checksum": compute_checksum(payload + b"x")}), payload + b"x"],
        "checksum": [topic, head, payload[:-1] + b"x"],
        "values": [topic, msgpack.packb(fields | {"checksum": compute_checksum(high)}), high],
    }
    with subscribe(endpoint, timeout=60) as reader:
        joined(socket)
        for parts in bad.values():
            for _ in range(5):
                socket.send_multipart(parts)
        socket.send_multipart([topic, head, payload])
        assert next(reader).header.seq == 0
        assert reader.rejects.counts == {f"subscribe.{kind}": 5 for kind in bad}
        assert len([record for record in caplog.records if "event=malformed" in record.message]) == len(bad)


def test_many_parts_are_not_kept(fake):
    socket, endpoint = fake
    with subscribe(endpoint, timeout=60) as reader:
        joined(socket)
        socket.send_multipart([b"tokens/front"] + [b"x"] * 5000)
        socket.send_multipart(good_parts())
        assert next(reader).header.seq == 0
        assert reader.rejects.counts == {"subscribe.parts": 1}


def test_a_grid_beyond_the_configured_maximum_is_refused(fake):
    socket, endpoint = fake
    with subscribe(endpoint, timeout=60, limits=Limits(max_grid=20)) as reader:
        joined(socket)
        socket.send_multipart(good_parts())
        assert eventually(lambda: reader.rejects.counts == {"subscribe.size": 1})


def test_a_part_beyond_the_message_limit_never_arrives_and_the_reader_reconnects(fake):
    socket, endpoint = fake
    limits = Limits(max_grid=100, max_header=4096, max_frame=0)
    with subscribe(endpoint, ["front"], timeout=60, limits=limits) as reader:
        joined(socket)
        socket.send_multipart([b"tokens/front", b"", bytes(1 << 20)])
        # libzmq drops the connection for good; the reader makes it anew, so the subscriptions come again
        joined(socket)
        socket.send_multipart(good_parts())
        assert next(reader).header.seq == 0


def parts_with(parts: list[bytes], **changes) -> list[bytes]:
    """The same message, but for some fields of its header."""
    return [parts[0], msgpack.packb(msgpack.unpackb(parts[1]) | changes), parts[2]]


WRONG = [{"session": "f" * 32}, {"seq": 2**40}, {"session": "f" * 32, "seq": 0}, {"seq": 7}, {"seq": 5, "epoch": 9}]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("kind", ["tokens", "info"])
def test_one_wrong_session_or_seq_costs_that_message_and_no_other(fake, wrong, kind):
    socket, endpoint = fake
    if kind == "info":
        forged = pack(make_info(**{"session": "0" * 32} | {{"seq": "last_seq"}.get(k, k): v for k, v in wrong.items()}))
    else:
        forged = parts_with(good_parts(1), **wrong)
    with subscribe(endpoint, timeout=60) as reader:
        joined(socket)
        for seq in range(9):
            socket.send_multipart(good_parts(seq))
            if seq == 4:
                socket.send_multipart(forged)
        messages = [next(reader) for _ in range(9)]
        assert [(message.header.seq, message.decodable, message.lost) for message in messages] == [
            (seq, True, 0) for seq in range(9)
        ]
        assert reader.rejects.counts == {"subscribe.order": 1}


@pytest.mark.parametrize("wrong", [{"session": "f" * 32}, {"seq": 2**62}])
def test_one_wrong_camera_image_costs_that_image_and_no_other(fake, wrong, monkeypatch):
    monkeypatch.setattr("streamtok.wire.drain.QUIET_S", 1e9)  # a busy machine sends the next one late
    socket, endpoint = fake
    image = {"stream": "front", "session": "0" * 32, "capture_ns": 0, "publish_ns": 0, "encoding": "jpeg"}
    with subscribe(endpoint, kinds=["frames"], timeout=60) as reader:
        socket.recv()
        for seq in range(9):
            header = FrameHeader(**image, seq=seq, frame_id=seq, image_size=[2, 2])
            socket.send_multipart(pack(header, b"x"))
            if seq == 4:
                socket.send_multipart(parts_with(pack(header, b"x"), **wrong))
        images = [next(reader) for _ in range(9)]
    assert [(image.header.seq, image.header.session[0], image.lost) for image in images] == [
        (seq, "0", 0) for seq in range(9)
    ]


def test_one_info_does_not_end_a_stream_that_goes_on(fake):
    socket, endpoint = fake
    ended = make_info(session="0" * 32, ended=True)
    with subscribe(endpoint, timeout=60, until_end=True) as reader:
        joined(socket)
        for seq in range(9):
            socket.send_multipart(good_parts(seq))
            if seq == 4:
                socket.send_multipart(pack(msgspec.structs.replace(ended, last_seq=seq)))
                assert eventually(lambda: reader.infos)
        assert [next(reader).header.seq for _ in range(9)] == list(range(9))
        for _ in range(2):
            socket.send_multipart(pack(msgspec.structs.replace(ended, last_seq=8)))
        assert list(reader) == []


@pytest.mark.parametrize("field", ["frame_rate", "keyframe_interval"])
def test_a_number_that_json_has_not_is_refused(field):
    info = parts_with(pack(make_info()), **{field: float("inf")})
    with pytest.raises(WireError, match=field):
        unpack_info(info)


def test_a_session_begun_by_mistake_does_not_lock_out_the_one_that_goes_on(fake):
    socket, endpoint = fake
    with subscribe(endpoint, timeout=60) as reader:
        joined(socket)
        socket.send_multipart(good_parts(0))
        for seq in range(2):
            socket.send_multipart(parts_with(good_parts(seq), session="f" * 32))
        for seq in range(8, 12):
            socket.send_multipart(good_parts(seq))
        messages = [next(reader) for _ in range(7)]
        assert [message.header.seq for message in messages] == [0, 0, 1, 8, 9, 10, 11]
        assert [message.decodable for message in messages] == [True] * 7


def test_more_streams_than_accepted_are_refused(fake):
    socket, endpoint = fake
    with subscribe(endpoint, timeout=60, max_streams=4) as reader:
        joined(socket)
        for number in range(10):
            socket.send_multipart(pack(make_info(f"s{number}")))
        assert eventually(lambda: reader.rejects.counts == {"subscribe.streams": 6})
        assert sorted(reader.infos) == ["s0", "s1", "s2", "s3"]
        assert len(reader._arrivals._ended) == 4


def test_a_jump_to_a_keyframe_fetches_no_epoch_for_the_message_that_confirms_it(fake):
    socket, endpoint = fake
    with subscribe(endpoint, timeout=60) as reader:
        joined(socket)
        socket.send_multipart(pack(make_info()))
        for seq in (0, 1, 8, 9):  # 8 is a keyframe
            socket.send_multipart(good_parts(seq))
        messages = list(islice(reader, 4))
        assert [message.lost for message in messages] == [0, 0, 6, 0]
        assert not any(message.catch_up for message in messages)


@pytest.mark.parametrize("count", [70, 128, 10_000])
def test_named_streams_are_accepted_however_many(count):
    """The longest names, which the node's guard does not take for a flood; streams that are not named are left out."""
    names = [f"{number:064}" for number in range(count)]
    with (
        Served("front", *names[:70], messages_per_second=1000) as node,  # for their infos at once
        subscribe(node.endpoint, names, kinds=["tokens", "frames", "info"], timeout=60) as reader,
    ):
        assert eventually(lambda: len(reader.infos) == 70)
        node.publish(make_group(0, "front"), make_group(0, names[69]))
        assert next(reader).stream == names[69]
        assert (reader.infos.keys(), reader.rejects.counts) == ({*names[:70]}, {})
        time.sleep(0.5)  # two turns of the guard
        assert (reader._drain.connection.connects, reader.connected) == (1, True)


def reply_of(**fields) -> list[bytes]:
    return [msgpack.packb({"version": 1, "id": 1, "ok": True, "error": None} | fields)]


@pytest.mark.parametrize(
    "reply",
    [
        [b"\xc1"],
        [b"a", b"b"],
        reply_of(),
        reply_of(result={"messages": "no"}),
        reply_of(result={"messages": [[b"a", b"b"]]}),
        reply_of(result={"messages": [[b"a", b"b", b"c"]]}),
        reply_of(result={"messages": [good_parts(stream="rear")]}),
        reply_of(ok=False, error="no", result=None),
        reply_of(version=9),
        None,
    ],
)
def test_a_join_that_gets_nonsense_goes_on_live(fake, context, reply, monkeypatch):
    monkeypatch.setattr("streamtok.wire.joining.PATIENCE", 0.5)
    socket, endpoint = fake
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    with subscribe(endpoint, join="epoch", timeout=60) as reader:
        joined(socket)
        info = make_info(session="0" * 32, last_seq=0, epoch=0, control=f"tcp://127.0.0.1:{port}")
        socket.send_multipart(pack(info))
        identity, _ = router.recv_multipart()
        if reply is not None:
            router.send_multipart([identity, *reply])
        socket.send_multipart(good_parts(1))
        message = next(reader)
        assert (message.header.seq, message.decodable) == (1, False)


def test_a_control_endpoint_that_is_none_does_not_stop_the_reader(fake):
    socket, endpoint = fake
    with subscribe(endpoint, join="epoch", timeout=60) as reader:
        joined(socket)
        socket.send_multipart(pack(make_info(session="0" * 32, last_seq=0, control="nonsense://x")))
        socket.send_multipart(good_parts(1))
        assert next(reader).header.seq == 1
        with pytest.raises(ValueError, match="cannot connect"):
            reader.control("front")


def test_the_first_of_each_kind_is_logged(caplog):
    caplog.set_level(logging.WARNING, "streamtok.wire")
    rejects = Rejects()
    for _ in range(100):
        rejects.add("subscribe", WireError("size", "too big"))
    rejects.add("control", WireError("size", "too big"))
    assert rejects.counts.total() == 101
    assert len(caplog.records) == 2


def test_replies_that_nobody_reads_take_bounded_memory(context):
    """Requests of 40 bytes for an epoch of megabytes, unread: each reader has one such reply, and all together few."""
    big = np.zeros([512, 1024], np.uint16)
    with Served("other") as node:
        node.do(lambda publisher: publisher.add_stream(make_info(grid=[512, 1024])))
        node.publish(*[make_group(number, interval=100, tokens=big) for number in range(8)])
        sockets = []
        for _ in range(12):
            sockets.append(context.socket(zmq.DEALER))
            sockets[-1].linger = 0
            sockets[-1].set(zmq.RCVHWM, 1)
            sockets[-1].set(zmq.RCVBUF, 4096)
            sockets[-1].connect(node.publisher.control_endpoint)
            for number in range(8):
                sockets[-1].send(msgpack.packb({"version": 1, "id": number, "op": "epoch", "stream": "front"}))
        control = node.publisher._control
        assert eventually(lambda: node.do(lambda publisher: control.counts["epoch"]) == 96)
        assert node.do(lambda publisher: sum(size for _, size, _ in control._unsent)) <= MAX_UNSENT
        assert control.counts["busy"] >= 96 - 3 * 12  # one reply with a reader, one on its way, one that waits


def test_a_grid_that_is_not_that_of_the_info_is_refused_before_it_is_unpacked(fake, monkeypatch):
    socket, endpoint = fake
    monkeypatch.setattr("streamtok.wire.compression.decompress", lambda *args: pytest.fail("unpacked"))
    with subscribe(endpoint, timeout=60) as reader:
        joined(socket)
        socket.send_multipart(pack(make_info(session="0" * 32)))
        assert eventually(lambda: "front" in reader.infos)
        changes = {"grid": [2048, 2048], "compression": "zstd"}
        socket.send_multipart(parts_with(good_parts(0), **changes))
        socket.send_multipart(good_parts(0))
        assert next(reader).header.grid == [4, 6]
        assert reader.rejects.counts == {"subscribe.grid": 1}


@pytest.mark.parametrize("first", [1, 5], ids=["join", "jump"])
def test_a_message_that_is_held_back_stays_packed(fake, context, first, monkeypatch):
    """Some bytes of zstd may be a grid of megabytes: it waits for the epoch, or for a message that bears it out."""
    zstandard, unpacked = pytest.importorskip("zstandard"), []
    decompress = compression.decompress
    monkeypatch.setattr(compression, "decompress", lambda *args: unpacked.append(args) or decompress(*args))
    monkeypatch.setattr("streamtok.wire.joining.PATIENCE", 60)
    socket, endpoint = fake
    silent = context.socket(zmq.ROUTER)
    control = f"tcp://127.0.0.1:{silent.bind_to_random_port('tcp://127.0.0.1')}" if first == 1 else None
    with subscribe(endpoint, join="epoch", timeout=20) as reader:
        joined(socket)
        socket.send_multipart(pack(make_info(session="0" * 32, last_seq=0, epoch=0, control=control)))
        topic, head, payload = good_parts(first)
        packed = zstandard.ZstdCompressor().compress(payload)
        changes = {"compression": "zstd", "checksum": compute_checksum(packed)}
        socket.send_multipart(parts_with([topic, head, packed], **changes))
        socket.send_multipart(good_parts(0, "rear"))
        assert next(reader).stream == "rear"
        assert unpacked == []
        monkeypatch.setattr("streamtok.wire.joining.MAX_UNPACKED", 0)
        socket.send_multipart(good_parts(first + 1))
        messages = list(islice(reader, 2))
        assert [message.header.seq for message in messages] == [first, first + 1]
        assert np.array_equal(messages[0].tokens, make_group(first).tokens)
        assert len(unpacked) == 1


def test_messages_held_back_for_an_epoch_are_bounded_in_bytes(fake, context, monkeypatch):
    """However many came at once: 40 of 50 bytes that would take 40 MB, unpacked."""
    zstandard, grid, sent = pytest.importorskip("zstandard"), [1024, 512], threading.Event()
    packed = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    monkeypatch.setattr("streamtok.wire.joining.MAX_UNPACKED", 4 << 20)
    monkeypatch.setattr("streamtok.wire.joining.PATIENCE", 60)
    monkeypatch.setattr("streamtok.wire.subscriber.QUEUE_BYTES", 4 << 20)
    monkeypatch.setattr(drain, "receive", lambda socket: sent.wait(60) and receive(socket))
    socket, endpoint = fake
    control = f"tcp://127.0.0.1:{context.socket(zmq.ROUTER).bind_to_random_port('tcp://127.0.0.1')}"
    with subscribe(endpoint, join="epoch", timeout=20) as reader:
        joined(socket)
        socket.send_multipart(pack(make_info(session="0" * 32, grid=grid, last_seq=0, epoch=0, control=control)))
        topic, head, _ = good_parts(1)
        changes = {"grid": grid, "compression": "zstd", "checksum": compute_checksum(packed)}
        for seq in range(1, 41):
            socket.send_multipart(parts_with([topic, head, packed], seq=seq, **changes))
        tracemalloc.start()
        sent.set()
        assert eventually(lambda: "front" in reader.infos and reader.counts()["front"]["discarded"] == 37)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        messages = [reader.get(0) for _ in range(3)]
        assert [(message.header.seq, message.catch_up) for message in messages] == [(n, False) for n in (38, 39, 40)]
        assert peak < 10 << 20


PEAK = """
import re, sys
from pathlib import Path
from streamtok.wire import drain, joining
from streamtok.wire.subscriber import subscribe

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

joining.PATIENCE, receive = 60, drain.receive
drain.receive = lambda socket: (socket.poll(500), receive(socket))[1]  # the publisher is never slower than the reader
with subscribe(sys.argv[1], join="epoch", timeout=60) as reader:
    before = peak()
    while next(reader).stream != "last":
        pass
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("streams", [1, 8])
def test_messages_held_back_for_the_epochs_of_all_streams_take_bounded_memory(fake, context, streams):
    """At their real size: a gigabyte of plain grids, and a control socket that never answers."""
    (socket, endpoint), grid, payload = fake, [2048, 2048], bytes(1 << 23)
    socket.set(zmq.XPUB_NODROP, 1)
    socket.set(zmq.SNDHWM, 4)
    control = f"tcp://127.0.0.1:{context.socket(zmq.ROUTER).bind_to_random_port('tcp://127.0.0.1')}"
    command = [sys.executable, "-c", PEAK, endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        joined(socket)
        names = [f"camera{number}" for number in range(streams)]
        for name in names:
            info = make_info(name, session="0" * 32, grid=grid, last_seq=0, epoch=0, control=control)
            socket.send_multipart(pack(info))
        changes = {"grid": grid, "checksum": compute_checksum(payload)}
        for seq, name in product(range(1, 128 // streams + 1), names):
            parts = parts_with([*good_parts(1, name)[:2], payload], seq=seq, **changes)
            socket.send_multipart(parts, copy=False)
        while reader.poll() is None:  # it may have cut this connection off, and lost some
            if socket.poll(100, zmq.POLLOUT):
                socket.send_multipart(good_parts(0, "last"))
        taken = int(reader.stdout.read())
    assert taken < 2.5 * MAX_UNPACKED


@pytest.mark.parametrize("payload", [b"no zstd", bytes(20)])
def test_a_message_that_cannot_be_unpacked_is_counted_as_unreadable(fake, payload):
    """It has come, so that it is not lost; but nobody can read it."""
    pytest.importorskip("zstandard")
    socket, endpoint = fake
    with subscribe(endpoint, timeout=20) as reader:
        joined(socket)
        topic, head, _ = good_parts(1)
        changes = {"compression": "zstd", "checksum": compute_checksum(payload)}
        for parts in (good_parts(0), parts_with([topic, head, payload], **changes), good_parts(2)):
            socket.send_multipart(parts)
        assert [(message.header.seq, message.decodable) for message in islice(reader, 2)] == [(0, True), (2, False)]
        counts = reader.counts()["front"]
        assert (counts["messages"], counts["lost"], counts["unreadable"]) == (3, 0, 1)
        assert reader.rejects.counts == {"subscribe.compression": 1}


def test_a_message_in_zstd_ends_no_reader_that_lacks_it(fake, monkeypatch):
    socket, endpoint = fake
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with subscribe(endpoint, timeout=60) as reader:
        joined(socket)
        socket.send_multipart(parts_with(good_parts(0, "rear"), compression="zstd"))
        socket.send_multipart(good_parts(0))
        first, second = next(reader), next(reader)
        assert (first.stream, second.stream) == ("rear", "front")
        with pytest.raises(WireError, match="pip install 'zstandard"):
            first.tokens.any()
        assert np.array_equal(second.tokens, make_group(0).tokens)
        assert reader.counts()["rear"]["unreadable"] == 1


def test_what_waits_to_be_read_is_bounded_in_bytes():
    mailbox = Mailbox(100, room=10, size_of=len)
    for letter in "abcd":
        mailbox.put("a", letter * 4)
    assert [mailbox.take() for _ in range(3)] == ["cccc", "dddd", None]
    assert mailbox.discarded == {"a": 2}


def test_what_was_only_counted_is_told_at_the_end(caplog):
    """All of a flood, by the node and by its reader, although a line of it comes but once in 10 s."""
    with Served("front") as node, subscribe(node.endpoint, timeout=60) as reader:
        node.wait_subscribers(1)
        with plain_socket(zmq.DEALER, node.publisher.control_endpoint) as client:
            for _ in range(5):
                client.send(b"no map")
            assert eventually(lambda: node.publisher.rejects.counts["control.header"] == 5)
        for _ in range(5):
            node.do(lambda publisher: publisher._send([b"tokens/front", b"no map", b""]))
        assert eventually(lambda: reader.rejects.counts["subscribe.header"] == 5)
    told = Counter()
    for socket, messages in re.findall(r"socket=(\w+) event=malformed messages=(\d)", caplog.text):
        told[socket] += int(messages)
    assert told == {"control": 5, "subscribe": 5}


def test_a_flood_of_malformed_messages_is_one_log_line_in_ten_seconds(caplog, monkeypatch):
    now = [10**12]
    monkeypatch.setattr("streamtok.wire.errors.time.monotonic_ns", lambda: now[0])
    rejects = Rejects()
    for _ in range(300):
        rejects.add("control", WireError("size", "too big"))
        now[0] += 10**8
    assert len(caplog.records) == 3
    assert "messages=100" in caplog.records[1].getMessage()


def test_a_reader_that_is_let_go_is_not_waited_for(fake, caplog):
    """Garbage is collected in any thread, also in one that holds what the reader's thread needs to end, as a log."""
    socket, endpoint = fake
    reader = subscribe(endpoint)
    joined(socket)
    for _ in range(2):  # one line is logged at once, the other at the end
        socket.send_multipart([b"tokens/front", b"?", b""])
    readers, rejects = [reader], reader.rejects
    assert eventually(lambda: rejects.counts["subscribe.header"] == 2), rejects.counts
    del reader
    collecting = threading.Thread(target=readers.clear)
    with caplog.handler.lock:
        collecting.start()
        collecting.join(10)
        ended = not collecting.is_alive()
    assert ended
    assert eventually(lambda: caplog.text.count("event=malformed") == 2), rejects
