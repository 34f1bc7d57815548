"""A rig's settings as what its node runs: sources, and which streams share a step."""

from typing import Any

from streamtok.ingest.lane import StreamOptions
from streamtok.io.base import Source
from streamtok.io.source import open_source
from streamtok.settings.rig import RigSettings, StreamSettings
from streamtok.wire import compression
from streamtok.wire.endpoint import check_endpoints


def check_publishing(rig: RigSettings) -> None:
    """Raise ValueError or ImportError for what could not be published so on this machine, whatever the cameras do."""
    secure = rig.curve is not None
    check_endpoints(rig.bind, rig.control, secure=secure, insecure=rig.insecure, ipc_group=rig.ipc_group)
    compression.check(rig.compression)


def make_source(stream: StreamSettings, keep_packets: bool = False) -> Source:
    """The source of one stream, not opened yet; raises ValueError or FileNotFoundError naming the stream."""
    options: dict[str, Any] = {"realtime": stream.realtime, "max_frames": stream.max_frames}
    try:
        source = open_source(stream.source, stream.name, keep_packets=keep_packets, **options)
        source.required = stream.required
        return source
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"stream {stream.name}: {error}") from error


def stream_options(stream: StreamSettings, live: bool) -> StreamOptions:
    """What the ingest core needs of one stream; `live` decides a policy that was not given: cameras latest, files
    lossless."""
    policy = stream.policy or ("latest" if live or stream.realtime else "lossless")
    return StreamOptions(policy, stream.on_gap, stream.tail, stream.keyframe_interval, stream.size, stream.fit)


def batches_of(options: dict[str, StreamOptions], rates: dict[str, float | None]) -> list[list[str]]:
    """Which streams share a step: those of policy `latest` at one frame rate (None: not known yet) whose frames are
    encoded at one size, so it must be given; ValueError if not.

    Lossless streams have steps of their own: where they are cut must not depend on when others are read.
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


def is_paced(source: Source) -> bool:
    """Whether frames come at the times they carry: a camera, or a recording in real time."""
    return source.live or bool(getattr(source, "realtime", False))
