"""What travels between the packages: a camera's frame on its way in, a group's tokens on their way out.

Times are nanoseconds of the monotonic clock. Nothing of streamtok is imported here, so every package may use these.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np


class RawPicture(Protocol):
    """One image as a camera sends it; `streamtok.preprocessing.pixels.RawImage` is one.

    `data` is uint8 (n,) in `encoding` with rows of `step` bytes, `shape` the picture's (height, width, 3), `rows` the
    bytes of each row without padding, uint8 (height, n).
    """

    data: np.ndarray
    encoding: str
    step: int
    shape: tuple[int, int, int]

    @property
    def rows(self) -> np.ndarray: ...

    def rgb(self) -> np.ndarray:
        """The picture, a new uint8 RGB (height, width, 3)."""


@dataclass(frozen=True)
class Frame:
    """One camera image, `frame_id` as the camera counts, `capture_ns` on the monotonic clock.

    `picture` is uint8 RGB (H, W, 3), or a `RawPicture`: the camera's bytes, which a GPU may convert.
    """

    stream: str
    frame_id: int
    capture_ns: int
    picture: np.ndarray | RawPicture
    packet: bytes | None = None
    """The compressed packet this image was decoded from, where the source has one and was asked to keep it."""
    codec: str | None = None

    @cached_property
    def image(self) -> np.ndarray:
        """The picture as uint8 RGB (H, W, 3), converted at the first use."""
        return self.picture if isinstance(self.picture, np.ndarray) else self.picture.rgb()


@dataclass(frozen=True)
class TokenGroup:
    """What one group of frames of one stream became.

    `tokens` is the grid: (h, w) uint16, or uint32 above 65,536 codes, or (C, h, w) float16 for continuous models;
    residual quantizers add a leading axis. `frame_ids` and `capture_ns` have one entry per real frame, oldest first;
    `repeated` counts the frames added to fill the group, `dropped` the frames lost since this stream's previous
    group. `encode_ns` is a duration; `image_size` is the (H, W) that was encoded.
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
