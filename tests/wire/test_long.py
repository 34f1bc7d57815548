"""The long forms: a reader that stalls for a minute, and memory over many messages."""

import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import zmq

from streamtok.wire.message import unpack
from streamtok.wire.publisher import Publisher
from streamtok.wire.subscriber import Subscription, subscribe
from tests.kit.wire import Served, eventually, make_group, make_info

RUNS = int(os.environ.get("ENDINGS", "24"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_minute_without_reading_costs_only_those_who_do_not_read(context):
    """30 groups a second: one reader reads, one program does not look at its queue, one plain client hangs."""
    hanging = context.socket(zmq.SUB)
    hanging.set(zmq.RCVHWM, 30)
    hanging.subscribe(b"tokens/front")
    grid = np.zeros([90, 160], np.uint16)
    with (
        Served("other", messages_per_second=30) as node,
        subscribe(node.endpoint, ["front"], queue_size=10_000, timeout=60) as reading,
        subscribe(node.endpoint, ["front"], queue_size=90, timeout=60) as stalled,
    ):
        node.do(lambda publisher: publisher.add_stream(make_info(grid=list(grid.shape))))
        hanging.connect(node.endpoint)
        node.wait_subscribers(3)
        count = 60 * 30
        for number in range(count):
            node.publish(make_group(number, tokens=grid, interval=75))
            time.sleep(1 / 30)
        assert [message.header.seq for message in islice(reading, count)] == list(range(count))
        assert reading.counts()["front"]["lost"] == 0

        assert eventually(lambda: stalled.counts()["front"]["messages"] == count)
        newest = list(islice(stalled, 90))
        assert [message.header.seq for message in newest] == list(range(count - 90, count))
        assert next(message for message in newest if message.decodable).header.keyframe
        assert stalled.counts()["front"]["discarded"] == count - 90

        backlog = []
        while hanging.poll(500):
            backlog.append(unpack(hanging.recv_multipart()).header.seq)
        node.publish(make_group(count, tokens=grid, interval=75))
        assert hanging.poll(10_000)
        assert unpack(hanging.recv_multipart()).header.seq == count > backlog[-1] + 1


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_memory_is_flat_over_many_messages():
    with Publisher("tcp://127.0.0.1:*", lossless=True) as publisher:
        publisher.add_stream(make_info())
        with subscribe(publisher.endpoint, ["front"], queue_size=100, timeout=60) as reader:
            assert publisher.wait_subscribers(1, 20)
            sizes = []
            for number in range(60_000):
                publisher.publish(make_group(number, interval=75))
                if number % 50 == 49:  # on a busy machine the reader would have much to catch up with
                    publisher.poll()
                    assert eventually(lambda sent=number + 1: count_messages(reader) == sent)
                if number % 20_000 == 19_999:
                    sizes.append(resident_bytes())
            assert len(list(islice(reader, 100))) == 100
    assert sizes[-1] - sizes[0] < 8 << 20, sizes


def count_messages(reader: Subscription) -> int:
    return reader.counts().get("front", {}).get("messages", 0)


def test_clients_that_ask_more_than_is_read_and_hang_up_end_no_node(tmp_path):
    """Each fills the node's queue of requests and closes 2 s after its handshake, when a heartbeat would be due.

    `ENDINGS=1000` makes it as many.
    """
    source = ["--source", "synthetic:64x96@30?seed=1", "--realtime", "--threads", "1"]
    command = [sys.executable, "-m", "streamtok.cli", "ingest", *source, "--bind", f"ipc://{tmp_path}/tokens"]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert eventually((tmp_path / "tokens.control").exists)
        with ThreadPoolExecutor(12) as clients:
            control = f"ipc://{tmp_path}/tokens.control"
            left = [clients.submit(flood_and_leave, control, 1.925 + 0.005 * (number % 12)) for number in range(RUNS)]
            for number, client in enumerate(left):
                client.result()
                assert node.poll() is None, f"the node ended with {node.returncode} after {number + 1} clients"
        node.send_signal(signal.SIGTERM)
        assert node.wait(10) == 0
    finally:
        node.kill()


def flood_and_leave(endpoint: str, leave_after_s: float) -> None:
    context = zmq.Context()
    client = context.socket(zmq.DEALER)
    client.set(zmq.SNDHWM, 0)
    monitor = client.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    client.connect(endpoint)
    assert monitor.poll(20_000)
    begin = time.monotonic()
    client.disable_monitor()
    monitor.close(0)
    time.sleep(max(0, begin + leave_after_s - time.monotonic()))
    for _ in range(3000):
        client.send(b"\xc1")
    client.close(20)
    context.term()


LEFT = """
import sys
from streamtok.wire.subscriber import subscribe
for join in ("epoch", "keyframe"):
    reader = subscribe(sys.argv[1], join=join, timeout=60)
    next(reader)
forgotten = subscribe(sys.argv[1])
del forgotten
"""


@pytest.mark.timeout(7200)
def test_programs_that_leave_readers_open_end_with_status_0():
    """Readers of a node that sends, let go or left to the end of the program. `ENDINGS=1000` makes it as many."""
    with Served("front") as node, ThreadPoolExecutor(1) as sending:
        done = threading.Event()
        sender = sending.submit(publish_until, node, done)
        try:
            for number in range(RUNS):
                command = [sys.executable, "-c", LEFT, node.endpoint]
                ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
                assert (ended.returncode, ended.stderr) == (0, ""), f"program {number}"
        finally:
            done.set()
            sender.result()


def publish_until(node: Served, done: threading.Event) -> None:
    for number in itertools.count():
        if done.wait(0.005):
            return
        node.publish(make_group(number, interval=75))
