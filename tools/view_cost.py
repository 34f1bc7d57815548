"""What a page that is open costs a node on this machine: `python tools/view_cost.py [SECONDS]`.

One node (nano, 256x448, 5 frames per second, `ingest --view`) runs throughout; a page is open in every second stretch
of SECONDS (10). Printed are medians of the stretches with a page over those without, so a busy machine tells little.
"""

import statistics
import subprocess
import sys
import time

from websockets.sync.client import ClientConnection, connect

import streamtok
from streamtok.wire.subscriber import Subscription

NODE, PORT = "tcp://127.0.0.1:5997", 8097
ROUNDS = 4


def main() -> None:
    """Run the node, open and close a page, print the ratios."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    command = [sys.executable, "-m", "streamtok.cli", "ingest", "--source", "synthetic:256x448@5?seed=7", "--realtime"]
    node = subprocess.Popen([*command, "--bind", NODE, "--view", str(PORT)], stderr=subprocess.DEVNULL)
    times: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    try:
        with streamtok.subscribe(NODE, timeout=120) as stream:
            open_page().close()  # it is served now
            for _ in range(ROUNDS):
                times[False] += measure(stream, seconds)
                with open_page():
                    times[True] += measure(stream, seconds)
    finally:
        node.terminate()
        node.wait()
    for place, name in enumerate(("encode", "capture to publish")):
        with_page, without = (statistics.median(each[place] for each in times[key]) for key in (True, False))
        print(
            f"{name}: {with_page / without:.2f} times with a page open ({len(times[True])}, {len(times[False])} groups)"
        )


def open_page() -> ClientConnection:
    """What a browser opens, once it is served."""
    while True:
        try:
            return connect(f"ws://127.0.0.1:{PORT}/socket", max_size=None)
        except OSError:
            time.sleep(0.5)


def measure(stream: Subscription, seconds: float) -> list[tuple[int, int]]:
    """(encode, capture to publish) in ns of each group of the next `seconds`, without their first third."""
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
