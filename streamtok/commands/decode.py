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
from typing import Any

from streamtok.commands.command import command, new_node_parser


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = new_node_parser("decode", __doc__)
    add = parser.add_argument
    add("input", nargs="?", help="a token file, or the endpoint of a node")
    add("-o", "--out", help="FILE.mp4 (.mkv, .mov), FILE.png, a folder for PNGs; live also window or zmq:ENDPOINT")
    add("--model", help="preset or checkpoint (default: the one that the file or stream names)")
    add("--device", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--stream", metavar="NAME", help="live: which stream of the node (default: the first)")
    add("--join", choices=["epoch", "keyframe"], help="live: start at once (default), or at the next keyframe")
    add("--curve", metavar="DIR", help="live: this reader's keys, from `streamtok keys generate`")
    add("--max-frames", type=int, metavar="N", help="stop after N pictures")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


@command("decode")
def main(argv: list[str] | None = None) -> int:
    """Run; 0 at the end of the file or stream or when told to stop, 1 if it failed, 2 for wrong use."""
    given = vars(build_parser().parse_args(argv))
    from streamtok.node.live_view import DecodeSettings
    from streamtok.settings.rig import settings_of

    settings = settings_of(DecodeSettings, given.pop("config", None), given)
    summary = decode_stream(settings) if settings.live else decode_tokens(settings)
    print(json.dumps(summary) if settings.as_json else describe(summary))
    return 0


def decode_tokens(settings: Any) -> dict[str, Any]:
    """A file to a file."""
    from streamtok.tokens.files import decode_file

    done = decode_file(
        settings.input,
        settings.out,
        settings.model,
        settings.device,
        progress=not settings.quiet,
        max_frames=settings.max_frames,
    )
    return {"out": str(done.path), "pictures": done.frames, "groups": done.groups, "skipped": done.skipped}


def decode_stream(settings: Any) -> dict[str, Any]:
    """A live stream to wherever --out says."""
    from streamtok.node.display import log_to_stderr
    from streamtok.node.live_view import view_stream
    from streamtok.node.process import stop_on_signals

    log_to_stderr(log_format=settings.log_format)
    stop = threading.Event()
    with stop_on_signals(stop.set):
        return view_stream(settings, stop)


def describe(summary: dict[str, Any]) -> str:
    """The summary for people."""
    return ", ".join(f"{name} {value}" for name, value in summary.items())


if __name__ == "__main__":
    sys.exit(main())
