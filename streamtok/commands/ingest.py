"""Cameras, files or a synthetic drive to a token stream over ZeroMQ.

    streamtok ingest --source 'synthetic:256x448@30?seed=7' --model nano --bind tcp://127.0.0.1:5555
    streamtok ingest --source /dev/video0 --stream front --size 256x448 --bind ipc:///tmp/front.ipc
    streamtok ingest --config configs/rig_six_cameras.yaml --metrics 9464

Read it in another terminal with `streamtok subscribe tcp://127.0.0.1:5555`. Ctrl-C ends it with a summary.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from streamtok.commands.command import command
from streamtok.commands.flags import new_parser
from streamtok.commands.view import view_beside
from streamtok.node.metrics import Metrics
from streamtok.node.process import print_result, stop_on_signals
from streamtok.node.summary import format_summary, summarize
from streamtok.settings.errors import SettingsError, blame_settings
from streamtok.settings.fields import Flag, option
from streamtok.settings.rig import RigSettings, StreamDefaults, StreamSettings, load_rig
from streamtok.settings.yaml_file import parse_set

if TYPE_CHECKING:
    from streamtok.coding.coder import TokenCoder
    from streamtok.ingest.core import IngestCore
    from streamtok.ingest.lane import StreamOptions
    from streamtok.io.base import Source
    from streamtok.model import Tokenizer
    from streamtok.node.ingest import IngestNode
    from streamtok.node.loop import Parts
    from streamtok.recording.recorder import Recorder
    from streamtok.wire.publisher import Publisher

MAX_PIXELS = 1 << 21  # of live pictures that are encoded as they come: 1080p has fewer; each takes some 600 bytes


class SourceFlags(StreamDefaults):
    """What the command line says of a rig's streams: the source and name of each, and what holds for all of them."""

    source: Annotated[list[str], Flag("SRC")] = option(
        [],
        "a path (in /dev: a camera), a URL, gst:PIPELINE, images:DIR, zmq:ENDPOINT or "
        "synthetic:HxW@FPS?seed=S&frames=N; repeat it for several cameras",
    )
    stream: Annotated[list[str], Flag("NAME")] = option([], "name of each source, in order (default cam0, cam1, ...)")


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
    """Run the node until its sources have ended or it is told to stop; its exit status."""
    from streamtok.node.display import LiveDisplay, log_to_stderr

    log_to_stderr(log_format=settings.log_format)
    nodes: list[IngestNode] = []
    with stop_on_signals(
        lambda: stop_node(nodes, settings),
        lambda: show_summary(nodes, settings),
        lambda: any(node.at_stake() for node in nodes),
    ):
        node = make_node(settings, on_update=lambda node: display.update())
        nodes.append(node)
        title = f"{settings.node}: {settings.model} on {settings.bind}"
        try:
            with LiveDisplay(node.metrics, list(node.sources), title) as display:
                node.run()
        except (OSError, RuntimeError):
            if node.at_stake():
                show_summary(nodes, settings)
            raise
        show_summary(nodes, settings)
    for failure in node.failures:
        print(f"streamtok ingest: {failure}", file=sys.stderr)
    return 1 if node.failures else 0


def stop_node(nodes: list[IngestNode], settings: RigSettings) -> None:
    """Ask the node to end; a process that has not made it yet, and so has opened nothing, ends here."""
    if nodes:
        nodes[0].stop()
        return
    try:
        show_summary(nodes, settings)
    finally:
        os._exit(0)


def show_summary(nodes: list[IngestNode], settings: RigSettings) -> None:
    """Print what the node has done, nothing if it was not made yet."""
    streams = [stream.name for stream in settings.streams]
    summary = nodes[0].summary() if nodes else summarize(Metrics(), streams, None, 0.0)
    print_result(json.dumps(summary) if settings.as_json else format_summary(summary))


