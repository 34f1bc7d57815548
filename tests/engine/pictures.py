"""Camera images of noise."""

import numpy as np

from streamtok.preprocessing.pixels import ALIASES, PIXEL_BYTES


def camera_bytes(encoding: str, height: int, width: int, padding: int = 0, seed: int = 5) -> tuple[np.ndarray, int]:
    """Random bytes of one image, `padding` at the end of each row, and its step."""
    step = width * PIXEL_BYTES[ALIASES.get(encoding, encoding)] + padding
    rows = height * 3 // 2 if encoding in ("nv12", "i420") else height
    return np.random.default_rng(seed).integers(0, 256, rows * step, np.uint8), step


def picture(number: int, size: tuple[int, int] = (32, 48), stream: str = "a") -> np.ndarray:
    """Picture `number` of a stream: noise that moves, uint8 RGB."""
    texture = np.random.default_rng(ord(stream[0])).integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.roll(texture, number, axis=1)
