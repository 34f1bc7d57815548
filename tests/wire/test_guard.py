"""Connections that a node does not keep: strangers in numbers, and readers that send without end."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
import zmq

from streamtok.types import Frame
from streamtok.wire import guard
from streamtok.wire.guard import Peer
from streamtok.wire.header import Limits
from streamtok.wire.subscriber import subscribe
from streamtok.wire.tcp import Link, LinkState, borrow, find_link
from tests.kit.wire import Served, eventually, make_group, make_info
from tests.kit.zmtp import frame, shake_hands

QUIET = LinkState(False, probes=0, unacknowledged=0, silent_ms=0, taken=0, received=0, unsent=0, dropped=0)


def is_open(connection):
    """Whether the other end has not closed yet; what it has sent is thrown away."""
    connection.setblocking(False)
    try:
        while data := connection.recv(4096):
            pass
        return bool(data)
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_silent_connections_are_bounded_and_keep_no_reader_out(caplog):
    strangers = 3 * guard.MAX_STRANGERS
    with Served("front") as node, subscribe(node.endpoint, timeout=60) as early, contextlib.ExitStack() as held:
        node.wait_subscribers(1)
        address = "127.0.0.1", int(node.endpoint.rpartition(":")[2])
        silent = [held.enter_context(socket.create_connection(address)) for _ in range(strangers)]
        assert eventually(lambda: sum(map(is_open, silent)) <= guard.MAX_STRANGERS)
        with subscribe(node.endpoint, timeout=60) as late:
            node.wait_subscribers(2)
            node.publish(*[make_group(number) for number in range(3)])
            assert [message.header.seq for message in islice(late, 3)] == [0, 1, 2]
            assert [message.header.seq for message in islice(early, 3)] == [0, 1, 2]
        assert caplog.text.count("event=cut_off") == 1  # in 10 s
        assert "reason=silent" in caplog.text


def test_readers_beyond_the_number_of_strangers_all_stay(context, caplog):
    with Served("front") as node, contextlib.ExitStack() as held:
        readers = []
        for count in (guard.MAX_STRANGERS // 2, guard.MAX_STRANGERS, guard.MAX_STRANGERS + 10):
            while len(readers) < count:
                readers.append(held.enter_context(context.socket(zmq.SUB)))
                readers[-1].subscribe("tokens/")
                readers[-1].connect(node.endpoint)
            node.wait_subscribers(count)
        node.publish(make_group(0))
        assert all(reader.poll(60_000) for reader in readers)
        assert "event=cut_off" not in caplog.text


def test_the_last_of_many_peers_is_looked_at_too(caplog, monkeypatch):
    """A look that has no time for all goes on with the others at the next tick."""
    monkeypatch.setattr(guard, "LOOK_S", 1e-5)
    monkeypatch.setattr(guard, "TICK_MS", 10)
    with Served("front") as node, contextlib.ExitStack() as held:
        address = "127.0.0.1", int(node.endpoint.rpartition(":")[2])
        for _ in range(20):
            held.enter_context(shake_hands(socket.create_connection(address), b"SUB"))
        flood_control(node, caplog)


CROWD = """
import socket, time
from streamtok.types import Frame
from streamtok.wire import guard
from streamtok.wire.publisher import Publisher

guard.PeerGuard._accept = lambda *event: time.sleep(1)  # on a busy machine it does not come to look
with Publisher("tcp://127.0.0.1:*") as publisher:
    address, held = ("127.0.0.1", int(publisher.endpoint.rpartition(":")[2])), []
    try:
        while True:  # until libzmq waits for the guard
            held.append(socket.create_connection(address, timeout=2))
    except TimeoutError:
        pass