def make_node(
    settings: RigSettings,
    tokenizer: Tokenizer | None = None,
    on_update: Callable[[IngestNode], None] = lambda node: None,
) -> IngestNode:
    """The node that the settings describe; the tokenizer is loaded at its start unless it is given.

    Raises SettingsError for what could not work on this machine, whatever its cameras do.
    """
    from streamtok.node.ingest import IngestNode, NodeOptions

    with blame_settings():
        check_publishing(settings)  # before cameras are opened and a model is loaded for nothing
        sources = make_sources(settings)
    options = NodeOptions(
        settings.publish_frames, settings.wait_subscribers, settings.metrics, settings.metrics_address
    )
    metrics = Metrics({"node": settings.node, "model": settings.model})
    parts = functools.partial(open_parts, settings, tokenizer)
    return IngestNode(sources, parts, metrics, options, on_update)


def check_publishing(settings: RigSettings) -> None:
    """Raise ValueError, ImportError or BindError for what could not be published so on this machine now."""
    from streamtok.wire import compression
    from streamtok.wire.endpoint import check_endpoints, probe_endpoints

    secure, insecure, group = settings.curve is not None, settings.insecure, settings.ipc_group
    bind, control = settings.bind, settings.control
    probe_endpoints(bind, check_endpoints(bind, control, secure=secure, insecure=insecure, ipc_group=group))
    compression.check(settings.compression)
    if settings.view is not None:
        check_viewing(settings)


def check_viewing(settings: RigSettings) -> None:
    """Raise ValueError or ImportError if `view` could not show this node."""
    import streamtok.view.server  # noqa: F401  (an extra)

    if settings.curve is not None:
        raise ValueError("view is for a node without keys: run `streamtok view ENDPOINT --curve DIR` as its reader")


def make_sources(settings: RigSettings) -> dict[str, Source]:
    """The sources by stream, not opened yet; raises ValueError or FileNotFoundError naming the stream."""
    from streamtok.io.source import open_source

    packets = settings.record is not None and settings.record_frames == "lossless" and not settings.publish_frames
    sources: dict[str, Source] = {}
    for stream in settings.resolved():
        name, realtime, most = stream.name, stream.realtime, stream.max_frames
        try:
            source = open_source(stream.source, name, realtime=realtime, max_frames=most, keep_packets=packets)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"stream {name}: {error}") from error
        source.required = stream.required
        sources[name] = source
    return sources


def open_parts(settings: RigSettings, tokenizer: Tokenizer | None, node: IngestNode, stack: ExitStack) -> Parts:
    """Core, publisher and recorder, sized for the node's sources, which are open; `stack` closes the publisher."""
    from streamtok.engine.loading import pick_device
    from streamtok.node.loop import Parts

    if tokenizer is None:
        pick_device(settings.device)  # by itself: a GPU that is not there yet is no mistake in the settings
    with blame_settings():
        core = make_core(settings, tokenizer, node.sources)
        publisher = stack.enter_context(make_publisher(settings, core, node))
        recorder = make_recorder(settings, core)
    if recorder is not None:
        publisher.on_announce = recorder.add_stream
    if settings.view is not None:
        stack.callback(start_viewer(publisher.endpoint, settings.view).kill)
    return Parts(core, publisher, recorder)


def start_viewer(endpoint: str, port: int) -> BaseProcess:
    """A process of its own that shows the node, as one more reader: what becomes of it does not matter to the node."""
    process = get_context("spawn").Process(target=view_beside, args=(endpoint, port), daemon=True)
    process.start()
    return process


