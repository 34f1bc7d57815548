"""Measures what an open page costs a node on this machine: `python benchmarks/view_cost.py [SECONDS]`.

One node (nano, 256x448, 5 frames per second, `ingest --view`) runs throughout; a page is open in every second stretch
of SECONDS (10). Printed are ratios of medians with a page to those without; on a busy machine they mean little.
"""

import argparse
import subprocess
import sys
import time
from statistics import median

from websockets.sync.client import ClientConnection, connect

import streamtok
from streamtok.wire.subscriber import Subscription

NODE, PORT = "tcp://127.0.0.1:5997", 8097
ROUNDS = 4
StageTimes = tuple[int, int]  # of a group, in ns: encode, capture to publish


def main() -> None:
    """Run the node, open and close a page, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=10.0, help="of a stretch (10)")
    seconds = parser.parse_args().seconds
    command = [sys.executable, "-m", "streamtok.cli", "ingest", "--source", "synthetic:256x448@5?seed=7", "--realtime"]
    node = subprocess.Popen([*command, "--bind", NODE, "--view", str(PORT)], stderr=subprocess.DEVNULL)
    try:
        with_page, without = time_groups(seconds)
    finally:
        node.terminate()
        node.wait()
    for stage, name in enumerate(("encode", "capture to publish")):
        ratio = median(times[stage] for times in with_page) / median(times[stage] for times in without)
        print(f"{name}: {ratio:.2f} times with a page open ({len(with_page)}, {len(without)} groups)")


def time_groups(seconds: float) -> tuple[list[StageTimes], list[StageTimes]]:
    """Measure the times of groups while a page is open, and while none is."""
    with_page, without = [], []
    with streamtok.subscribe(NODE, timeout=120) as stream:
        with open_page():
            pass  # wait until the page is served
        for _ in range(ROUNDS):
            without += measure(stream, seconds)
            with open_page():
                with_page += measure(stream, seconds)
    return with_page, without


def open_page() -> ClientConnection:
    """Open the page's WebSocket as a browser does, once it is served."""
    while True:
        try:
            return connect(f"ws://127.0.0.1:{PORT}/socket", max_size=None)
        except OSError:
            time.sleep(0.5)


def measure(stream: Subscription, seconds: float) -> list[StageTimes]:
    """The times of each group within `seconds`, without the first third."""
    start, found = time.monotonic(), []
    for message in stream:
        passed = time.monotonic() - start
        if passed > seconds / 3:
            found.append((message.header.encode_ns, message.header.publish_ns - message.capture_ns))
        if passed > seconds:
            return found
    return found


if __name__ == "__main__":
    main()
