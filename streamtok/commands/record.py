"""Record token streams, and camera frames on request, to MCAP.

    streamtok record tcp://127.0.0.1:5555 -o drive.mcap
    streamtok record tcp://127.0.0.1:5555 -o drive.mcap --record-frames lossless --max-minutes 10 --pictures

Frames come only from a node that runs with --publish-frames (or let that node record: `streamtok ingest --record`).
A recording with frames begins at the next keyframe, so that all of it can be replayed. Ctrl-C ends it with a summary.
A file that was cut off is still readable; `streamtok repair` gives it an index.
"""

import sys
from contextlib import closing
from typing import Annotated, Any, Literal

from pydantic import Field

from streamtok.commands.command import make_main, until_stopped
from streamtok.settings.fields import (
    Endpoint,
    FileOrFolder,
    Flag,
    Folder,
    Megabytes,
    Names,
    Positive,
    Seconds,
    Switch,
    option,
)
from streamtok.settings.shared import NodeSettings


class RecordSettings(NodeSettings):
    """What to record, where to, and when to end. Sizes are in MB (10^6 bytes)."""

    endpoint: Annotated[Endpoint, Flag(positional=True)] = Field(description="the node's --bind address")
    out: Annotated[FileOrFolder, Flag(short="-o")] = Field(
        description="the MCAP file to write, or a folder for a new one; overwrites none"
    )
    streams: Names | None = option(None, "record only this stream (repeat for more)")
    record_frames: Literal["none", "lossless", "lossy"] = option(
        "none", "also the camera images: lossless replays to the same tokens"
    )
    pictures: Switch = option(False, "also the token grids as grey images, to look at in Foxglove")
    max_size: Megabytes | None = option(None, "begin a new file (FILE_001, ...) at this size")
    max_minutes: Annotated[Positive, Flag("MINUTES")] | None = option(None, "begin a new file after this time")
    min_free: Annotated[float, Field(ge=0), Flag("MB")] = option(512, "stop when the disk has less than this free")
    max_seconds: Seconds | None = option(None, "end after this time")
    until_end: Switch = option(True, "end when the node's streams end")
    curve: Folder | None = option(None, "keys of this reader (client.key_secret, server.key)")


def run(settings: RecordSettings) -> int:
    """Record and print the summary; returns 1 if recording stopped early, or has no image of some stream."""
    summary = record_streams(settings)
    print(settings.format_result(summary, format_recording(summary)))
    if summary["error"]:
        print(f"streamtok record: recording stopped: {summary['error']}", file=sys.stderr)
    for name, count in summary["without_key_frame"].items():
        print(
            f"streamtok record: {name}: {count} camera images came and none is a key frame: they are not recorded, and "
            "its tokens cannot be verified; let `streamtok ingest --record` record, which has the pictures",
            file=sys.stderr,
        )
    return 1 if summary["error"] or summary["without_key_frame"] else 0


def record_streams(settings: RecordSettings) -> dict[str, Any]:
    """Record until told to stop; returns the recorder's summary."""
    from streamtok.recording.network_recorder import NetworkRecorder
    from streamtok.recording.recorder import Recorder
    from streamtok.recording.recorder_options import RecorderOptions
    from streamtok.wire.security import CurveClient, load_keys

    curve = load_keys(CurveClient, settings.curve)
    limits = settings.max_size, settings.max_minutes, settings.min_free
    options = RecorderOptions.limited(settings.record_frames, *limits, pictures=settings.pictures)
    endpoint, until_end = settings.endpoint, settings.until_end
    with (
        until_stopped(settings) as stop,
        Recorder(settings.out, options, metadata={"recorded_from": endpoint}) as recorder,
        closing(NetworkRecorder(endpoint, recorder, settings.streams, until_end=until_end, curve=curve)) as reader,
    ):
        reader.run(stop.is_set, seconds=settings.max_seconds)
    malformed = {kind.replace("subscribe.", "record."): count for kind, count in reader.rejects.counts.items()}
    before = reader.counts["before_keyframe"]
    lacking = reader.without_key_frame
    return recorder.summary() | {"malformed": malformed, "before_keyframe": before, "without_key_frame": lacking}


def format_recording(summary: dict[str, Any]) -> str:
    """The summary as text."""
    counts = f"{summary.get('tokens', 0)} token messages, {summary.get('frames', 0)} frames"
    return (
        f"recorded {counts}, {summary.get('bytes', 0) / 1e6:.1f} MB in {', '.join(summary['files'])}; "
        f"missed {summary.get('missed', 0)}"
        + (f"; {before} came before it could begin, at a keyframe" if (before := summary["before_keyframe"]) else "")
    )


main = make_main("record", RecordSettings, run, __doc__)
