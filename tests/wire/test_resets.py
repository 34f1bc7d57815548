"""Peers that fill a queue, ask for a sign of life behind it, and break off: libzmq 4.3.5 ends a process over them."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from itertools import islice

import msgpack
import msgspec
import pytest
import zmq

from streamtok.wire.message import compute_checksum, pack
from streamtok.wire.subscriber import subscribe
from tests.kit.wire import Served, eventually, make_group, make_header
from tests.kit.zmtp import frame, ping, reset, shake_hands

REPLACING = """
import zmq
from streamtok.wire.connection import Connection
from streamtok.wire.endpoint import open_socket, receive
context = zmq.Context()
publisher = context.socket(zmq.XPUB)
port = publisher.bind_to_random_port("tcp://127.0.0.1")
reader = open_socket(context, zmq.SUB, 100, 1 << 20)
reader.subscribe("")
connection = Connection(reader, f"tcp://127.0.0.1:{port}")
publisher.recv()
publisher.send_multipart([b"old", b"", b""])
assert reader.poll(60_000)
connection.connect_anew()
while not reader.poll(10):
    publisher.send_multipart([b"new", b"", b""])
assert receive(reader)[0] == b"new"
"""
CLIENTS = int(os.environ.get("ENDINGS", "24"))
ASKED = frame(msgpack.packb({"version": 1, "id": 1, "op": "info"}))
SUBSCRIBED = frame(b"\x01tokens/front")
NODE = """
import sys, time
from streamtok.wire.publisher import Publisher
from tests.kit.wire import make_info
with Publisher("tcp://127.0.0.1:*") as publisher:
    publisher.add_stream(make_info())
    print(publisher.endpoint, publisher.control_endpoint, flush=True)
    while True:
        publisher.poll()
        time.sleep(0.03)
"""
SLOW = """
import time
from streamtok.wire.guard import PeerGuard
take = PeerGuard._take
PeerGuard._take = lambda self, *event: (time.sleep(0.5), take(self, *event))
"""
READER = """
import sys, time
from streamtok.wire.subscriber import subscribe
reader = subscribe(sys.argv[1], lossless=sys.argv[2] == "True", queue_size=16)
while True:
    time.sleep(0.002)
    reader.get(0.1)
"""


def connect_to(endpoint):
    return socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])))


def message_of(number):
    """The frames of one message."""
    payload = bytes(48)
    header = msgspec.structs.replace(make_header(number), checksum=compute_checksum(payload))
    return b"".join(frame(part, more=place < 2) for place, part in enumerate(pack(header, payload)))


@contextlib.contextmanager
def running(script, *arguments):
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("place", "kind", "body"), [(0, b"SUB", SUBSCRIBED), (1, b"DEALER", ASKED)])
def test_a_client_that_pings_behind_a_full_queue_and_is_reset_ends_no_node(place, kind, body):
    """`ENDINGS=1000` makes it as many."""
    with running(NODE) as node:
        endpoint = node.stdout.readline().split()[place]
        for number in range(CLIENTS):
            client = shake_hands(connect_to(endpoint), kind)
            with contextlib.suppress(OSError):  # cut off
                client.sendall((70 * body + 3 * ping()) * 10)
            time.sleep(0.002 * (number % 6))
            reset(client)
            time.sleep(0.05)
            assert node.poll() is None, f"ended with {node.returncode} after {number + 1} clients"


def test_the_first_client_ends_no_node_on_a_busy_machine():
    """The thread that watches connections begins late there."""
    with running(SLOW + NODE) as node:
        endpoint = node.stdout.readline().split()[0]
        for _ in range(5):
            client = shake_hands(connect_to(endpoint), b"SUB")
            client.sendall((70 * SUBSCRIBED + 3 * ping()) * 10)
            reset(client)
            time.sleep(0.05)
        assert node.poll() is None


@pytest.mark.parametrize("ttl", [0, 1])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_publisher_that_pings_behind_a_full_queue_and_is_reset_ends_no_reader(lossless, ttl):
    flood = b"".join(message_of(number) + ping(ttl) * (number % 5 == 0) for number in range(900))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with running(READER, endpoint, str(lossless)) as reader:
            for number in range(4):
                publisher = shake_hands(server.accept()[0], b"PUB")
                with contextlib.suppress(OSError):
                    publisher.sendall(flood)
                time.sleep(0.1 + 0.2 * ttl)
                reset(publisher)
                assert reader.poll() is None, f"ended with {reader.returncode} after {number + 1} publishers"
            assert server.accept()  # it is back


def test_a_reader_that_was_reset_is_forgotten():
    with Served("front") as node:
        client = shake_hands(connect_to(node.endpoint), b"SUB")
        client.sendall(SUBSCRIBED)
        node.wait_subscribers(1)
        reset(client)
        node.publish(make_group(0))
        assert eventually(lambda: node.do(lambda publisher: publisher.subscribers("front")) == 0)


def test_a_reader_that_was_reset_may_come_back_from_the_same_port():
    with Served("front") as node:
        address = "127.0.0.1", int(node.endpoint.rpartition(":")[2])
        own = "127.14.0.1", 0  # whose ports no other program takes meanwhile
        client = shake_hands(socket.create_connection(address, 10, own), b"SUB")
        place = client.getsockname()
        client.sendall(SUBSCRIBED)
        node.wait_subscribers(1)
        reset(client)

        refused = []

        def comes_back():
            node.publish(make_group(0))
            try:
                return shake_hands(socket.create_connection(address, 0.5, place), b"SUB")
            except OSError as error:
                refused.append(repr(error))  # the error itself would keep its socket, and so the port

        again = eventually(comes_back)
        assert again, refused[-1]
        again.close()


@pytest.mark.parametrize("lossless", [True, False])
def test_a_system_that_tells_nothing_of_its_connections_is_no_obstacle(lossless, monkeypatch):
    monkeypatch.delattr(socket, "TCP_INFO")
    monkeypatch.setattr("streamtok.wire.tcp.SO_ATTACH_FILTER", 4000)
    with Served("front") as node, subscribe(node.endpoint, lossless=lossless, timeout=60) as reader:
        node.wait_subscribers(1)
        node.publish(*[make_group(number) for number in range(3)])
        assert [message.header.seq for message in islice(reader, 3)] == [0, 1, 2]


def test_a_client_with_heartbeats_that_asks_more_than_is_read_ends_no_node_on_ipc_either(tmp_path):
    """There its end cannot be kept from libzmq: the queue is long instead."""
    script = NODE.replace("tcp://127.0.0.1:*", f"ipc://{tmp_path}/tokens")
    with running(script) as node:
        control = node.stdout.readline().split()[1]
        for number in range(8):
            context = zmq.Context()
            client = context.socket(zmq.DEALER)
            client.set(zmq.SNDHWM, 0)
            client.set(zmq.HEARTBEAT_IVL, 20)
            client.connect(control)
            for _ in range(20):
                for _ in range(100):
                    client.send(b"\xc1")
                time.sleep(0.01)
            context.destroy(linger=50)
            time.sleep(0.1)
            assert node.poll() is None, f"ended with {node.returncode} after {number + 1} clients"


def test_a_connection_that_is_replaced_while_a_message_waits_ends_no_reader():
    """libzmq reads a message's first part in `poll`, and aborts if the rest goes with the connection."""
    done = subprocess.run([sys.executable, "-c", REPLACING], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
