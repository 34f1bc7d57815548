"""What every live source needs: detection of a frozen image, and exponential backoff between tries."""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from streamtok.preprocessing.pixels import RawImage

STRIDE = 8


class FreezeWatch:
    """Detects a camera that repeats one image; a working sensor does not, because it has noise.

    `see` takes every picture, uint8 (H, W, 3) or raw, with its time in ns. `frozen` is True from `after_s` seconds of
    identical pictures until a different one comes. Every 8th pixel, or byte, of every 8th row is compared.
    """

    def __init__(self, after_s: float = 5.0) -> None:
        if after_s <= 0:
            raise ValueError(f"freeze_after is {after_s} s: expected more than 0")
        self.after_ns = int(after_s * 1e9)
        self.frozen = False
        self._print: int | None = None
        self._since_ns = 0

    def see(self, picture: np.ndarray | RawImage, time_ns: int) -> bool:
        """Take one picture, uint8 (H, W, C) or raw; True if the camera counts as frozen from this picture on."""
        rows = picture.rows if isinstance(picture, RawImage) else picture
        fingerprint = zlib.crc32(rows[::STRIDE, ::STRIDE].tobytes())
        if fingerprint != self._print:
            self._print, self._since_ns, self.frozen = fingerprint, time_ns, False
            return False
        if self.frozen or time_ns - self._since_ns < self.after_ns:
            return False
        self.frozen = True
        return True


@dataclass
class Backoff:
    """Seconds to wait before the next try: `first`, then twice as long each time, at most `most`.

    No wait is longer than half the outage so far, where that is known, so that waiting never doubles an outage.
    """

    first: float = 0.1
    most: float = 10.0
    tries: int = 0

    def next(self, outage: float = math.inf) -> float:
        """Seconds to wait after one more failure, which came `outage` seconds after the first."""
        self.tries += 1
        return min(self.first * 2 ** min(self.tries - 1, 30), self.most, max(outage / 2, self.first))

    def reset(self) -> None:
        """Start over after a success."""
        self.tries = 0
