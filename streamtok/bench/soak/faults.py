"""The faults of a soak run. Each is a function of the run and a random generator that does harm and checks promises."""

import contextlib
import json
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import zmq

from streamtok.bench.process import Program
from streamtok.bench.soak.link import BreakableLink
from streamtok.bench.soak.run import DECODABLE_S, START_S, Fault, Soak
from streamtok.types import TokenGroup
from streamtok.wire.header import Info
from streamtok.wire.publisher import Publisher
from streamtok.wire.subscriber import Subscription, subscribe

REQUESTS = 200
TOPICS = 1000
TOPIC_BYTES = 64
CONNECTIONS = 100
JUNK_MESSAGES = 300
LINGER_MS = 1000
PING_MS = 20  # heartbeat interval of strangers: a ping behind a full queue can break libzmq (`wire.tcp`)
ROOM = 1 << 13  # largest size in bytes of files on the "full" disk
CLOCK_MESSAGES, CLOCK_EVERY = 60, 20
HOUR_NS = 3_600_000_000_000
CLOCK_STREAM: dict[str, Any] = {
    "tokenizer": "none",
    "grid": [4, 6],
    "dtype": "uint16",
    "levels": [8, 8, 8, 5, 5, 5],
    "image_size": [32, 48],
    "temporal_compression": 4,
}


def kill_reader(soak: Soak, chance: random.Random) -> None:
    """Kill a reader with SIGKILL, and start a new one."""
    reader = chance.choice(soak.readers)
    reader.kill()
    reader.start()
    soak.wait_until(reader.takes_signals, START_S)


def stop_reader(soak: Soak, chance: random.Random) -> None:
    """Suspend a reader for a while."""
    reader = chance.choice(soak.readers)
    reader.process.send_signal(signal.SIGSTOP)
    soak.wait(chance.uniform(0.5, 3))
    reader.process.send_signal(signal.SIGCONT)


def stop_node(soak: Soak, chance: random.Random) -> None:
    """Suspend the node, as a suspended machine does, for a moment or for longer than any frame may wait."""
    soak.node.process.send_signal(signal.SIGSTOP)
    soak.wait(chance.choice([chance.uniform(0.2, 1), chance.uniform(6, 8)]))
    soak.node.process.send_signal(signal.SIGCONT)
    soak.check_decodable("decodable after a stop", "")


def kill_node(soak: Soak, _chance: random.Random) -> None:
    """Kill the node with SIGKILL, and start a new one at the same addresses."""
    before = soak.watcher.session
    soak.node.kill()
    soak.start_node()
    soak.check_decodable("decodable after a restart", before)


def flood_requests(soak: Soak, chance: random.Random) -> None:
    """Send malformed requests, and hang up without reading a reply."""
    with stranger(zmq.DEALER, soak.control) as client:
        with contextlib.suppress(zmq.Again):  # back-pressure: the node takes no more of them
            for _ in range(REQUESTS):
                client.send_multipart(make_junk(chance, [b""]), zmq.NOBLOCK)
        soak.wait(0.1)


def flood_subscriptions(soak: Soak, chance: random.Random) -> None:
    """Subscribe to many long topics."""
    with stranger(zmq.SUB, soak.endpoint) as client:
        for _ in range(TOPICS):
            client.subscribe(b"tokens/" + chance.randbytes(TOPIC_BYTES))
        soak.wait(1)


def idle_connections(soak: Soak, _chance: random.Random) -> None:
    """Open many connections to the node and its metrics that send nothing."""
    ports = (int(soak.endpoint.rpartition(":")[2]), soak.metrics_port)
    with contextlib.ExitStack() as connections:
        for port in ports * (CONNECTIONS // 2):
            with contextlib.suppress(OSError):  # the node may refuse them
                connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1))
        soak.wait(1)
        soak.scraper.check_page("/healthz")


def hostile_publisher(soak: Soak, chance: random.Random) -> None:
    """Publish junk to a reader, which must count it, go on, and end when told to."""
    context = zmq.Context()
    try:
        publisher = context.socket(zmq.XPUB)
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        endpoint = f"tcp://127.0.0.1:{port}"
        reader = Program("misled", lambda _: ["subscribe", endpoint, "--quiet", "--json"], soak.folder)
        reader.start()
        try:
            joined = soak.wait_until(lambda: bool(publisher.poll(0)), START_S)
            soak.wait(0.2)  # until it has subscribed to its other topics
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


def link_down(soak: Soak, chance: random.Random) -> None:
    """Break the link between the node and a reader, with closed or with hanging connections, and restore it."""
    with BreakableLink(soak.endpoint) as link, subscribe(link.endpoint) as reader:
        soak.wait_until(lambda: takes_one(reader), START_S)
        chance.choice([link.cut, link.freeze])()
        soak.wait(chance.uniform(0.5, 4))
        while reader.get(0) is not None:  # drain what came before the outage
            pass
        link.restore()
        began = time.monotonic()
        back = soak.wait_until(lambda: takes_one(reader), DECODABLE_S)
        soak.link_s.append(time.monotonic() - began)
        soak.promises.check("decodable after an outage of the link", back, f"not within {DECODABLE_S} s")


