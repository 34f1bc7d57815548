"""The options with which the ingest core encodes one stream."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamtok.preprocessing.preprocessor import FITS

POLICIES = ("latest", "lossless")
ON_GAP = ("reset", "bridge")
TAILS = ("pad", "drop")


@dataclass(frozen=True)
class StreamOptions:
    """How one stream treats sizes, gaps, its bitrate and its end; ValueError for values that are not allowed.

    `hold` is the margin, in levels of the quantizer, within which the encoder keeps a level; with a `bitrate` it is the
    largest one. An epoch also ends once a share `keyframe_drift` of the tokens, above 0 to 1, differs from its keyframe
    (None: never).
    """

    policy: str = "latest"  # one of POLICIES
    on_gap: str = "reset"  # one of ON_GAP
    tail: str = "pad"  # one of TAILS
    keyframe_interval: float = 10.0  # s of capture time; 0 for never
    size: tuple[int, int] | None = None  # (H, W) to encode; None: the source's own, padded to the grid
    fit: str = "stretch"  # one of FITS
    metadata: Mapping[str, Any] = field(default_factory=dict)  # for subscribers; not used here
    max_pixels: float = math.inf  # of a source's own size, if `size` is None
    hold: float = 0.0
    bitrate: int | None = None  # bits per second
    keyframe_drift: float | None = None

    def __post_init__(self) -> None:
        allowed = {"policy": POLICIES, "on_gap": ON_GAP, "tail": TAILS, "fit": FITS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        if not self.keyframe_interval >= 0:
            raise ValueError(f"keyframe_interval must be seconds >= 0 (0 for never), got {self.keyframe_interval!r}")
        if self.keyframe_drift is not None and not 0 < self.keyframe_drift <= 1:
            raise ValueError(f"keyframe_drift must be more than 0 and at most 1, got {self.keyframe_drift!r}")
        if self.bitrate is not None and not self.bitrate > 0:
            raise ValueError(f"bitrate must be more than 0 bits per second, got {self.bitrate!r}")

    def check_pixels(self, stream: str, height: int, width: int) -> None:
        """Raise ValueError for a source's pictures that are too large to be encoded at their own size."""
        if self.size is None and height * width > self.max_pixels:
            most = f"more than {self.max_pixels} pixels: set `size`, the (height, width) to encode"
            raise ValueError(f"stream {stream}: a picture of {height}x{width} has {most}")
