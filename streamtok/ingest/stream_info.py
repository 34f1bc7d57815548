"""What the readers of a stream are told, from its lane and the tokenizer that encodes it."""

from collections.abc import Mapping, Sequence
from typing import Any

from streamtok.ingest.lane import Lane
from streamtok.ingest.token_grid import dtype_of, grid_shape, levels_of
from streamtok.model import Tokenizer
from streamtok.types import StreamInfo


def make_stream_info(
    lane: Lane, tokenizer: Tokenizer, *, context: int | None, engine: Mapping[str, Any], batch: Sequence[str]
) -> StreamInfo:
    """The info of an open lane, as of now.

    `context` is the encoder's, None for the model's; `batch` names the streams that share the lane's step.
    """
    config = tokenizer.config
    if lane.source_size is None or lane.image_size is None:
        raise ValueError(f"stream {lane.name!r} is not open: the size of its frames is not known yet")
    return StreamInfo(
        stream=lane.name,
        tokenizer=tokenizer.fingerprint,
        model=config.name,
        grid=grid_shape(config, *lane.image_size),
        dtype=dtype_of(config),
        levels=tuple(levels_of(config)),
        image_size=lane.image_size,
        temporal_compression=lane.group_frames,
        spatial_compression=config.spatial_compression,
        context=context or config.context,
        predictive=config.predictive,
        engine=engine,
        batch=tuple(batch),
        source_size=lane.source_size,
        source_rect=lane.source_rect,
        requested_size=lane.options.size,
        fit=lane.options.fit,
        frame_rate=lane.frame_rate,
        keyframe_interval=lane.options.keyframe_interval,
        metadata=lane.options.metadata,
    )
