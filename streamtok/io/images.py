"""A folder of images as a recording: KITTI, nuScenes, EuRoC and TUM layouts, or plain numbered files with a rate.

for image in list_images("2011_09_26_drive_0001/image_02"):
    print(image.path, image.time_ns, image.frame_id)
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamtok.io.base import RecordedSource
from streamtok.io.image_messages import DamagedFrame, decode_still
from streamtok.io.image_times import find_times_file, read_times, times_in_names
from streamtok.io.spec import split_options
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.types import Frame

log = logging.getLogger("streamtok.io")

OPTIONS: dict[str, Callable[[str], float | str]] = {"fps": float, "timestamps": str}
"""What may follow images:DIR? in the name of a source or a drive."""


@dataclass(frozen=True)
class TimedImage:
    """One file of a folder: when it was taken (ns of whatever clock the folder has) and its place in the sequence."""

    path: Path
    time_ns: int
    frame_id: int


def list_images(
    folder: str | Path, *, fps: float | None = None, timestamps: str | Path | None = None
) -> list[TimedImage]:
    """The images of a folder (or of its `data/`) in order of their times.

    Times come from the file `timestamps` if given, else from `fps` if given, else from a timestamps file that is found,
    else from the names; ValueError says what is missing. Where a timestamps file has a line for every number but some
    numbered images are missing (KITTI), `frame_id` is the number, so that the gap shows; else it counts the files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {str(folder)!r}: no such folder")
    files = _files(folder)
    if not files and (folder / "data").is_dir():
        folder = folder / "data"
        files = _files(folder)
    if not files:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and _files(path))[:8]
        hint = f"; its folders {', '.join(inside)} do: name one of them" if inside else ""
        raise ValueError(f"{folder} holds no images ({' '.join(IMAGE_SUFFIXES)}){hint}")
    if timestamps is None and fps is not None:
        return _at_rate(files, fps)
    times_file = Path(timestamps) if timestamps is not None else find_times_file(folder)
    if times_file is not None:
        return _by_file(files, times_file)
    times = times_in_names([path.stem for path in files])
    if times is None:
        raise ValueError(
            f"{folder}: no times for its {len(files)} images. Put timestamps.txt beside them (one line per image), or "
            f"give a rate: images:{folder}?fps=10"
        )
    return _sorted(list(zip(times, files, strict=True)))


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _files(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)


def _sorted(timed: list[tuple[int, Path]]) -> list[TimedImage]:
    timed.sort(key=lambda item: item[0])
    return [TimedImage(path, time_ns, number) for number, (time_ns, path) in enumerate(timed)]


def _at_rate(files: list[Path], fps: float) -> list[TimedImage]:
    if not 0 < fps <= 10_000:
        raise ValueError(f"fps is {fps}: expected more than 0 frames per second")
    return [TimedImage(path, round(number * 1e9 / fps), number) for number, path in enumerate(files)]


def _by_file(files: list[Path], times_file: Path) -> list[TimedImage]:
    if not times_file.is_file():
        raise FileNotFoundError(f"timestamps file {str(times_file)!r}: no such file")
    lines = read_times(times_file)
    if all(name is not None for _, name in lines):
        return _by_name(files, lines, times_file)
    if len(lines) == len(files):
        return [TimedImage(path, line[0], number) for number, (line, path) in enumerate(zip(lines, files, strict=True))]
    numbers = [int(path.stem) if path.stem.isdigit() else len(lines) for path in files]
    if len(lines) < len(files) or max(numbers) >= len(lines):
        raise ValueError(f"{times_file} has {len(lines)} times for {len(files)} images; expected one line per image")
    return [TimedImage(path, lines[number][0], number) for number, path in zip(numbers, files, strict=True)]


def _by_name(files: list[Path], lines: list[tuple[int, str | None]], times_file: Path) -> list[TimedImage]:
    by_name = {path.name: path for path in files} | {path.stem: path for path in files}
    timed = [(time_ns, by_name[Path(name).name]) for time_ns, name in lines if name and Path(name).name in by_name]
    if not timed:
        raise ValueError(f"{times_file} names none of the {len(files)} images beside it; its first is {lines[0][1]!r}")
    if len(timed) < len(files):
        log.warning("file=%s event=images_without_time count=%d", times_file, len(files) - len(timed))
    return _sorted(timed)


class ImageFolderSource(RecordedSource):
    """A folder of images as a source; the first one's time becomes the opening. Damaged files are counted and skipped,
    and so are images whose time does not rise (counted as `backwards`). Reading raises ValueError if none can be read.
    """

    def __init__(
        self,
        folder: str | Path,
        stream: str = "cam0",
        *,
        fps: float | None = None,
        timestamps: str | None = None,
        realtime: bool = False,
        max_frames: int | None = None,
        keep_packets: bool = False,
    ) -> None:
        super().__init__(stream, realtime=realtime, max_frames=max_frames)
        self.images = list_images(folder, fps=fps, timestamps=timestamps)
        self._folder, self._keep_packets = folder, keep_packets
        self._left = deque(self.images)
        self._last_ns: int | None = None
        span = self.images[-1].time_ns - self.images[0].time_ns
        steps = self.images[-1].frame_id - self.images[0].frame_id
        self.fps = fps or (steps * 1e9 / span if span > 0 else None)

    def _open(self) -> None:
        self._left, self._last_ns = deque(self.images), None
        for image in self.images:
            with contextlib.suppress(DamagedFrame):
                self.size = decode_still(image.path.read_bytes()).shape[:2]
                return

    def skip_to(self, capture_ns: int) -> None:
        """Pass over the frames before a time, without reading them."""
        if self._pending is not None and self._pending.capture_ns < capture_ns:
            self._pending = None
        first_ns = capture_ns - self.start_ns + self.images[0].time_ns
        while self._pending is None and self._left and self._left[0].time_ns < first_ns:
            self._left.popleft()

    def _next(self) -> Frame | None:
        while self._left:
            frame = self._load(self._left.popleft())
            if frame is not None:
                return frame
        if self._last_ns is None:
            raise ValueError(f"{self._folder}: not one of its {len(self.images)} images can be read")
        return None

    def _load(self, image: TimedImage) -> Frame | None:
        if self._last_ns is not None and image.time_ns <= self._last_ns:
            self._skip("backwards", image, "its time does not rise")
            return None
        try:
            data = image.path.read_bytes()
            pixels = decode_still(data)
        except (DamagedFrame, OSError) as error:
            self._skip("damaged", image, str(error))
            return None
        self._last_ns = image.time_ns
        capture_ns = self.start_ns + image.time_ns - self.images[0].time_ns
        packet, codec = (data, IMAGE_SUFFIXES[image.path.suffix.lower()]) if self._keep_packets else (None, None)
        return Frame(self.stream, image.frame_id, capture_ns, pixels, packet, codec)

    def _skip(self, counter: str, image: TimedImage, reason: str) -> None:
        self.counts[counter] += 1
        if self.counts[counter] == 1:
            log.warning("stream=%s event=%s file=%s reason=%r", self.stream, counter, image.path, reason)


def parse_images(
    spec: str, stream: str, *, realtime: bool, max_frames: int | None, keep_packets: bool
) -> ImageFolderSource:
    """The source of "images:DIR?fps=N&timestamps=FILE"; the options may be left out."""
    folder, options = split_options(spec, spec.partition(":")[2], OPTIONS)
    options |= {"realtime": realtime, "max_frames": max_frames, "keep_packets": keep_packets}
    return ImageFolderSource(folder, stream, **options)