print("closed")
"""


def test_a_node_ends_although_nobody_has_heard_of_the_newest_connections():
    """libzmq's thread waits for the guard then, and who waits for libzmq's thread must let the guard run."""
    ended = subprocess.run([sys.executable, "-c", CROWD], capture_output=True, text=True, timeout=200)
    assert (ended.returncode, ended.stdout) == (0, "closed\n"), ended.stderr


def test_a_reader_that_subscribes_without_end_is_cut_off_and_forgotten(context, caplog):
    with Served("front") as node, subscribe(node.endpoint, timeout=60) as reader:
        node.wait_subscribers(1)
        flooder = context.socket(zmq.XSUB)
        flooder.linger = 0
        flooder.connect(node.endpoint)
        numbers = count()

        def flood_until_cut_off():
            with contextlib.suppress(zmq.Again):  # the queue to the node is full
                for number in islice(numbers, guard.BURST // 100):
                    flooder.send(b"\x01tokens/" + f"{number:092}".encode(), zmq.NOBLOCK)
            return "event=cut_off" in caplog.text  # also as gone: where no more is read, no answer is

        assert eventually(flood_until_cut_off)
        flooder.close()
        assert eventually(lambda: node.do(lambda publisher: publisher.subscribers("front") == 1))
        node.publish(*[make_group(number) for number in range(3)])
        assert [message.header.seq for message in islice(reader, 3)] == [0, 1, 2]


def test_a_request_without_end_is_cut_off(caplog):
    """libzmq keeps the parts of a message until its last one has come."""
    with Served("front") as node:
        flood_control(node, caplog)


def test_a_flood_is_noticed_as_it_comes(caplog, monkeypatch):
    """In the time of a tick a flood of subscriptions made those who then left hold up a node for minutes."""
    monkeypatch.setattr(guard, "TICK_MS", 600_000)
    with Served("front") as node:
        flood_control(node, caplog)


def test_the_more_readers_there_are_the_fewer_bytes_they_may_subscribe_to(caplog):
    """libzmq goes through all subscriptions for each reader that leaves."""
    topics = b"".join(frame(b"\x01tokens/" + f"{number:092}".encode()) for number in range(480))
    with Served("front") as node, subscribe(node.endpoint, timeout=60) as reader, contextlib.ExitStack() as held:
        node.wait_subscribers(1)
        address = "127.0.0.1", int(node.endpoint.rpartition(":")[2])
        peers = [held.enter_context(shake_hands(socket.create_connection(address), b"SUB")) for _ in range(80)]
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(topics)
        assert eventually(lambda: "reason=flood" in caplog.text)
        assert eventually(lambda: sum(map(is_open, peers)) ** 2 * len(topics) <= guard.MAX_WALK)
        assert is_open(peers[0])  # of readers that name as much, the newest goes
        node.publish(make_group(0))
        assert next(reader).header.seq == 0


def test_a_descriptor_that_is_another_file_meanwhile_costs_no_descriptor(tmp_path):
    with (tmp_path / "file").open("w") as file:
        before = len(os.listdir("/proc/self/fd"))
        assert [find_link(file.fileno()) for _ in range(100)] == [None] * 100
        assert len(os.listdir("/proc/self/fd")) < before + 50  # other threads have descriptors, too


def flood_control(node, caplog, pause=None):
    """Send a request without end until it is cut off; `pause` is ended once the connection is there."""
    address = "127.0.0.1", int(node.publisher.control_endpoint.rpartition(":")[2])
    with shake_hands(socket.create_connection(address), b"DEALER") as asker:
        if pause is not None:
            pause.set()
        asker.settimeout(2)
        with contextlib.suppress(OSError):  # nothing answers any more
            for _ in range(1000):
                asker.sendall(50 * frame(bytes(4000), more=True))
            pytest.fail("200 MB of one request were taken")
        assert eventually(lambda: "reason=flood" in caplog.text)


def test_a_connection_is_watched_although_its_descriptor_was_that_of_another_socket(caplog, monkeypatch):
    """The sockets' events come apart, so the end of the old connection may be heard after the new one was accepted."""
    pause, recv = threading.Event(), guard.recv_monitor_message
    monkeypatch.setattr(guard, "recv_monitor_message", lambda monitor: pause.wait(60) and recv(monitor))
    with Served("front") as node:
        address = "127.0.0.1", int(node.endpoint.rpartition(":")[2])
        for connection in [shake_hands(socket.create_connection(address), b"SUB") for _ in range(20)]:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
            connection.close()
        flood_control(node, caplog, pause)


def test_an_hour_of_silence_earns_no_right_to_a_flood():
    peer = Peer(Link(0, None), since=0.0, subscribes=True)
    peer.note(replace(QUIET, received=100), 3600.0)
    peer.note(replace(QUIET, received=200 + guard.BURST), 3600.1)
    assert peer.debt > guard.BURST - 1000
    peer.note(replace(QUIET, received=200 + guard.BURST), 3700.0)
    assert peer.debt == 0


