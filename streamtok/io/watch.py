"""What every live source needs: noticing an image that stands still, and waiting longer after each failed try."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from streamtok.preprocessing.pixels import RawImage

STRIDE = 8


class FreezeWatch:
    """Tells when a camera repeats one image for too long, which a working sensor, with its noise, does not.

    `see` takes every picture, uint8 (H, W, 3) or a camera's bytes, with its time in ns. `frozen` is True from `after_s`
    seconds of identical ones until another one comes. Every 8th pixel, or byte, of every 8th row is compared.
    """

    def __init__(self, after_s: float = 5.0) -> None:
        if after_s <= 0:
            raise ValueError(f"freeze_after is {after_s} s: expected more than 0")
        self.after_ns = int(after_s * 1e9)
        self.frozen = False
        self._print: int | None = None
        self._since_ns = 0

    def see(self, picture: np.ndarray | RawImage, time_ns: int) -> bool:
        """Note one picture, uint8 (H, W, C) or raw; True when it is the one that makes the camera count as frozen."""
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

    Where it is known how long the outage has lasted, half of that is the limit: no wait makes it twice as long.
    """

    first: float = 0.1
    most: float = 10.0
    tries: int = 0

    def next(self, outage: float = math.inf) -> float:
        """How long to wait after one more failure, `outage` seconds after the first."""
        self.tries += 1
        return min(self.first * 2 ** min(self.tries - 1, 30), self.most, max(outage / 2, self.first))

    def reset(self) -> None:
        """A try succeeded."""
        self.tries = 0
