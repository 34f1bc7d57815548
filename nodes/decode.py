"""A token file, or a live token stream, back to pictures.

streamtok decode tokens.safetensors -o back.mp4
streamtok decode tcp://127.0.0.1:5555                                    (a window; q closes it)
streamtok decode tcp://127.0.0.1:5555 --stream front -o front.mp4 --max-frames 300
streamtok decode tcp://127.0.0.1:5555 -o zmq:tcp://127.0.0.1:5556        (JPEG on frames/<stream>)
"""

import argparse
import json
import sys
import threading
from pathlib import Path
from typing import Any

from streamtok.command import command, new_parser
from streamtok.flags import parse_with_config

SCHEMES = ("tcp://", "ipc://", "inproc://")


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = new_parser("decode", __doc__)
    add = parser.add_argument
    add("input", help="a token file, or the endpoint of a node")
    add("-o", "--out", help="FILE.mp4 (.mkv, .mov), FILE.png, a folder for PNGs; live also window or zmq:ENDPOINT")
    add("--model", help="preset or checkpoint (default: the one that the file or stream names)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--stream", metavar="NAME", help="which stream of the node (default: the first)")
    add("--join", choices=["epoch", "keyframe"], default="epoch", help="start at once, or at the next keyframe")
    add("--curve", type=Path, metavar="DIR", help="this reader's keys, from `streamtok keys generate`")
    add("--max-frames", type=int, metavar="N", help="stop after N pictures (live)")
    add("--quiet", action="store_true", help="no progress bar")
    add("--json", action="store_true", help="print the summary as one line of JSON")
    return parser


@command("decode")
def main(argv: list[str] | None = None) -> int:
    """Run; 0 at the end of the file or stream or when told to stop, 1 if it failed, 2 for wrong use."""
    parser = build_parser()
    arguments = parse_with_config(parser, argv)
    live = arguments.input.startswith(SCHEMES)
    if not live and arguments.out in (None, "window"):
        parser.error("give -o FILE.mp4, FILE.png or a folder: a token file has no window")
    summary = decode_stream(arguments) if live else decode_tokens(arguments)
    print(json.dumps(summary) if arguments.json else describe(summary))
    return 0


def decode_tokens(arguments: argparse.Namespace) -> dict[str, Any]:
    """A file to a file."""
    from streamtok.data.files import decode_file

    done = decode_file(arguments.input, arguments.out, arguments.model, arguments.device, progress=not arguments.quiet)
    return {"out": str(done.path), "pictures": done.frames, "groups": done.groups, "skipped": done.skipped}


def decode_stream(arguments: argparse.Namespace) -> dict[str, Any]:
    """A live stream to wherever --out says."""
    from streamtok.runtime.display import log_to_stderr
    from streamtok.runtime.live_view import ViewOptions, view_stream
    from streamtok.signals import stop_on_signals

    log_to_stderr()
    options = ViewOptions(
        endpoint=arguments.input,
        out=arguments.out or "window",
        model=arguments.model,
        stream=arguments.stream,
        device=arguments.device,
        join=arguments.join,
        curve=arguments.curve,
        max_frames=arguments.max_frames,
    )
    stop = threading.Event()
    with stop_on_signals(stop.set):
        return view_stream(options, stop)


def describe(summary: dict[str, Any]) -> str:
    """The summary for people."""
    return ", ".join(f"{name} {value}" for name, value in summary.items())


if __name__ == "__main__":
    sys.exit(main())
