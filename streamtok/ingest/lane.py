"""One stream's place in the ingest core: its options, the group that is being filled, and its bookkeeping."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from streamtok.ingest.event_log import EventLog
from streamtok.ingest.preparing import Planes
from streamtok.preprocessing.preprocessor import FITS

log = logging.getLogger("streamtok.ingest")

POLICIES = ("latest", "lossless")
ON_GAP = ("reset", "bridge")
TAILS = ("pad", "drop")


@dataclass(frozen=True)
class StreamOptions:
    """How one stream treats sizes, gaps and its end.

    `size` is the (H, W) to encode, None for the source's own padded to the grid; `keyframe_interval` is in seconds of
    capture time, 0 for never; `policy`, `on_gap`, `tail` and `fit` are among POLICIES, ON_GAP, TAILS and FITS.
    """

    policy: str = "latest"
    on_gap: str = "reset"
    tail: str = "pad"
    keyframe_interval: float = 10.0
    size: tuple[int, int] | None = None
    fit: str = "stretch"

    def __post_init__(self) -> None:
        allowed = {"policy": POLICIES, "on_gap": ON_GAP, "tail": TAILS, "fit": FITS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}")
        if not self.keyframe_interval >= 0:
            raise ValueError(f"keyframe_interval must be seconds >= 0 (0 for never), got {self.keyframe_interval!r}")


@dataclass(frozen=True)
class Prepared:
    """A frame as the network takes it: `planes`, made from a `source_size` (height, width) picture."""

    stream: str
    frame_id: int
    capture_ns: int
    planes: Planes
    source_size: tuple[int, int]


@dataclass(eq=False)
class Lane:
    """One stream's place: the group being filled and its bookkeeping."""

    name: str
    options: StreamOptions
    counts: Counter = field(default_factory=Counter)
    buffer: Any = None  # Tensor (1, 3, G, H, W) uint8 on the encoder's device, once the size is known
    source_size: tuple[int, int] | None = None
    frame_ids: list[int] = field(default_factory=list)
    capture_ns: list[int] = field(default_factory=list)
    expected_id: int | None = None
    last_capture_ns: int | None = None
    fresh: bool = True  # the next group starts an epoch
    epoch: int = -1
    epoch_groups: int = 0  # of this epoch, so far
    keyframe_ns: int = 0
    requested: bool = False
    restarted: bool = False
    dropped: int = 0
    full_ns: int | None = None  # since when a full group waits for its step
    ended: bool = False  # nothing will come, as far as is known

    def __post_init__(self) -> None:
        self.log = EventLog(self.name, log)

    @property
    def image_size(self) -> Any:
        """(H, W) that the encoder takes; None until the size of the source is known."""
        return None if self.buffer is None else tuple(self.buffer.shape[-2:])

    def discard_pending(self) -> None:
        self.drop(len(self.frame_ids))
        self.clear_pending()

    def clear_pending(self) -> None:
        self.frame_ids, self.capture_ns, self.full_ns = [], [], None

    def drop(self, frames: int) -> None:
        self.dropped += frames
        self.counts["dropped"] += frames