def make_core(settings: RigSettings, tokenizer: Tokenizer | None, sources: dict[str, Source]) -> IngestCore:
    """The ingest core for open sources; the tokenizer is loaded, for the largest of their pictures, if not given."""
    from streamtok.engine.loading import default_engine, load
    from streamtok.ingest.budget import MOST_HOLD, share_budget
    from streamtok.ingest.core import IngestCore
    from streamtok.node.rig import batches_of

    options = {stream.name: options_of(stream, sources[stream.name].live) for stream in settings.resolved()}
    rates = {name: source.fps for name, source in sources.items()}
    batches = [] if settings.batch_wait_ms is None else batches_of(options, rates)
    if tokenizer is None:
        sizes = [option.size or sources[name].size for name, option in options.items()]
        largest = max(filter(None, sizes), default=None, key=math.prod)
        slots = max(map(len, batches), default=1)
        tokenizer = load(
            settings.model,
            settings.deterministic,
            engine="eager" if settings.deterministic else settings.engine or default_engine(settings.device),
            size=largest or (256, 448),
            device=settings.device,
            threads=settings.threads,
            slots_per_step=slots if slots > 1 else None,  # one is what every engine has unless it says otherwise
        )
    gains = settings.compression == "coded" and tokenizer.config.holds_levels  # who codes without a past saves nothing
    for stream in settings.resolved():
        if gains and (stream.bitrate or settings.rig_bitrate) and stream.hold is None:
            options[stream.name] = replace(options[stream.name], hold=MOST_HOLD)
    wait_ms = settings.batch_wait_ms or 0.0
    core = IngestCore(tokenizer, options, context=settings.context, batches=batches, batch_wait_ms=wait_ms)
    if settings.rig_bitrate is not None:
        share_budget(settings.rig_bitrate, [lane.budget for lane in core.lanes.values()])
    return core


def options_of(stream: StreamSettings, live: bool) -> StreamOptions:
    """What the core is told of a stream; `live` decides a policy that was not given (cameras latest, files lossless),
    and bounds the pictures of a stream without a size."""
    from streamtok.ingest.lane import StreamOptions

    policy = stream.policy or ("latest" if live or stream.realtime else "lossless")
    same = {"on_gap", "tail", "keyframe_interval", "size", "fit", "metadata", "bitrate", "keyframe_drift"}
    given, limit = stream.model_dump(include=same), MAX_PIXELS if live else math.inf
    return StreamOptions(policy, hold=stream.hold or 0.0, max_pixels=limit, **given)


def make_publisher(settings: RigSettings, core: IngestCore, node: IngestNode) -> Publisher:
    """The bound publisher, whose readers may be a second of the node's groups behind."""
    from streamtok.wire.publisher import Publisher
    from streamtok.wire.security import CurveServer

    rates = [(source.fps or 30.0) / core.group_frames for source in node.sources.values()]
    return Publisher(
        settings.bind,
        settings.control,
        node=settings.node,
        curve=CurveServer.load(settings.curve) if settings.curve else None,
        insecure=settings.insecure,
        ipc_group=settings.ipc_group,
        lossless=any(lane.options.policy == "lossless" for lane in core.lanes.values()),
        messages_per_second=max(64.0, sum(rates)),
        compression=settings.compression,
        coder=find_coder(settings, core),
        stats=node.summary,
        stop=node.stopping,
    )


def find_coder(settings: RigSettings, core: IngestCore) -> TokenCoder | None:
    """The token coder of the core's tokenizer, where the settings ask for one."""
    from streamtok.coding.library import coder_for

    if settings.compression not in ("coded", "independent"):
        return None
    return coder_for(core.tokenizer.fingerprint, Path(settings.model))


def make_recorder(settings: RigSettings, core: IngestCore) -> Recorder | None:
    """The recorder that the settings ask for; None if nothing is recorded."""
    if settings.record is None:
        return None
    from streamtok.recording.recorder import Recorder
    from streamtok.recording.recorder_options import RecorderOptions

    waits = all(lane.options.policy == "lossless" for lane in core.lanes.values())
    limits = settings.record_max_size, settings.record_max_minutes, settings.record_min_free
    options = RecorderOptions.limited(settings.record_frames, *limits, wait=waits)
    return Recorder(settings.record, options, metadata={"config": settings.model_dump(mode="json")})
