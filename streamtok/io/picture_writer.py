"""Write decoded pictures to a video file, one PNG, or a folder of PNGs, each with its presentation time.

Pictures that are not RGB can only go to a folder, as .npy files.
"""

import contextlib
from abc import ABC, abstractmethod
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from streamtok.io.images.stills import write_png
from streamtok.names import check_replaceable

TICKS = 90_000
WRITABLE = (".mp4", ".mkv", ".mov")


class PictureWriter(ABC):
    """Takes pictures one by one; `abort` gives up what is written after an error."""

    @abstractmethod
    def write(self, image: np.ndarray, time_ns: int) -> None:
        """Write a picture, uint8 RGB (H, W, 3), that is shown `time_ns` after the first one."""

    def close(self) -> None:  # noqa: B027 not all keep a file open
        """Complete what is written."""

    def abort(self) -> None:
        self.close()


class VideoPictures(PictureWriter):
    """H.264 in MP4 or Matroska, `size` (H, W).

    Times are kept to 1/90,000 s (MKV: 1 ms). Even sizes are stored as yuv420p; odd ones do not fit it and are yuv444p.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float | None) -> None:
        check_replaceable(path)
        self.path = path
        self.partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._container = av.open(f"file:{self.partial}", "w")  # FFmpeg takes 12:00.mp4 for a protocol without file:
        rate = Fraction(fps or 30).limit_denominator(1001)
        self._stream: Any = self._container.add_stream("libx264", rate, {"crf": "17", "preset": "fast"})
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._last = -1

    def write(self, image: np.ndarray, time_ns: int) -> None:
        check_colours(image, self.path)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        # The container refuses two frames with the same tick.
        self._last = max(self._last + 1, round(time_ns * TICKS / 1e9))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        try:
            packets = self._stream.encode(frame)
        except av.FFmpegError as error:
            size = "x".join(map(str, image.shape[:2]))
            raise OSError(f"cannot encode {self.path}, {size}: {error}; too large, or no memory?") from error
        self._container.mux(packets)

    def close(self) -> None:
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
        except BaseException:
            self.abort()
            raise
        self.partial.replace(self.path)

    def abort(self) -> None:
        with contextlib.suppress(OSError):  # a full disk refuses its end, too
            self._container.close()
        self.partial.unlink(missing_ok=True)


class FolderPictures(PictureWriter):
    """`frame_000000.png` (or .npy), ... and `timestamps.txt`, one line per picture: its time in ns."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ValueError(f"folder {path} is not empty: give one that is, so that old pictures do not mix with new")
        self.path = path
        self._times = open(path / "timestamps.txt", "w")  # noqa: SIM115
        self._count = 0

    def write(self, image: np.ndarray, time_ns: int) -> None:
        file = self.path / f"frame_{self._count:06d}"
        if image.shape[2] == 3:
            write_png(file.with_suffix(".png"), image)
        else:
            np.save(file.with_suffix(".npy"), image)
        self._times.write(f"{time_ns}\n")
        self._count += 1

    def close(self) -> None:
        self._times.close()


class OnePicture(PictureWriter):
    """A single PNG; ValueError at the second frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = False

    def write(self, image: np.ndarray, time_ns: int) -> None:
        if self._written:
            raise ValueError(f"{self.path} holds one picture and the tokens hold more: give a .mp4, a .mkv or a folder")
        check_colours(image, self.path)
        write_png(self.path, image)
        self._written = True

    def abort(self) -> None:
        self.path.unlink(missing_ok=True)


def check_colours(image: np.ndarray, path: Path) -> None:
    """Raise ValueError for a picture (H, W, C) that is not RGB, which `path` cannot hold."""
    if image.shape[2] != 3:
        raise ValueError(f"{path} holds RGB and the pictures have {image.shape[2]} channels: give a folder")


def open_pictures(path: str | Path, size: tuple[int, int], fps: float | None) -> PictureWriter:
    """The writer that `path`'s name asks for: .mp4, .mkv or .mov, .png, or a folder (no suffix). `size` is (H, W)."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (*WRITABLE, ".png") and not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: folder {path.parent} does not exist; create it first")
    if suffix in WRITABLE:
        return VideoPictures(path, size, fps)
    if suffix == ".png":
        return OnePicture(path)
    if suffix:
        raise ValueError(f"{path}: cannot write {suffix!r}; give {', '.join(WRITABLE)}, .png or a folder")
    return FolderPictures(path)
