"""What a rig's sources say of how a node runs: who shares a step, what readers are told before the first frame."""

from streamtok.ingest.core import IngestCore
from streamtok.ingest.lane import StreamOptions
from streamtok.io.base import RecordedSource, Source
from streamtok.wire.publisher import Publisher


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
    return source.live or (isinstance(source, RecordedSource) and source.realtime)


def open_streams(core: IngestCore, sources: dict[str, Source], publisher: Publisher) -> None:
    """Allocate, warm up and announce what can be before the first frame: streams whose sources know their size."""
    for name, source in sources.items():
        lane = core.lane(name)
        lane.set_frame_rate(source.fps)
        if source.size is not None:
            core.open(name, source.size)
        if source.size is not None or lane.options.size is not None:
            core.warm_up(name)
        if source.size is not None:
            publisher.add_stream(core.stream_info(name))
