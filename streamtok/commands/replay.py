"""Recorded drives through the same core as live.

    streamtok replay drive.mcap --verify
    streamtok replay drive.mcap --bind tcp://127.0.0.1:5555 --realtime
    streamtok replay drive.bag --stream /front/image_raw --stream /rear/image_raw --model nano --out tokens/
    streamtok replay drive.mcap --recorded-tokens --bind tcp://127.0.0.1:5555 --speed 4

A drive is a recording of streamtok, an MCAP file or a ROS bag with camera topics, a video, a folder of images, or a
folder with one video or one folder of images per camera; images:DIR?fps=10 is a folder of images without times. A
recording with tokens is cut exactly as it was live; --verify compares every token and prints the first difference; its
exit status is 1 unless every recorded group (up to --max-groups) was compared and is identical.
"""

import argparse
import json
import sys
from typing import Any

from streamtok.commands.command import command, new_node_parser
from streamtok.settings.errors import blame_settings


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = new_node_parser("replay", __doc__)
    add = parser.add_argument
    add("path", nargs="?", metavar="DRIVE", help="the drive: a file or a folder")
    add("--stream", action="append", dest="streams", metavar="NAME", help="only this stream or topic (repeat it)")
    add("--model", help="preset name or checkpoint folder (default: the recorded one, else nano)")
    add("--device", help="where the network runs: auto, cpu, cuda or cuda:N (default auto)")
    add("--deterministic", action=argparse.BooleanOptionalAction, help="default: as recorded")
    add("--context", type=int, metavar="STEPS", help="attention window in groups (default: the model's)")
    add("--verify", action="store_true", help="compare with the recorded tokens; status 1 unless all are identical")
    add("--recorded-tokens", action="store_true", help="publish the recorded tokens instead of encoding again")
    add("--realtime", action="store_true", help="as fast as it was driven (default: as fast as possible)")
    add("--speed", type=float, metavar="X", help="X times as fast as it was driven")
    add("--bind", metavar="ENDPOINT", help="publish here, as a live node does")
    add("--control", metavar="ENDPOINT", help="control socket (default: beside --bind)")
    add("--wait-subscribers", type=int, metavar="N", help="hold the first message until N readers have joined")
    add("--publish-frames", action="store_true", help="also send the camera images")
    add("--insecure", action="store_true", help="allow a network address without keys")
    add("--ipc-group", metavar="GROUP", help="who may connect to ipc sockets besides this user (default: nobody)")
    add("--curve", metavar="DIR", help="keys of this node, from `streamtok keys generate`")
    add("--node", metavar="NAME", help="name of this process in info (default replay)")
    add("-o", "--out", metavar="DIR", help="write token files, DIR/STREAM.safetensors")
    add("--record", metavar="FILE|DIR", help="record frames and tokens anew, to this file or a new one in a folder")
    add("--size", metavar="HxW", help="for drives without tokens: resize (default: the source's, padded to the grid)")
    add("--fit", choices=["stretch", "crop", "pad"], help="how --size treats another aspect ratio (default stretch)")
    add("--on-gap", choices=["reset", "bridge"], help="missing frames: new keyframe, or go on (default reset)")
    add("--keyframe-interval", type=float, metavar="SECONDS", help="of capture time, 0 for never (default 10)")
    add("--tail", choices=["pad", "drop"], help="the last, partial group (default pad)")
    add("--max-groups", type=int, metavar="N", help="end after N groups")
    return parser


@command("replay")
def main(argv: list[str] | None = None) -> int:
    """Run the replay; 0 at its end, 1 if it failed or tokens differ or were not all compared, 2 for wrong use."""
    arguments = vars(build_parser().parse_args(argv))
    from streamtok.node.drive_settings import ReplaySettings
    from streamtok.settings.rig import settings_of

    return run(settings_of(ReplaySettings, arguments.pop("config", None), arguments))


def run(settings: Any) -> int:
    """Replay and print the summary."""
    from streamtok.node.display import log_to_stderr
    from streamtok.node.process import stop_on_signals
    from streamtok.node.replay_node import ReplayNode, format_summary

    log_to_stderr(log_format=settings.log_format)
    with blame_settings():  # what cannot be replayed so never can be
        node = ReplayNode(settings)
        with stop_on_signals(node.stop):
            summary = node.run()
    for note in summary["notes"][:20]:
        print(f"streamtok replay: {note}", file=sys.stderr)
    print(
        json.dumps(summary)
        if settings.as_json
        else format_summary(summary, node.verification if settings.verify else None)
    )
    if node.empty:
        print(f"streamtok replay: {settings.path}: not one frame of it could be encoded", file=sys.stderr)
        return 1
    return 1 if settings.verify and node.verification.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
