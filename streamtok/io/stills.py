"""Still pictures: read, written, encoded and captioned; uint8 RGB (H, W, 3) everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

JPEG_QUALITY = 92
BAR = 22  # height of a caption in pixels
INK, PAPER = (235, 235, 235), (28, 28, 30)


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture file as uint8 RGB (H, W, 3); FileNotFoundError, or ValueError if it is no picture or damaged."""
    import cv2

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is no image that can be read: damaged, or not what its name says")
    return np.ascontiguousarray(image[..., ::-1])


def write_png(path: Path, image: np.ndarray) -> None:
    """Store a picture, uint8 RGB (H, W, 3), without loss; OSError where it cannot be written."""
    import cv2

    if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1])):
        raise OSError(f"{path}: the picture could not be written (is the disk full, or the folder read-only?)")


def encode_jpeg(image: np.ndarray) -> bytes:
    """A picture, uint8 RGB (H, W, 3), as a JPEG file."""
    import cv2

    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"no JPEG from an image of shape {image.shape}")
    return data.tobytes()


def caption(text: str, width: int) -> np.ndarray:
    """A bar with a line of text, uint8 RGB (BAR, width, 3)."""
    import cv2

    bar = np.full((BAR, width, 3), PAPER, np.uint8)
    return cv2.putText(bar, text, (6, BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
