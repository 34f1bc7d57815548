"""The faults of a soak run: each gets the run and random numbers of its own, does harm, and checks what must hold."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec
import zmq

from streamtok.bench.soak.programs import Program

if TYPE_CHECKING:
    from streamtok.bench.soak.run import Soak

REQUESTS = 200
TOPICS = 1000
TOPIC_BYTES = 64
CONNECTIONS = 100
JUNK_MESSAGES = 300
LINGER_MS = 1000
START_S = 120.0  # for a process to start on a busy machine

Fault = Callable[["Soak", random.Random], None]


def kill_reader(soak: Soak, chance: random.Random) -> None:
    """Kill -9 of a reader, and a new one."""
    reader = chance.choice(soak.readers)
    reader.kill()
    reader.start()
    soak.wait_until(reader.takes_signals, START_S)


def stop_reader(soak: Soak, chance: random.Random) -> None:
    """A reader that stands still for a while."""
    reader = chance.choice(soak.readers)
    reader.send(signal.SIGSTOP)
    soak.wait(chance.uniform(0.5, 3))
    reader.send(signal.SIGCONT)


def stop_node(soak: Soak, chance: random.Random) -> None:
    """The node itself stands still for a moment, as on a suspended machine."""
    soak.node.send(signal.SIGSTOP)
    soak.wait(chance.uniform(0.2, 1))
    soak.node.send(signal.SIGCONT)
    soak.check_decodable("decodable after a stop", "")


def kill_node(soak: Soak, _chance: random.Random) -> None:
    """Kill -9 of the node, and a new one at the same addresses."""
    before = soak.watcher.session
    soak.node.kill()
    soak.start_node()
    soak.check_decodable("decodable after a restart", before)


def flood_requests(soak: Soak, chance: random.Random) -> None:
    """A client that sends malformed requests and hangs up without reading a reply."""
    with stranger(zmq.DEALER, soak.control) as client:
        with contextlib.suppress(zmq.Again):  # the node takes no more of them
            for _ in range(REQUESTS):
                client.send_multipart(make_junk(chance, [b""]), zmq.NOBLOCK)
        soak.wait(0.1)


def flood_subscriptions(soak: Soak, chance: random.Random) -> None:
    """A client that subscribes to many long topics."""
    with stranger(zmq.SUB, soak.endpoint) as client:
        for _ in range(TOPICS):
            client.subscribe(b"tokens/" + chance.randbytes(TOPIC_BYTES))
        soak.wait(1)


def idle_connections(soak: Soak, _chance: random.Random) -> None:
    """Strangers that connect to the node and to its metrics, and say nothing."""
    ports = (int(soak.endpoint.rpartition(":")[2]), soak.metrics_port)
    with contextlib.ExitStack() as held:
        for port in ports * (CONNECTIONS // 2):
            with contextlib.suppress(OSError):  # refused: as good
                held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1))
        soak.wait(1)
        soak.scraper.check_page("/healthz")


def hostile_publisher(soak: Soak, chance: random.Random) -> None:
    """A publisher of junk: its reader counts it, goes on, and ends as it is told."""
    context = zmq.Context()
    try:
        publisher = context.socket(zmq.XPUB)
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        endpoint = f"tcp://127.0.0.1:{port}"
        reader = Program("misled", lambda _: ["subscribe", endpoint, "--quiet", "--json"], soak.folder)
        reader.start()
        try:
            joined = soak.wait_until(lambda: bool(publisher.poll(0)), START_S)
            soak.wait(0.2)  # its other topics
            for _ in range(JUNK_MESSAGES):
                publisher.send_multipart(make_junk(chance, [b"tokens/front", b"info/front", b"tokens/" + b"x" * 300]))
            soak.wait(0.5)
            alive = joined and not reader.has_ended()
        finally:
            status = reader.end()
        told = json.loads(reader.output.read_bytes() or b"{}")
        kept = alive and status == 0 and bool(told.get("malformed"))
        soak.promises.check("a reader bears a hostile publisher", kept, reader.last_words())
    finally:
        context.destroy(linger=LINGER_MS)


def make_junk(chance: random.Random, topics: list[bytes]) -> list[bytes]:
    """The parts of one message that means nothing: noise, maps without their fields, lists in lists."""
    kinds: list[Callable[[], bytes]] = [
        lambda: chance.randbytes(chance.randrange(200)),
        lambda: msgspec.msgpack.encode({"version": chance.choice([0, 1, 2**40]), "op": "epoch", "stream": "x" * 99}),
        lambda: b"\x91" * chance.randrange(3000),
        lambda: b"\xdd\xff\xff\xff\xff",
    ]
    return [chance.choice(topics), *(chance.choice(kinds)() for _ in range(chance.randrange(1, 5)))]


@contextlib.contextmanager
def stranger(kind: int, endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """A connected socket of a context of its own, which hangs up at the end."""
    context = zmq.Context()
    try:
        client = context.socket(kind)
        client.sndhwm = 2 * REQUESTS
        client.connect(endpoint)
        time.sleep(0.05)
        yield client
    finally:
        context.destroy(linger=LINGER_MS)


FAULTS: dict[str, Fault] = {
    "kill_reader": kill_reader,
    "stop_reader": stop_reader,
    "stop_node": stop_node,
    "kill_node": kill_node,
    "flood_requests": flood_requests,
    "flood_subscriptions": flood_subscriptions,
    "idle_connections": idle_connections,
    "hostile_publisher": hostile_publisher,
}
