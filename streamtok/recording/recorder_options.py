"""The options of a recording."""

from dataclasses import dataclass
from typing import Self

from streamtok.recording.format import FRAME_MODES


@dataclass(frozen=True)
class RecorderOptions:
    """What to record, and its limits. A new file begins after `max_bytes` or `max_seconds` (None: never)."""

    frames: str = "none"  # camera images: "none", "lossless" or "lossy" (JPEG; replay cannot verify such a file)
    pictures: bool = False  # also the token grids as grey images, for viewers
    max_bytes: int | None = None
    max_seconds: float | None = None
    min_free_bytes: int = 512_000_000  # recording stops if the disk has less
    queue_bytes: int = 256 << 20  # limit of the frames that wait to be written
    wait: bool = False  # block the caller until there is room, instead of dropping frames

    def __post_init__(self) -> None:
        if self.frames not in FRAME_MODES:
            raise ValueError(f"frames must be one of {', '.join(FRAME_MODES)}, got {self.frames!r}")
        for name in ("max_bytes", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, or None for no limit, got {value!r}")

    @classmethod
    def limited(
        cls, frames: str, max_mb: float | None, max_minutes: float | None, min_free_mb: float, **others: bool
    ) -> Self:
        """Options with limits in the units of settings: sizes in MB (10^6 bytes), the time in minutes."""
        max_bytes = None if max_mb is None else round(max_mb * 1e6)
        max_seconds, least = max_minutes and max_minutes * 60, round(min_free_mb * 1e6)
        return cls(frames, max_bytes=max_bytes, max_seconds=max_seconds, min_free_bytes=least, **others)
