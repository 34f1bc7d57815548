"""What a stream of an ingest core is, as its readers are told."""

from typing import TYPE_CHECKING, Any

from streamtok.engine.loading import engine_configuration
from streamtok.ingest.token_grid import dtype_of, grid_shape, levels_of
from streamtok.wire.message import Info

if TYPE_CHECKING:
    from streamtok.ingest.core import IngestCore


def describe(core: "IngestCore", stream: str, **more: Any) -> Info:
    """The `info` of a stream; `more` has the fields that the core does not know. ValueError before its `open`."""
    config, lane = core.config, core.lane(stream)
    if lane.source_size is None:
        raise ValueError(f"stream {stream!r} is not open: the size of its frames is not known yet")
    return Info(
        stream=stream,
        tokenizer=core.tokenizer.fingerprint,
        model=config.name,
        grid=list(grid_shape(config, *lane.image_size)),
        dtype=dtype_of(config),
        levels=levels_of(config),
        image_size=list(lane.image_size),
        temporal_compression=core.group_frames,
        spatial_compression=config.spatial_compression,
        context=core.context or config.context,
        predictive=config.predictive,
        engine=engine_configuration(core.tokenizer),
        batch=core.batch(stream),
        source_size=list(lane.source_size),
        source_rect=[int(side) for side in core.preprocessor(stream, lane.source_size).rect],
        requested_size=lane.options.size and list(lane.options.size),
        fit=lane.options.fit,
        **more,
    )
