"""Builds the parts of a node from a rig's settings: its sources, and once they are open, core, publisher, recorder."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamtok.coding.library import coder_for
from streamtok.engine.loading import default_engine, load, pick_device
from streamtok.ingest.budget import MOST_HOLD, share_budget
from streamtok.ingest.core import IngestCore
from streamtok.ingest.lane import StreamOptions
from streamtok.io.base import Source
from streamtok.io.source import open_source
from streamtok.model import Tokenizer
from streamtok.node.loop import NodeParts
from streamtok.recording.recorder import Recorder, check_destination
from streamtok.recording.recorder_options import RecorderOptions
from streamtok.settings.errors import blame_settings
from streamtok.settings.replay import ReplaySettings
from streamtok.settings.rig import RigSettings, StreamSettings
from streamtok.settings.shared import MAX_PIXELS
from streamtok.wire.binding import probe_endpoints
from streamtok.wire.endpoint import check_endpoints
from streamtok.wire.publisher import Publisher
from streamtok.wire.security import CurveServer, load_keys


def check_outputs(settings: RigSettings | ReplaySettings) -> None:
    """Raise ValueError or OSError for endpoints or a recording that cannot be, before a model is loaded in vain."""
    if settings.bind is not None:
        secure, insecure, group = settings.curve is not None, settings.insecure, settings.ipc_group
        control = check_endpoints(settings.bind, settings.control, secure=secure, insecure=insecure, ipc_group=group)
        probe_endpoints(settings.bind, control)
    if settings.record is not None:
        check_destination(settings.record)


def make_sources(settings: RigSettings) -> dict[str, Source]:
    """Make the sources by stream, not opened yet; raises ValueError or FileNotFoundError that names the stream."""
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


def make_warm_core(settings: RigSettings, tokenizer: Tokenizer | None, sources: dict[str, Source]) -> IngestCore:
    """Make the ingest core for open sources, with warm streams; the tokenizer is loaded if it is None."""
    if tokenizer is None:
        pick_device(settings.device)  # outside blame_settings, as a GPU that is not there yet is no fault of settings
    with blame_settings():
        core = make_core(settings, tokenizer, sources)
        warm_up_streams(core, sources)
    return core


def open_parts(
    settings: RigSettings,
    core: IngestCore,
    sources: dict[str, Source],
    stack: ExitStack,
    *,
    stats: Callable[[], dict[str, Any]],
    stop: Callable[[], bool],
) -> NodeParts:
    """Make publisher and recorder; `stack` closes the publisher. `stats` and `stop` are those of `Publisher`."""
    with blame_settings():
        publisher = stack.enter_context(make_publisher(settings, core, sources, stats, stop))
        recorder = make_recorder(settings, core)
    if recorder is not None:
        publisher.on_announce = recorder.add_stream
    return NodeParts(core, publisher, recorder)


def make_core(settings: RigSettings, tokenizer: Tokenizer | None, sources: dict[str, Source]) -> IngestCore:
    """Make the ingest core for open sources; if no tokenizer is given, one is loaded for their largest picture."""
    options = {stream.name: make_options(stream, sources[stream.name].live) for stream in settings.resolved()}
    rates = {name: source.fps for name, source in sources.items()}
    batches = [] if settings.batch_wait_ms is None else find_batches(options, rates)
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
            slots_per_step=slots if slots > 1 else None,  # one is every engine's default
        )
    gains = settings.compression == "coded" and tokenizer.config.holds_levels  # without a past, hold saves no bits
    for stream in settings.resolved():
        if gains and (stream.bitrate or settings.rig_bitrate) and stream.hold is None:
            options[stream.name] = replace(options[stream.name], hold=MOST_HOLD)
    wait_ms = settings.batch_wait_ms or 0.0
    core = IngestCore(tokenizer, options, context=settings.context, batches=batches, batch_wait_ms=wait_ms)
    if settings.rig_bitrate is not None:
        share_budget(settings.rig_bitrate, [lane.budget for lane in core.lanes.values()])
    return core


def make_options(stream: StreamSettings, live: bool) -> StreamOptions:
    """Make the core's options of a stream.

    `live` decides a policy that was not given (cameras latest, files lossless), and limits the pixels of pictures.
    """
    policy = stream.policy or ("latest" if live or stream.realtime else "lossless")
    same = {"on_gap", "tail", "keyframe_interval", "size", "fit", "metadata", "bitrate", "keyframe_drift"}
    given, limit = stream.model_dump(include=same), MAX_PIXELS if live else math.inf
    return StreamOptions(policy, hold=stream.hold or 0.0, max_pixels=limit, **given)


def find_batches(options: dict[str, StreamOptions], rates: dict[str, float | None]) -> list[list[str]]:
    """Decide which streams share a step.

    They have policy `latest`, the same frame rate (None: not known yet) and the same encoded size, which must be given,
    else ValueError. Lossless streams step alone, since their groups must not depend on when others are read.
    """
    cameras = {name: (option.size, rates[name]) for name, option in options.items() if option.policy == "latest"}
    without = [name for name, (size, _) in cameras.items() if size is None]
    if without:
        raise ValueError(
            f"batch_wait_ms is set, so cameras of one size share a step, but streams {without} have no `size`: "
            "give them one (HEIGHTxWIDTH, under `defaults` for all), or leave batch_wait_ms out"
        )
    kinds = dict.fromkeys(cameras.values())
    return [[name for name, of in cameras.items() if of == kind] for kind in kinds]


def make_publisher(
    settings: RigSettings,
    core: IngestCore,
    sources: dict[str, Source],
    stats: Callable[[], dict[str, Any]],
    stop: Callable[[], bool],
) -> Publisher:
    """Make the bound publisher; its readers may have a backlog of one second of the node's groups."""
    rates = [(source.fps or 30.0) / core.group_frames for source in sources.values()]
    codes = settings.compression in ("coded", "independent")
    return Publisher(
        settings.bind,
        settings.control,
        node=settings.node,
        curve=load_keys(CurveServer, settings.curve),
        insecure=settings.insecure,
        ipc_group=settings.ipc_group,
        lossless=all(lane.options.policy == "lossless" for lane in core.lanes.values()),
        messages_per_second=max(64.0, sum(rates)),
        compression=settings.compression,
        coder=coder_for(core.tokenizer.fingerprint, Path(settings.model)) if codes else None,
        stats=stats,
        stop=stop,
    )


def make_recorder(settings: RigSettings, core: IngestCore) -> Recorder | None:
    """Make the recorder that the settings ask for; None if nothing is recorded."""
    if settings.record is None:
        return None
    waits = all(lane.options.policy == "lossless" for lane in core.lanes.values())
    limits = settings.record_max_size, settings.record_max_minutes, settings.record_min_free
    options = RecorderOptions.limited(settings.record_frames, *limits, wait=waits)
    return Recorder(settings.record, options, metadata={"config": settings.model_dump(mode="json")})


def warm_up_streams(core: IngestCore, sources: dict[str, Source]) -> None:
    """Allocate and warm up the streams whose size is known; ValueError for a size that cannot be encoded."""
    for name, source in sources.items():
        lane = core.lane(name)
        lane.frame_rate = source.fps
        if source.size is not None:
            core.open(name, source.size)
        if source.size is not None or lane.options.size is not None:
            core.warm_up(name)