def takes_one(reader: Subscription) -> bool:
    """Whether a decodable message has come."""
    message = reader.get(0)
    return message is not None and message.decodable


def disk_full(soak: Soak, _chance: random.Random) -> None:
    """Fill the disk of a recorder, which must report it and end; nothing else may end."""
    name = f"full{time.monotonic_ns()}"
    file = soak.folder / f"{name}.mcap"
    recorder = Program(name, lambda _: ["record", soak.endpoint, "--json", "-o", str(file)], soak.folder)
    recorder.start()
    try:
        soak.wait_until(lambda: file.exists() and file.stat().st_size > 0, START_S)
        limit = ROOM, resource.RLIM_INFINITY  # simulates a full disk; it leaves room for the log, also a file
        resource.prlimit(recorder.process.pid, resource.RLIMIT_FSIZE, limit)
        ended = soak.wait_until(recorder.has_ended, START_S)
        words = recorder.last_words()
        told = words.count(str(file)) > 1 and "Traceback" not in words  # the log names the file at start and at the end
        kept = ended and recorder.process.returncode == 1 and told
        soak.promises.check("a full disk ends its recorder with a word", kept, words)
    finally:
        if not recorder.has_ended():
            recorder.kill()


def clock_jump(soak: Soak, chance: random.Random) -> None:
    """Set the clocks of a publisher ahead or back by hours while it is recorded."""
    folder, shift_ns, sent = soak.folder / f"jump{time.monotonic_ns()}", 0, 0
    folder.mkdir()

    def tell_time() -> tuple[int, int]:
        return time.monotonic_ns() + shift_ns, time.time_ns() + shift_ns

    with Publisher("tcp://127.0.0.1:*", clock_ns=lambda: tell_time()[0], clock_pair=tell_time) as publisher:
        publisher.add_stream(Info(stream="front", **CLOCK_STREAM))
        arguments = ["record", publisher.endpoint, "--json", "--no-until-end", "-o", str(folder)]
        recorder = Program("recorder of a jumping clock", lambda _: arguments, soak.folder)
        recorder.start()
        try:
            soak.wait_until(lambda: publisher.wait_subscribers(1, 0.05), START_S)
            for sent in range(1, CLOCK_MESSAGES + 1):
                shift_ns += chance.choice([-1, 1]) * HOUR_NS * (sent % CLOCK_EVERY == 0)
                publisher.publish(make_keyframe(sent, tell_time()[0]))
                soak.wait_until(lambda: bool(publisher.poll()), 0.02)
            soak.wait(0.5)
        finally:
            status = recorder.end()
    told = json.loads(recorder.output.read_bytes() or b"{}")
    kept = status == 0 and told.get("tokens") == sent
    soak.promises.check("a recording outlives clocks that are set", kept, f"{told} of {sent}; {recorder.last_words()}")


def make_keyframe(number: int, capture_ns: int) -> TokenGroup:
    """Make a keyframe group of CLOCK_STREAM."""
    grid = np.zeros(CLOCK_STREAM["grid"], np.uint16)
    height, width = CLOCK_STREAM["image_size"]
    return TokenGroup("front", grid, True, number, [number], [capture_ns], 0, 0, 0, (height, width))


def make_junk(chance: random.Random, topics: list[bytes]) -> list[bytes]:
    """Make the parts of one malformed message: noise, maps without their fields, nested lists."""
    kinds: list[Callable[[], bytes]] = [
        lambda: chance.randbytes(chance.randrange(200)),
        lambda: msgspec.msgpack.encode({"version": chance.choice([0, 1, 2**40]), "op": "epoch", "stream": "x" * 99}),
        lambda: b"\x91" * chance.randrange(3000),
        lambda: b"\xdd\xff\xff\xff\xff",
    ]
    return [chance.choice(topics), *(chance.choice(kinds)() for _ in range(chance.randrange(1, 5)))]


@contextlib.contextmanager
def stranger(kind: int, endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """Yield a connected socket of a new context, and hang up at the end."""
    context = zmq.Context()
    try:
        client = context.socket(kind)
        client.sndhwm = 2 * REQUESTS
        client.heartbeat_ivl = PING_MS
        client.connect(endpoint)
        time.sleep(0.05)
        yield client
    finally:
        context.destroy(linger=LINGER_MS)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(kill_reader, stop_reader, stop_node, kill_node, flood_requests, flood_subscriptions, idle_connections),
        *(hostile_publisher, link_down, disk_full, clock_jump),
    )
}
