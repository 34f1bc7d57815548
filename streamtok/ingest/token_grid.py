"""The token grid of a group: its shape, its values from the encoder's output, and its description for subscribers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from streamtok.config import TokenizerConfig
from streamtok.ingest.lane import Lane
from streamtok.model import Encoded, Tokenizer
from streamtok.types import StreamInfo


def list_levels(config: TokenizerConfig) -> list[int]:
    """The levels whose product is the codebook size, as headers carry them; empty for continuous models."""
    if config.codebook_size is None:
        return []
    factored = config.quantizer in ("fsq", "residual_fsq") and not config.refinement
    return list(config.levels) if factored else [config.codebook_size]


def grid_shape(config: TokenizerConfig, height: int, width: int) -> tuple[int, ...]:
    """Shape of one group's tokens for (height, width) images: (h, w), (Q, h, w) or (C, h, w)."""
    grid = tuple(config.grid(height, width))
    if not config.discrete:
        return config.latent_channels, *grid
    return (config.num_quantizers, *grid) if config.quantizer == "residual_fsq" else grid


def take_grids(out: Encoded, config: TokenizerConfig) -> np.ndarray:
    """The token grids of a step's output, (slots, *grid_shape) as `token_dtype`, on the host."""
    if out.indices is None:
        return out.latent[:, :, 0].to(torch.float16).cpu().numpy()
    return out.indices.select(-3, 0).cpu().numpy().astype(config.token_dtype)


def make_stream_info(
    lane: Lane, tokenizer: Tokenizer, *, context: int | None, engine: Mapping[str, Any], batch: Sequence[str]
) -> StreamInfo:
    """The current StreamInfo of an open lane; ValueError if it is not open.

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
        dtype=config.token_dtype,
        levels=tuple(list_levels(config)),
        image_size=lane.image_size,
        temporal_compression=lane.group_frames,
        spatial_compression=config.spatial_compression,
        context=context or config.context,
        predictive=config.closed_loop,
        refinement=config.refinement,
        engine=engine,
        batch=tuple(batch),
        source_size=lane.source_size,
        source_rect=lane.source_rect,
        requested_size=lane.options.size,
        fit=lane.options.fit,
        frame_rate=lane.frame_rate,
        keyframe_interval=lane.options.keyframe_interval,
        hold=lane.options.hold,
        bitrate=lane.options.bitrate,
        metadata=lane.options.metadata,
    )
