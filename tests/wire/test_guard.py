"""Connections that a node does not keep: strangers in numbers, and readers that send without end."""

import contextlib
import socket
from itertools import islice

import zmq

from streamtok.wire import guard
from streamtok.wire.subscriber import subscribe
from tests.kit.wire import Served, eventually, make_group


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
    with Served("front") as node, subscribe(node.endpoint, timeout=30) as early, contextlib.ExitStack() as held:
        node.wait_subscribers(1)
        address = "127.0.0.1", int(node.endpoint.rpartition(":")[2])
        silent = [held.enter_context(socket.create_connection(address)) for _ in range(strangers)]
        assert eventually(lambda: sum(map(is_open, silent)) <= guard.MAX_STRANGERS)
        with subscribe(node.endpoint, timeout=30) as late:
            node.wait_subscribers(2)
            node.publish(*[make_group(number) for number in range(3)])
            assert [message.header.seq for message in islice(late, 3)] == [0, 1, 2]
            assert [message.header.seq for message in islice(early, 3)] == [0, 1, 2]
        assert caplog.text.count("event=cut_off") == 1  # in 10 s
        assert "reason=silent" in caplog.text


def test_a_reader_that_subscribes_without_end_is_cut_off_and_forgotten(context, caplog):
    with Served("front") as node, subscribe(node.endpoint, timeout=30) as reader:
        node.wait_subscribers(1)
        flooder = context.socket(zmq.XSUB)
        flooder.linger = 0
        flooder.connect(node.endpoint)
        for number in range(6 * guard.BURST // 100):
            with contextlib.suppress(zmq.Again):
                flooder.send(b"\x01tokens/" + f"{number:092}".encode(), zmq.NOBLOCK if number % 100 else 0)
        assert eventually(lambda: "reason=flood" in caplog.text)
        flooder.close()
        assert eventually(lambda: node.do(lambda publisher: publisher.subscribers("front") == 1))
        node.publish(*[make_group(number) for number in range(3)])
        assert [message.header.seq for message in islice(reader, 3)] == [0, 1, 2]
