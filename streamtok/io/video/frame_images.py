"""Convert decoded PyAV frames to pictures: uint8 RGB, upright."""

import threading
from typing import Any

import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from streamtok.preprocessing.orientation import BOXES, UPRIGHT, orient, read_matrix_orientation

LIMITED_GREY = ((np.arange(256) - 16) * 255 / 219).round().clip(0, 255).astype(np.uint8)
"""Grey values of a stream whose black is 16 and white 235, in the full range; FFmpeg does this for colours alone."""


class _Conversion(threading.local):
    """The converter to RGB, one per thread: making one costs more than converting a small frame."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()


_conversion = _Conversion()


def read_orientation(frame: Any) -> int:
    """The orientation, 1 to 8, that a decoded frame is stored in by its container or codec."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 does not know the EXIF side data of FFmpeg 8, and gives only the angle
        return BOXES.get((frame.rotation % 360 // 90, None), UPRIGHT)
    found = None if matrix is None else read_matrix_orientation(np.frombuffer(matrix, "=i4").reshape(3, 3))
    return found or UPRIGHT


def to_image(frame: Any) -> np.ndarray:
    """A decoded frame as uint8 RGB (H, W, 3), upright; `CleanDecoder` may know its orientation from those before."""
    # Threads of its own would not survive `os.fork`.
    image = _conversion.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    if frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG:
        image = LIMITED_GREY[image]
    return orient(image, *(frame.opaque or [read_orientation(frame)]))
