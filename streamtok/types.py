"""What travels between the packages: a camera's frame on its way in, a group's tokens on their way out.

Times are nanoseconds of the monotonic clock. Nothing of streamtok is imported here, so every package may use these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class RawPicture(Protocol):
    """One image as a camera sends it; `streamtok.preprocessing.pixels.RawImage` is one.

    `data` is uint8 (n,) in `encoding` with rows of `step` bytes. `shape` is the picture's (height, width, 3). `rows`
    are the bytes of each row without padding, uint8 (height, n).
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


class Planes(Protocol):
    """A frame as the network takes it, uint8 RGB (3, H, W); it may still be on its way to the device."""

    def copy_to(self, target: Tensor) -> None:
        """Copy into `target`, uint8 (3, H, W) on the network's device, in order with what is queued there."""


@dataclass(frozen=True)
class Prepared:
    """A frame ready for the network: `planes`, made from a picture of `source_size` (height, width)."""

    stream: str
    frame_id: int
    capture_ns: int
    planes: Planes
    source_size: tuple[int, int]


@dataclass(frozen=True)
class StreamInfo:
    """What stays the same from group to group of a stream, as its readers are told.

    `tokenizer` is the fingerprint and `engine` its engine configuration; `grid` is the shape of one group's tokens in
    `dtype`. `batch` names the streams that share a step with this one, itself included. Sizes are (height, width);
    `source_rect` is (top, left, height, width) of the picture within `image_size`, the size that is encoded. The upper
    `refinement` values of an index keep what the cell shows and add to it. `hold` is the largest margin, in levels,
    within which the encoder keeps those of the group before. `bitrate` is what it is to hold, in bits per second.
    """

    stream: str
    tokenizer: str
    model: str
    grid: tuple[int, ...]
    dtype: str
    levels: tuple[int, ...]
    image_size: tuple[int, int]
    temporal_compression: int
    spatial_compression: int
    context: int | None
    predictive: bool
    refinement: int
    engine: Mapping[str, Any]
    batch: tuple[str, ...]
    source_size: tuple[int, int]
    source_rect: tuple[int, int, int, int]
    requested_size: tuple[int, int] | None
    fit: str
    frame_rate: float | None = None
    keyframe_interval: float = 0.0
    hold: float = 0.0
    bitrate: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenGroup:
    """What one group of frames of one stream became.

    `tokens` is the grid: (h, w) uint16, or uint32 above 65,536 codes, or (C, h, w) float16 for continuous models;
    residual quantizers add a leading axis. `frame_ids` and `capture_ns` have one entry per real frame, oldest first.
    `repeated` counts the frames added to fill the group, `dropped` the frames lost since this stream's previous group.
    `encode_ns` is a duration; `image_size` is the (H, W) that was encoded. `hold` is the margin, in levels, within
    which the encoder kept those of the group before. `info` says what the stream is; it is None for a group that was
    read from a file.
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
    hold: float = 0.0
    info: StreamInfo | None = None
