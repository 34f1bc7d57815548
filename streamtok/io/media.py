"""Pictures and videos as files: how they are called, read and written; uint8 RGB (H, W, 3) everywhere.

Live sources and drives want exact times and read videos with `streamtok.io.video`; this is for those who want frames.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

VIDEO_SUFFIXES = (
    ".mp4",
    ".mkv",
    ".mov",
    ".avi",
    ".webm",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".hevc",
    ".h265",
    ".265",
    ".h264",
    ".264",
)
IMAGE_SUFFIXES = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".pgm": "pgm",
    ".ppm": "ppm",
}
"""Of files that are one picture, each with the name of its codec."""
JPEG_QUALITY = 92
BAR = 22  # height of a caption in pixels
INK, PAPER = (235, 235, 235), (28, 28, 30)


def read_image(path: str | Path) -> np.ndarray:
    """A picture; FileNotFoundError, or ValueError for what is none."""
    import cv2

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is no image that can be read: damaged, or not what its name says")
    return np.ascontiguousarray(image[..., ::-1])


def write_png(path: Path, image: np.ndarray) -> None:
    """Store a picture without loss."""
    import cv2

    if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1])):
        raise OSError(f"{path}: the picture could not be written (is the disk full, or the folder read-only?)")


def encode_jpeg(image: np.ndarray) -> bytes:
    """A picture as JPEG."""
    import cv2

    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"no JPEG from an image of shape {image.shape}")
    return data.tobytes()


def caption(text: str, width: int) -> np.ndarray:
    """A bar (BAR, width, 3) with a line of text."""
    import cv2

    bar = np.full((BAR, width, 3), PAPER, np.uint8)
    return cv2.putText(bar, text, (6, BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)


def open_video(path: str | Path) -> tuple[float | None, Iterator[np.ndarray]]:
    """Frames per second, if the file says, and the frames in order; by PyAV, or by OpenCV where that is missing.

    A file that holds no frame, or breaks off, raises ValueError with its name; in the second case after its frames.
    """
    rate, frames = (_open_by_pyav if importlib.util.find_spec("av") else _open_by_opencv)(str(path))
    return float(rate) if rate else None, _one_or_more(frames, path)


def _one_or_more(frames: Iterator[np.ndarray], path: str | Path) -> Iterator[np.ndarray]:
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path} holds no frame that can be decoded")
    yield first
    yield from frames


def _open_by_pyav(path: str) -> tuple[Fraction | None, Iterator[np.ndarray]]:
    import av

    def frames() -> Iterator[np.ndarray]:
        with container:
            try:
                for frame in container.decode(video=0):
                    yield frame.to_ndarray(format="rgb24")
            except av.FFmpegError as error:
                raise ValueError(f"{path} breaks off: {error}") from error

    try:
        container = av.open(path)
        return container.streams.video[0].average_rate, frames()
    except (av.FFmpegError, IndexError) as error:  # IndexError: no video stream
        raise ValueError(f"{path} holds no frame that can be decoded: {error}") from error


def _open_by_opencv(path: str) -> tuple[float, Iterator[np.ndarray]]:
    import cv2

    capture = cv2.VideoCapture(path)

    def frames() -> Iterator[np.ndarray]:
        while (read := capture.read())[0]:
            yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)

    return capture.get(cv2.CAP_PROP_FPS), frames()
