"""Print or forward a token stream.

    streamtok subscribe tcp://127.0.0.1:5555
    streamtok subscribe ipc:///tmp/rig.ipc --stream front --stream left --max-messages 100 --json
    streamtok subscribe tcp://10.0.0.2:5555 --curve keys --forward ipc:///tmp/rig.ipc

One line per message on standard output: stream, position, grid, and the time from the capture of its last frame to
its publishing. Ctrl-C ends it with a summary of what came and what was lost. --forward passes the messages on
unchanged, to any number of readers. --config reads the same options from a YAML file (endpoint: ..., streams: [...]).
"""

import argparse
import json
import sys
import threading
import time
from typing import Any

from streamtok.commands.command import command, new_node_parser


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = new_node_parser("subscribe", __doc__)
    add = parser.add_argument
    add("endpoint", nargs="?", help="where the node publishes, such as tcp://127.0.0.1:5555")
    add("--stream", action="append", dest="streams", metavar="NAME", help="only this stream (repeat it; default: all)")
    add("--latest-only", action="store_true", help="keep only the newest message of each stream")
    add("--lossless", action="store_true", help="make a lossless node wait for this reader, instead of discarding")
    add("--join", choices=["keyframe", "epoch"], help="epoch: first fetch what the current epoch has sent already")
    add("--max-messages", type=int, metavar="N", help="end after N messages")
    add("--until-end", action="store_true", help="end when the node says that its streams have ended")
    add("--timeout", type=float, metavar="SECONDS", help="fail after this long without a message (default: wait)")
    add("--forward", metavar="ENDPOINT", help="publish the messages again here")
    add("--control", metavar="ENDPOINT", help="control socket of --forward (default: beside it)")
    add("--curve", metavar="DIR", help="keys of this reader (client.key_secret, server.key)")
    add("--forward-curve", metavar="DIR", help="keys for --forward (server.key_secret, allowed/)")
    add("--insecure", action="store_true", help="allow --forward on a network address without keys")
    add("--ipc-group", metavar="GROUP", help="who may connect to --forward's ipc sockets besides this user (nobody)")
    add("--quiet", action="store_true", help="no line per message")
    return parser


@command("subscribe")
def main(argv: list[str] | None = None) -> int:
    """Run the node; 0 when told to stop, 1 on a failure, 2 for wrong use."""
    given = vars(build_parser().parse_args(argv))
    from streamtok.commands.reading import ReaderSettings
    from streamtok.settings.rig import settings_of

    return run(settings_of(ReaderSettings, given.pop("config", None), given))


def run(settings: Any) -> int:
    """Read until the end, Ctrl-C or --max-messages; TimeoutError after --timeout seconds of silence."""
    from streamtok.commands.reading import Reading, describe_message, describe_summary
    from streamtok.node.display import log_to_stderr
    from streamtok.node.process import stop_on_signals

    log_to_stderr(log_format=settings.log_format)
    stop = threading.Event()
    began = time.monotonic()
    with stop_on_signals(stop.set), Reading(settings, stop) as reading:
        try:
            for message in reading:
                if not (settings.quiet or settings.as_json):
                    print(describe_message(message), flush=True)
        finally:
            summary = reading.summary() | {"seconds": round(time.monotonic() - began, 3)}
            print(json.dumps(summary) if settings.as_json else describe_summary(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
