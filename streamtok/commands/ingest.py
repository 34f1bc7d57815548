"""Cameras, files or a synthetic drive to a token stream over ZeroMQ.

    streamtok ingest --source 'synthetic:256x448@30?seed=7' --model nano --bind tcp://127.0.0.1:5555
    streamtok ingest --source /dev/video0 --stream front --size 256x448 --bind ipc:///tmp/front.ipc
    streamtok ingest --config configs/rig_six_cameras.yaml --metrics 9464

Read it in another terminal with `streamtok subscribe tcp://127.0.0.1:5555`. Ctrl-C ends it with a summary.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from streamtok.commands.command import command, new_node_parser
from streamtok.settings.errors import SettingsError, blame_settings

if TYPE_CHECKING:
    from streamtok.ingest.core import IngestCore
    from streamtok.ingest.lane import StreamOptions
    from streamtok.io.base import Source
    from streamtok.model import Tokenizer
    from streamtok.node.ingest import IngestNode
    from streamtok.node.loop import Parts
    from streamtok.recording.recorder import Recorder
    from streamtok.settings.rig import RigSettings, StreamSettings
    from streamtok.wire.publisher import Publisher


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = new_node_parser("ingest", __doc__)
    add = parser.add_argument
    add(
        "--source",
        action="append",
        metavar="SRC",
        help="a path (in /dev: a camera), a URL, gst:PIPELINE, images:DIR, "
        "zmq:ENDPOINT or synthetic:HxW@FPS?seed=S&frames=N; repeat it for several cameras",
    )
    add("--stream", action="append", metavar="NAME", help="name of each source, in order (default cam0, cam1, ...)")
    add("--model", help="preset name or checkpoint folder (default nano)")
    add("--bind", metavar="ENDPOINT", help="where to publish (default tcp://127.0.0.1:5555)")
    add("--control", metavar="ENDPOINT", help="control socket (default: beside --bind, named in info)")
    add("--size", metavar="HxW", help="resize to this height and width (default: the source's, padded to the grid)")
    add("--fit", choices=["stretch", "crop", "pad"], help="how --size treats another aspect ratio (default stretch)")
    add("--realtime", action=argparse.BooleanOptionalAction, help="play recordings at their own pace (default: no)")
    add("--policy", choices=["latest", "lossless"], help="latest: never behind; lossless: wait (default: by source)")
    add("--on-gap", choices=["reset", "bridge"], help="missing frames: new keyframe, or go on (default reset)")
    add("--keyframe-interval", type=float, metavar="SECONDS", help="of capture time, 0 for never (default 10)")
    add("--wait-subscribers", type=int, metavar="N", help="hold the first frame until N readers have joined")
    add("--max-frames", type=int, metavar="N", help="end each source after N frames")
    add("--tail", choices=["pad", "drop"], help="the last, partial group (default pad)")
    add("--device", help="where the network runs: auto, cpu, cuda or cuda:N (default auto)")
    add(
        "--engine",
        metavar="auto|eager|FILE",
        help="auto: as measured once for this machine (default on a GPU); "
        "eager: PyTorch's layers; FILE: what auto has left (default on a CPU: our own layers in float32)",
    )
    add("--deterministic", action="store_true", help="bit-identical tokens however the frames are cut")
    add("--publish-frames", action="store_true", help="also send the camera images, on frames/<stream>")
    add("--record", metavar="FILE|DIR", help="also write the token stream to an MCAP file, or a new one in a folder")
    add(
        "--record-frames",
        choices=["none", "lossless", "lossy"],
        help="camera images in --record: lossless (default) replays to the same tokens",
    )
    add("--metrics", type=int, metavar="PORT", help="Prometheus on 127.0.0.1:PORT, with /healthz and /readyz")
    add("--curve", metavar="DIR", help="keys of this node, from `streamtok keys generate`")
    add("--insecure", action="store_true", help="allow a network address without keys")
    add("--ipc-group", metavar="GROUP", help="who may connect to ipc sockets besides this user (default: nobody)")
    add("--compression", choices=["none", "zstd"], help="of the tokens that are sent (default none)")
    add("--threads", type=int, metavar="N", help="of PyTorch on a CPU (default: PyTorch's choice); tokens depend on it")
    add("--context", type=int, metavar="STEPS", help="attention window in groups (default: the model's)")
    add("--node", metavar="NAME", help="name of this process in info and status (default ingest)")
    add("--set", action="append", metavar="KEY=VALUE", help="override any key: --set streams.0.fit=crop")
    return parser


def settings_from(given: dict[str, Any]) -> RigSettings:
    """The rig: the configuration file with the flags on top."""
    from streamtok.settings.rig import StreamDefaults, load_rig
    from streamtok.settings.yaml_file import parse_set

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
    return run(settings_from(vars(build_parser().parse_args(argv))))


def run(settings: RigSettings) -> int:
    """Start, show and end the node."""
    from streamtok.node.display import LiveDisplay, log_to_stderr
    from streamtok.node.process import stop_on_signals
    from streamtok.node.stream_metrics import format_summary

    log_to_stderr(log_format=settings.log_format)
    node = make_node(settings, on_update=lambda node: display.update())
    title = f"{settings.node}: {settings.model} on {settings.bind}"

    def show(summary: dict[str, Any]) -> None:
        print(json.dumps(summary) if settings.as_json else format_summary(summary), flush=True)

    with (
        stop_on_signals(node.stop, lambda: show(node.summary())),
        LiveDisplay(node.metrics, list(node.sources), title) as display,
    ):
        summary = node.run()
    show(summary)
    for failure in node.failures:
        print(f"streamtok ingest: {failure}", file=sys.stderr)
    return 1 if node.failures else 0


def make_node(
    settings: RigSettings,
    tokenizer: Tokenizer | None = None,
    on_update: Callable[[IngestNode], None] | None = None,
) -> IngestNode:
    """The node that the settings describe; the tokenizer is loaded at its start unless it is given.

    Raises SettingsError for what could not work on this machine, whatever its cameras do.
    """
    from streamtok.node.ingest import IngestNode, NodeOptions
    from streamtok.node.metrics import Metrics

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
    """Raise ValueError or ImportError for what could not be published so on this machine."""
    from streamtok.wire import compression
    from streamtok.wire.endpoint import check_endpoints

    secure, insecure = settings.curve is not None, settings.insecure
    check_endpoints(settings.bind, settings.control, secure=secure, insecure=insecure, ipc_group=settings.ipc_group)
    compression.check(settings.compression)


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
    return Parts(core, publisher, recorder)


def make_core(settings: RigSettings, tokenizer: Tokenizer | None, sources: dict[str, Source]) -> IngestCore:
    """The ingest core for open sources; the tokenizer is loaded, for the largest of their pictures, if not given."""
    from streamtok.engine.loading import load_tokenizer
    from streamtok.ingest.core import IngestCore
    from streamtok.node.rig import batches_of

    options = {stream.name: options_of(stream, sources[stream.name].live) for stream in settings.resolved()}
    rates = {name: source.fps for name, source in sources.items()}
    batches = [] if settings.batch_wait_ms is None else batches_of(options, rates)
    if tokenizer is None:
        sizes = [option.size or sources[name].size for name, option in options.items()]
        largest = max(filter(None, sizes), default=None, key=math.prod)
        tokenizer = load_tokenizer(settings, largest, max(map(len, batches), default=1))
    wait_ms = settings.batch_wait_ms or 0.0
    return IngestCore(tokenizer, options, context=settings.context, batches=batches, batch_wait_ms=wait_ms)


def options_of(stream: StreamSettings, live: bool) -> StreamOptions:
    """What the core is told of a stream; `live` decides a policy that was not given: cameras latest, files lossless."""
    from streamtok.ingest.lane import StreamOptions

    policy = stream.policy or ("latest" if live or stream.realtime else "lossless")
    interval, size = stream.keyframe_interval, stream.size
    return StreamOptions(policy, stream.on_gap, stream.tail, interval, size, stream.fit, stream.metadata)


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
        stats=node.summary,
        stop=node.stopping,
    )


def make_recorder(settings: RigSettings, core: IngestCore) -> Recorder | None:
    """The recorder of --record, if the settings have it."""
    if settings.record is None:
        return None
    from streamtok.recording.recorder import Recorder, RecorderOptions

    waits = all(lane.options.policy == "lossless" for lane in core.lanes.values())
    limits = settings.record_max_size, settings.record_max_minutes, settings.record_min_free
    options = RecorderOptions.limited(settings.record_frames, *limits, wait=waits)
    return Recorder(settings.record, options, metadata={"config": settings.model_dump(mode="json")})


if __name__ == "__main__":
    sys.exit(main())
