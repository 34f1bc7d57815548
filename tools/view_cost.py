"""What a page that is open costs a node on this machine: `python tools/view_cost.py [SECONDS]`.

One node (nano, 256x448, 5 frames per second, `ingest --view`) runs throughout; a page is open in every second stretch
of SECONDS (10). Printed are medians of the stretches with a page over those without, so a busy machine tells little.
"""

import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import streamtok

NODE, PORT = "tcp://127.0.0.1:5997", 8097
ROUNDS = 4


def main() -> None:
    """Run the node, open and close a page, print the ratios."""
    from websockets.sync.client import connect

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    command = [sys.executable, "-m", "streamtok.cli", "ingest", "--source", "synthetic:256x448@5?seed=7", "--realtime"]
    node = subprocess.Popen([*command, "--bind", NODE, "--view", str(PORT)], stderr=subprocess.DEVNULL)
    times: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    try:
        with streamtok.subscribe(NODE, timeout=120) as stream:
            while True:  # until the page is served
                try:
                    with connect(f"ws://127.0.0.1:{PORT}/socket"):
                        break
                except OSError:
                    time.sleep(0.5)
            for turn in range(2 * ROUNDS):
                is_open = turn % 2 == 1
                page = connect(f"ws://127.0.0.1:{PORT}/socket", max_size=None) if is_open else nullcontext()
                with page:
                    until, settled = time.monotonic() + seconds, time.monotonic() + seconds / 3
                    for message in stream:
                        if time.monotonic() > settled:
                            waited = message.header.publish_ns - message.capture_ns
                            times[is_open].append((message.header.encode_ns, waited))
                        if time.monotonic() > until:
                            break
    finally:
        node.terminate()
        node.wait()
    for place, name in enumerate(("encode", "capture to publish")):
        with_page, without = (statistics.median(each[place] for each in times[key]) for key in (True, False))
        print(
            f"{name}: {with_page / without:.2f} times with a page open ({len(times[True])}, {len(times[False])} groups)"
        )


if __name__ == "__main__":
    main()
