"""Encode cameras, files or a synthetic drive, and publish the tokens over ZeroMQ.

    streamtok ingest --source 'synthetic:256x448@30?seed=7' --model nano --bind tcp://127.0.0.1:5555
    streamtok ingest --source /dev/video0 --stream front --size 256x448 --bind ipc:///tmp/front.ipc
    streamtok ingest --config configs/rig_six_cameras.yaml --metrics 9464

Read it in another terminal with `streamtok subscribe tcp://127.0.0.1:5555`. Ctrl-C ends it with a summary.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Annotated

from streamtok.commands.command import command
from streamtok.commands.flags import new_parser
from streamtok.commands.view import view_beside
from streamtok.node.display import LiveDisplay
from streamtok.node.logs import log_to_stderr
from streamtok.node.metrics import Metrics
from streamtok.node.process import print_result, stop_on_signals
from streamtok.node.summary import format_ingest, summarize
from streamtok.settings.errors import SettingsError, blame_settings
from streamtok.settings.fields import Flag, option
from streamtok.settings.rig import RigSettings, StreamDefaults, load_rig
from streamtok.settings.yaml_file import parse_set

if TYPE_CHECKING:
    from streamtok.model import Tokenizer
    from streamtok.node.ingest import IngestNode


class SourceFlags(StreamDefaults):
    """Flags for a rig's streams: the source and name of each, and settings for all of them."""

    source: Annotated[list[str], Flag("SRC")] = option(
        [],
        "a path (in /dev: a camera), a URL, gst:PIPELINE, images:DIR, zmq:ENDPOINT or "
        "synthetic:HxW@FPS?seed=S&frames=N; repeat it for several cameras",
    )
    stream: Annotated[list[str], Flag("NAME")] = option([], "name of each source, in order (default cam0, cam1, ...)")


def read_rig(argv: list[str] | None) -> RigSettings:
    """Read the rig from the configuration file with the flags on top."""
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
    """Run the node; returns 0 if its sources ended or it was told to stop, 1 if one failed, 2 for a usage error."""
    return run(read_rig(argv))


def run(settings: RigSettings) -> int:
    """Run the node until its sources have ended or it is told to stop; returns the exit status."""
    log_to_stderr(settings.log_format)
    command = RunningCommand(settings)
    with stop_on_signals(command.stop, command.show_summary, command.at_stake):
        node = command.node = make_node(settings, on_update=lambda node: display.update())
        title = f"{settings.node}: {settings.model} on {settings.bind}"
        try:
            with LiveDisplay(node.metrics, list(node.sources), title) as display:
                node.run()
        except (OSError, RuntimeError):
            if node.captures:
                command.show_summary()
            raise
        command.show_summary()
    for failure in node.failures:
        print(f"streamtok ingest: {failure}", file=sys.stderr)
    return 1 if node.failures else 0


@dataclass
class RunningCommand:
    """The command while it runs; signals may come before it has made its `node`."""

    settings: RigSettings
    node: IngestNode | None = None

    def stop(self) -> None:
        """Ask the node to end."""
        if self.node is not None:
            self.node.stop()

    def show_summary(self) -> None:
        """Print the node's summary, an empty one if there is no node yet."""
        if self.node is not None:
            summary = self.node.summary()
        else:
            summary = summarize(Metrics(), [stream.name for stream in self.settings.streams], None, 0.0)
        print_result(self.settings.format_result(summary, format_ingest(summary)))

    def at_stake(self) -> bool:
        """Whether something would be lost if the process ended now."""
        return self.node is not None and self.node.at_stake()


def make_node(
    settings: RigSettings,
    tokenizer: Tokenizer | None = None,
    on_update: Callable[[IngestNode], None] = lambda node: None,
) -> IngestNode:
    """Make the node of the settings, with a page beside it if they ask for one; raises as `IngestNode` does."""
    from streamtok.node.ingest import IngestNode

    if settings.view is None:
        return IngestNode(settings, tokenizer, on_update)
    with blame_settings():
        import streamtok.view.server  # noqa: F401  (an extra)

        if settings.curve is not None:
            raise ValueError("view is for a node without keys: run `streamtok view ENDPOINT --curve DIR` as its reader")
    return IngestNode(settings, tokenizer, on_update, functools.partial(start_viewer, port=settings.view))


def start_viewer(endpoint: str, port: int) -> BaseProcess:
    """Start a process that shows the node as one more reader; if it fails, the node is not affected."""
    process = get_context("spawn").Process(target=view_beside, args=(endpoint, port), daemon=True)
    process.start()
    return process
