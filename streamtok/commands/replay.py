"""Encode recorded drives through the same core as live streams, or publish their tokens again.

    streamtok replay drive.mcap --verify
    streamtok replay drive.mcap --bind tcp://127.0.0.1:5555 --realtime
    streamtok replay drive.bag --stream /front/image_raw --stream /rear/image_raw --model nano --out tokens/
    streamtok replay drive.mcap --recorded-tokens --bind tcp://127.0.0.1:5555 --speed 4

A drive is a recording of streamtok, an MCAP file or a ROS bag with camera topics, a video, or a folder of images. A
folder with a video or a folder of images for each camera is a drive too. images:DIR?fps=10 is a folder of images
without times, FILE?fps=20 a video without. A file with several video streams has as many cameras; FILE?stream=1 is one
of them. A recording with tokens is cut into the same groups as it was live. --verify compares every token and prints
the first difference. Its exit status is 1 unless every recorded group (up to --max-groups) was compared and is
identical. --size, --fit, --on-gap, --keyframe-interval and --tail apply to drives without recorded tokens.
"""

import sys

from streamtok.commands.command import make_main
from streamtok.node.logs import log_to_stderr
from streamtok.node.process import stop_on_signals
from streamtok.settings.errors import blame_settings
from streamtok.settings.replay import ReplaySettings


def run(settings: ReplaySettings) -> int:
    """Replay and print the summary; returns 1 if it or a file failed, or tokens differ or were not all compared."""
    from streamtok.node.replay_node import ReplayNode, format_replay
    from streamtok.node.rig import check_outputs

    log_to_stderr(settings.log_format)
    with blame_settings():  # a ValueError is a fault of the settings, so it would come at every start
        check_outputs(settings)
        node = ReplayNode(settings)
        with stop_on_signals(node.stop):
            summary = node.run()
    for note in summary["notes"][:20]:
        print(f"streamtok replay: {note}", file=sys.stderr)
    verification = node.verification if settings.verify else None
    print(settings.format_result(summary, format_replay(summary, verification)))
    if node.failure:
        print(f"streamtok replay: {settings.path}: {node.failure}", file=sys.stderr)
        return 1
    if node.empty:
        print(f"streamtok replay: {settings.path}: not one frame of it could be encoded", file=sys.stderr)
        return 1
    return 1 if settings.verify and node.verification.faults() else 0


main = make_main("replay", ReplaySettings, run, __doc__)
