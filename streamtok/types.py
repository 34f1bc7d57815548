"""The types that packages exchange: a camera's frames on their way in, a group's tokens on their way out.

Times are nanoseconds of the monotonic clock. This module imports nothing of streamtok, so every package may use it.
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
    """One image as a camera sends it; `streamtok.preprocessing.pixels.RawImage` is one."""

    data: np.ndarray  # uint8 (n,)
    encoding: str
    step: int  # bytes of a row
    shape: tuple[int, int, int]  # (height, width, 3), of the picture

    @property
    def rows(self) -> np.ndarray:
        """The bytes of each row without padding, uint8 (height, n)."""

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
    """The compressed packet that this image was decoded from, if the source has one and was asked to keep it."""
    codec: str | None = None

    @cached_property
    def image(self) -> np.ndarray:
        """The picture as uint8 RGB (H, W, 3), converted at the first use."""
        return self.picture if isinstance(self.picture, np.ndarray) else self.picture.rgb()


class Planes(Protocol):
    """A frame as the network takes it, uint8 RGB (3, H, W); its upload to the device may not have finished."""

    def copy_to(self, target: Tensor) -> None:
        """Copy into `target`, uint8 (3, H, W) on the network's device, in order with the work queued there."""


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
    """The facts of a stream that hold for all its groups, as its readers are told. Sizes are (height, width)."""

    stream: str
    tokenizer: str  # its fingerprint
    model: str
    grid: tuple[int, ...]  # shape of one group's tokens
    dtype: str  # of the tokens
    levels: tuple[int, ...]  # of each FSQ dimension; their product is the codebook size
    image_size: tuple[int, int]  # of the pictures that are encoded
    temporal_compression: int
    spatial_compression: int
    context: int | None
    predictive: bool
    refinement: int  # how many of the highest indices refine: they keep what the cell shows and add to it
    engine: Mapping[str, Any]  # the engine configuration
    batch: tuple[str, ...]  # streams that share a step with this one, itself included
    source_size: tuple[int, int]
    source_rect: tuple[int, int, int, int]  # (top, left, height, width) of the picture within `image_size`
    requested_size: tuple[int, int] | None
    fit: str
    frame_rate: float | None = None
    keyframe_interval: float = 0.0  # s
    hold: float = 0.0  # the largest margin, in levels, within which a token keeps its level of the previous group
    bitrate: int | None = None  # the target, in bits per second
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenGroup:
    """The tokens of one group of frames of one stream.

    `tokens` is the grid: (h, w) uint16, or uint32 above 65,536 codes, or (C, h, w) float16 for continuous models.
    Residual quantizers add a leading axis. `frame_ids` and `capture_ns` have one entry per real frame, oldest first.
    """

    stream: str
    tokens: np.ndarray
    keyframe: bool
    epoch: int
    frame_ids: list[int]
    capture_ns: list[int]
    dropped: int  # frames lost since this stream's previous group
    repeated: int  # frames added to fill the group
    encode_ns: int  # a duration
    image_size: tuple[int, int]  # (H, W) that was encoded
    hold: float = 0.0  # the margin, in levels, within which tokens kept their level of the previous group
    info: StreamInfo | None = None  # facts of the stream; None for a group that was read from a file