def test_images_that_wait_for_readers_that_take_nothing_are_freed(context, caplog, monkeypatch):
    monkeypatch.setattr(guard, "STALLED_S", 0.2)
    monkeypatch.setattr(guard, "MAX_UNTAKEN", 1 << 20)
    frame, packets = Frame("front", 0, 0, np.zeros([480, 640, 3], np.uint8), codec="jpeg"), []
    with Served("front") as node:

        def publish() -> bool:
            packet = memoryview(bytes(1 << 18))  # which shows when it is freed
            packets.append(weakref.ref(packet))
            return node.do(lambda publisher: publisher.publish_frame(replace(frame, packet=packet)))

        for _ in range(3):
            reader = context.socket(zmq.SUB)
            reader.set(zmq.RCVHWM, 1)
            reader.set(zmq.RCVBUF, 4096)
            reader.subscribe("frames/")
            reader.connect(node.endpoint)
        assert eventually(publish)
        waiting = [publish() and packets[-1] for _ in range(200)]
        assert eventually(lambda: "reason=stalled" in caplog.text)
        # A reader is cut off for what is sent while it takes nothing, so there has to be more.
        assert eventually(lambda: (publish(), not any(packet() for packet in waiting if packet))[1])


def test_a_reader_that_takes_nothing_of_a_little_loses_nothing(context, caplog, monkeypatch):
    """One that is debugged: what waits for it is no burden yet."""
    monkeypatch.setattr(guard, "STALLED_S", 0.0)
    big = np.zeros([512, 1024], np.uint16)
    with Served(bind="tcp://127.0.0.1:*", messages_per_second=64) as node, context.socket(zmq.SUB) as reader:
        node.do(lambda publisher: publisher.add_stream(make_info(grid=[512, 1024])))
        reader.set(zmq.RCVHWM, 1)
        reader.set(zmq.RCVBUF, 4096)
        reader.subscribe("tokens/")
        reader.connect(node.endpoint)
        node.wait_subscribers(1)
        node.publish(*[make_group(number, tokens=big) for number in range(16)])
        [peer] = node.publisher._guard._peers.values()
        assert eventually(lambda: peer.seen - peer.took > 1)
        assert all(reader.poll(60_000) and reader.recv_multipart() for _ in range(16))
        assert "event=cut_off" not in caplog.text


@pytest.mark.parametrize("change", [{"taken": 1}, {"unacknowledged": 1}, {"unsent": 0}], ids=str)
def test_a_peer_that_takes_a_little_or_whose_link_hangs_has_not_stalled(change):
    peer = Peer(Link(0, None), since=0.0, subscribes=True)
    shut = replace(QUIET, unsent=1 << 20)
    for now in range(100):
        state = shut if now % 9 else replace(shut, **change | {"taken": now * change.get("taken", 0)})
        peer.note(state, float(now))
        assert now - peer.took < guard.STALLED_S
    peer.note(shut, 120.0)
    peer.note(shut, 131.0)
    assert 131.0 - peer.took > guard.STALLED_S


def test_a_message_without_end_is_given_up_and_its_reader_goes_on(caplog, monkeypatch):
    monkeypatch.setattr("streamtok.wire.drain.MAX_BACKLOG", 1 << 20)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with subscribe(endpoint, limits=Limits(max_grid=1 << 10, max_frame=1 << 16)) as reader:
            publisher = shake_hands(server.accept()[0], b"PUB")
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    publisher.sendall(50 * frame(b"tokens/front".ljust(4000), more=True))
                pytest.fail("200 MB of one message were taken")
            assert server.accept()  # it is back
            assert eventually(lambda: "event=overrun" in caplog.text)
            assert not reader.ended


def test_a_number_that_is_given_away_meanwhile_is_not_anothers_connection():
    """libzmq closes its descriptors when it likes, and the next file that is opened gets the number."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader, peer = socket.create_connection(listener.getsockname()), listener.accept()[0]
    number = peer.fileno()
    with reader, socket.socket() as other, borrow(number) as borrowed:
        os.dup2(other.fileno(), number)  # which closes what it was
        assert borrowed.getpeername() == reader.getsockname()
        reader.sendall(b"here")
        assert borrowed.recv(4) == b"here"
    peer.close()
