"""Record token streams, and camera frames if asked, to MCAP.

    streamtok record tcp://127.0.0.1:5555 -o drive.mcap
    streamtok record tcp://127.0.0.1:5555 -o drive.mcap --record-frames lossless --max-minutes 10 --pictures

Frames come only from a node that runs with --publish-frames (or let that node record: `streamtok ingest --record`).
Ctrl-C ends it with a summary. A file that was cut off is still readable; `streamtok repair` gives it an index.
"""

import argparse
import json
import sys
import threading
from typing import Any

from streamtok.commands.command import command, new_node_parser


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = new_node_parser("record", __doc__)
    add = parser.add_argument
    add("endpoint", nargs="?", metavar="ENDPOINT", help="the node's --bind address")
    add("-o", "--out", metavar="FILE|DIR", help="the MCAP file to write, or a folder for a new one; overwrites none")
    add("--stream", action="append", dest="streams", metavar="NAME", help="record only this stream (repeat for more)")
    add(
        "--record-frames",
        choices=["none", "lossless", "lossy"],
        help="also the camera images (default none): lossless replays to the same tokens",
    )
    add("--pictures", action="store_true", help="also the token grids as grey images, to look at in Foxglove")
    add("--max-size", type=float, metavar="MB", help="begin a new file (FILE_001, ...) at this size")
    add("--max-minutes", type=float, metavar="MINUTES", help="begin a new file after this time")
    add("--min-free", type=float, metavar="MB", help="stop when the disk has less than this free (default 512)")
    add("--max-seconds", type=float, metavar="SECONDS", help="end after this time")
    add("--until-end", action=argparse.BooleanOptionalAction, help="end when the node's streams end (default yes)")
    add("--curve", metavar="DIR", help="folder with this reader's keys, from `streamtok keys generate`")
    return parser


@command("record")
def main(argv: list[str] | None = None) -> int:
    """Run the node; 0 when it has recorded, 1 if recording failed or stopped early, 2 for wrong use."""
    arguments = vars(build_parser().parse_args(argv))
    from streamtok.node.drive_settings import RecordSettings
    from streamtok.settings.rig import settings_of

    settings = settings_of(RecordSettings, arguments.pop("config", None), arguments)
    summary = run(settings)
    print(json.dumps(summary) if settings.as_json else describe(summary))
    if summary["error"]:
        print(f"streamtok record: recording stopped: {summary['error']}", file=sys.stderr)
    return 1 if summary["error"] else 0


def run(settings: Any) -> dict[str, Any]:
    """Record until told to stop; returns the recorder's summary."""
    from streamtok.node.display import log_to_stderr
    from streamtok.node.process import stop_on_signals
    from streamtok.recording.network_recorder import NetworkRecorder
    from streamtok.recording.recorder import Recorder
    from streamtok.wire.security import CurveClient

    log_to_stderr(log_format=settings.log_format)
    stopping = threading.Event()
    curve = CurveClient.load(settings.curve) if settings.curve else None
    recorder = Recorder(settings.out, settings.recorder_options(), metadata={"recorded_from": settings.endpoint})
    with stop_on_signals(stopping.set):
        try:
            reader = NetworkRecorder(
                settings.endpoint, recorder, settings.streams, until_end=settings.until_end, curve=curve
            )
            try:
                reader.run(stopping.is_set, seconds=settings.max_seconds)
            finally:
                reader.close()
        finally:
            recorder.close()
    return {**recorder.summary(), "malformed": dict(reader.rejects.counts)}


def describe(summary: dict[str, Any]) -> str:
    """The summary for people."""
    counts = f"{summary.get('tokens', 0)} token messages, {summary.get('frames', 0)} frames"
    return (
        f"recorded {counts}, {summary.get('bytes', 0) / 1e6:.1f} MB in {', '.join(summary['files'])}; "
        f"missed {summary.get('missed', 0)}"
    )


if __name__ == "__main__":
    sys.exit(main())
