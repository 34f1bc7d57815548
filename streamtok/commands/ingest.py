"""Cameras, files or a synthetic drive to a token stream over ZeroMQ.

    streamtok ingest --source 'synthetic:256x448@30?seed=7' --model nano --bind tcp://127.0.0.1:5555
    streamtok ingest --source /dev/video0 --stream front --size 256x448 --bind ipc:///tmp/front.ipc
    streamtok ingest --config configs/rig_six_cameras.yaml --metrics 9464

Read it in another terminal with `streamtok subscribe tcp://127.0.0.1:5555`. Ctrl-C ends it with a summary.
"""

import json
import sys
from typing import Annotated

from pydantic import Field

from streamtok.commands.command import command
from streamtok.commands.flags import new_parser
from streamtok.settings.errors import SettingsError
from streamtok.settings.fields import Flag
from streamtok.settings.rig import RigSettings, StreamDefaults, load_rig
from streamtok.settings.yaml_file import parse_set


class SourceFlags(StreamDefaults):
    """What the command line says of a rig's streams: the source and name of each, and what holds for all of them."""

    source: Annotated[list[str], Flag("SRC")] = Field(
        default=[],
        description="a path (in /dev: a camera), a URL, gst:PIPELINE, images:DIR, zmq:ENDPOINT or "
        "synthetic:HxW@FPS?seed=S&frames=N; repeat it for several cameras",
    )
    stream: Annotated[list[str], Flag("NAME")] = Field(
        default=[], description="name of each source, in order (default cam0, cam1, ...)"
    )


def read_rig(argv: list[str] | None) -> RigSettings:
    """The rig: the configuration file with the flags on top."""
    given = vars(new_parser("ingest", __doc__, SourceFlags, RigSettings).parse_args(argv))
    path, changes = given.pop("config", None), parse_set(given.pop("set", []))
    names, sources = given.pop("stream", []), given.pop("source", [])
    if len(names) > len(sources):
        raise SettingsError(f"{len(names)} --stream for {len(sources)} --source: each name belongs to one source")
    if sources:
        names += [f"cam{index}" for index in range(len(names), len(sources))]
        given["streams"] = [{"name": name, "source": source} for name, source in zip(names, sources, strict=True)]
    elif path is None:
        raise SettingsError("nothing to read: give --source SRC or --config FILE (streamtok ingest --help)")
    every_stream = {name: given.pop(name) for name in StreamDefaults.model_fields if name in given}
    return load_rig(path, given | changes, every_stream)


@command("ingest")
def main(argv: list[str] | None = None) -> int:
    """Run the node; 0 when its sources have ended or it was told to stop, 1 if one failed, 2 for wrong use."""
    return run(read_rig(argv))


def run(settings: RigSettings) -> int:
    """Start, show and end the node."""
    from streamtok.node.display import LiveDisplay, log_to_stderr
    from streamtok.node.ingest import IngestNode, describe_summary
    from streamtok.node.process import stop_on_signals

    log_to_stderr(log_format=settings.log_format)
    node = IngestNode(settings, on_update=lambda node: display.update())
    title = f"{settings.node}: {settings.model} on {settings.bind}"

    def last_words() -> None:
        print(json.dumps(node.summary()) if settings.as_json else describe_summary(node.summary()), flush=True)

    with stop_on_signals(node.stop, last_words), LiveDisplay(node.metrics, list(node.streams), title) as display:
        summary = node.run()
    print(json.dumps(summary) if settings.as_json else describe_summary(summary))
    for failure in node.failures:
        print(f"streamtok ingest: {failure}", file=sys.stderr)
    return 1 if node.failures else 0
