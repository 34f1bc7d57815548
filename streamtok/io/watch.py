"""Detects that the image of a live source stands still."""

import zlib

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
