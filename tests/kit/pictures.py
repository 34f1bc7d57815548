"""Pictures small enough that a test takes a moment: noise that moves, a camera's bytes, scenes and videos of them."""

from pathlib import Path

import numpy as np

from streamtok.preprocessing.pixels import ALIASES, PIXEL_BYTES
from streamtok.types import Frame

SIZE = 32, 48
MS = 1_000_000


def image(number: int, size: tuple[int, int] = SIZE, stream: str = "a") -> np.ndarray:
    """Frame `number` of a stream: noise that moves, uint8 RGB."""
    seed = sum(map(ord, stream))
    texture = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return np.roll(texture, number, axis=1)


def frame(number: int, stream: str = "a", size: tuple[int, int] = SIZE, time_ms: float | None = None) -> Frame:
    """Frame `number`, taken at 100 Hz unless `time_ms` says when."""
    capture_ns = round((10 * number if time_ms is None else time_ms) * MS) + 1
    return Frame(stream, number, capture_ns, image(number, size, stream))


def camera_bytes(encoding: str, height: int, width: int, padding: int = 0, seed: int = 5) -> tuple[np.ndarray, int]:
    """Random bytes of one image, `padding` at the end of each row, and its step."""
    step = width * PIXEL_BYTES[ALIASES.get(encoding, encoding)] + padding
    rows = height * 3 // 2 if encoding in ("nv12", "i420") else height
    return np.random.default_rng(seed).integers(0, 256, rows * step, np.uint8), step


def scene(frames: int = 33, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """A smooth picture that slides to the right by two pixels per frame: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, : width + 2 * frames]
    phase = rng.uniform(0, 6, (3, 4))
    wave = [sum(np.sin(p + x / (5 + 3 * i) + y / (7 + 2 * i)) for i, p in enumerate(row)) for row in phase]
    picture = (127 + 30 * np.stack(wave, -1)).clip(0, 255).astype(np.uint8)
    offsets = [2 * (frames - t) for t in range(frames)]
    return np.stack([picture[:, offset : offset + width] for offset in offsets])


def write_video(path: Path, frames: np.ndarray, fps: int = 24) -> Path:
    """Store frames as H.264 with hardly any loss."""
    from tests.kit import videos

    path.parent.mkdir(parents=True, exist_ok=True)
    return videos.write_video(path, frames, rate=fps, crf="4", preset="ultrafast")
