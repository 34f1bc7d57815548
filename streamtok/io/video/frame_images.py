"""Decoded frames of PyAV as pictures: uint8 RGB, upright."""

from __future__ import annotations

import threading
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from streamtok.preprocessing.orientation import BOXES, UPRIGHT, orient, read_matrix_orientation

THREADS = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}
"""What PyAV is told, which else starts threads of its own; they would not survive `os.fork`."""


class _Conversion(threading.local):
    """What turns frames into RGB: each thread keeps its own, as making one costs more than turning a small frame."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()


_conversion = _Conversion()


def read_orientation(frame: Any) -> int:
    """The orientation, 1 to 8, that a decoded frame was stored in, as its EXIF, its container or its codec says."""
    if frame.opaque is not None and frame.opaque[0] != UPRIGHT:
        return int(frame.opaque[0])
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 knows no EXIF beside a frame, as FFmpeg 8 puts it there, and gives the angle alone
        return BOXES.get((frame.rotation % 360 // 90, None), UPRIGHT)
    if matrix is None:
        return UPRIGHT
    return read_matrix_orientation(np.frombuffer(matrix, "=i4").reshape(3, 3)) or UPRIGHT


def to_image(frame: Any) -> np.ndarray:
    """A decoded video frame as uint8 RGB (H, W, 3), upright."""
    image = _conversion.reformatter.reformat(frame, format="rgb24", **THREADS).to_ndarray()
    return orient(image, read_orientation(frame))
