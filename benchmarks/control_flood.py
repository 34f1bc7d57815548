"""Measures what a flood of the control socket costs the encoder: `python benchmarks/control_flood.py [SECONDS]`.

One node encodes as fast as it can. In every second stretch of SECONDS (2) a client floods it with requests, of another
kind each round. In the other stretches it floods an idle publisher, so that the client's own cost is the same. Printed
are medians over ROUNDS of the ratio of a flooded stretch to the one before it: of groups per second, and of the
encoder thread's CPU time per group.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import streamtok
from streamtok.wire.publisher import Publisher
from streamtok.wire.subscriber import Subscription

NODE, CONTROL, IDLE = "tcp://127.0.0.1:5987", "tcp://127.0.0.1:5988", "tcp://127.0.0.1:5989"
SOURCE = "synthetic:64x96@30?seed=7&frames=9000000"
KINDS = "junk", "info", "stats", "epoch"
ROUNDS = 12
FLOOD = """
import sys, msgspec, zmq
kind, control = sys.argv[1:]
body = b"\\xc1" if kind == "junk" else msgspec.msgpack.encode({"version": 1, "id": 1, "op": kind, "stream": "cam0"})
client = zmq.Context().socket(zmq.DEALER)
client.connect(control)
while True:
    ready = client.poll(1000, zmq.POLLIN | zmq.POLLOUT)
    if ready & zmq.POLLIN:
        client.recv(copy=False)
    if ready & zmq.POLLOUT:
        client.send(body)
"""


def main() -> None:
    """Run the node and print the ratios."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    command = [sys.executable, "-m", "streamtok.cli", "ingest", "--source", SOURCE, "--threads", "1"]
    node = subprocess.Popen([*command, "--bind", NODE, "--control", CONTROL], stderr=subprocess.DEVNULL)
    ratios = []
    try:
        with streamtok.subscribe(NODE, timeout=120) as stream, Publisher("tcp://127.0.0.1:*", IDLE):
            next(stream)
            measure(node, stream, seconds)
            for turn in range(ROUNDS):
                kind = KINDS[turn % len(KINDS)]
                without, flooded = (flood(kind, where, node, stream, seconds) for where in (IDLE, CONTROL))
                ratios.append([after / before for after, before in zip(flooded, without, strict=True)])
    finally:
        node.terminate()
        node.wait()
    rate, cost = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"flooded: {rate:.2f} times the groups per second, {cost:.2f} times the encoder's processor time for each")


def flood(kind: str, control: str, node: subprocess.Popen, stream: Subscription, seconds: float) -> tuple[float, float]:
    """Run `measure` while a client floods a control socket."""
    client = subprocess.Popen([sys.executable, "-c", FLOOD, kind, control])
    try:
        time.sleep(1)
        return measure(node, stream, seconds)
    finally:
        client.kill()
        client.wait()


def measure(node: subprocess.Popen, stream: Subscription, seconds: float) -> tuple[float, float]:
    """Measure for some seconds: (groups per second, CPU seconds of the node's main thread per group)."""
    while stream.get(0) is not None:
        pass
    groups, began, busy = 0, time.monotonic(), processor_time(node.pid)
    while time.monotonic() - began < seconds:
        groups += stream.get(0.1) is not None
    groups = max(1, groups)
    return groups / (time.monotonic() - began), (processor_time(node.pid) - busy) / groups


def processor_time(pid: int) -> float:
    """CPU seconds of the main thread of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


if __name__ == "__main__":
    main()
