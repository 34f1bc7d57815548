"""Frames in, token groups out: what live ingest, replay and the tests share."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenGroup:
    """What one group of frames of one stream became.

    `tokens` is the grid: (h, w) uint16, or uint32 above 65,536 codes, or (C, h, w) float16 for continuous models; residual
    quantizers add a leading axis. `frame_ids` and `capture_ns` have one entry per real frame, oldest first; `repeated` counts
    the frames added to fill the group, `dropped` the frames lost since this stream's previous group. `encode_ns` is a
    duration; `image_size` is the (H, W) that was encoded.
    """

    stream: str
    tokens: np.ndarray
    keyframe: bool
    epoch: int
    frame_ids: list[int]
    capture_ns: list[int]
    dropped: int
    repeated: int
    encode_ns: int
    image_size: tuple[int, int]
