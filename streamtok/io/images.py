"""A folder of images as a recording: KITTI, nuScenes, EuRoC and TUM layouts, or plain numbered files with a rate.

for image in list_images("2011_09_26_drive_0001/image_02"):
    print(image.path, image.time_ns, image.frame_id)
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamtok.io.base import RecordedSource
from streamtok.io.image_messages import DamagedFrame, decode_still
from streamtok.io.spec import parse_rate, split_options
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.io.times import find_times_file, parse_unit, read_times_file, read_times_in_names
from streamtok.types import Frame

log = logging.getLogger("streamtok.io")

OPTIONS: dict[str, Callable[[str], float | str]] = {"fps": parse_rate, "timestamps": str, "unit": parse_unit}
"""What may follow images:DIR? in the name of a source or a drive."""


@dataclass(frozen=True)
class TimedImage:
    """One file of a folder: when it was taken (ns of whatever clock the folder has) and its place in the sequence."""

    path: Path
    time_ns: int
    frame_id: int


def list_images(
    folder: str | Path, *, fps: float | None = None, timestamps: str | Path | None = None, unit: str | None = None
) -> list[TimedImage]:
    """The images of a folder (or of its `data/`) in order of their times.

    Times come from the file `timestamps` if given, else from `fps` if given, else from a times file that is found, else
    from the names; ValueError says what is missing. `unit` is that of the times (`streamtok.io.times` finds it else).
    Where a times file has a line for every number but some numbered images are missing (KITTI), `frame_id` is the
    number, so that the gap shows; else it counts the files.
    """
    return find_images(folder, fps=fps, timestamps=timestamps, unit=unit)[0]


def find_images(
    folder: str | Path, *, fps: float | None = None, timestamps: str | Path | None = None, unit: str | None = None
) -> tuple[list[TimedImage], str]:
    """What `list_images` gives, and where the times are from, in words."""
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
        parse_rate(fps)
        return [TimedImage(path, round(n * 1e9 / fps), n) for n, path in enumerate(files)], f"{fps:g} per second, given"
    times_file = Path(timestamps) if timestamps is not None else find_times_file(folder)
    if times_file is not None:
        return _by_file(files, times_file, unit)
    times = read_times_in_names([path.stem for path in files], unit, f"folder={folder}")
    if times is None:
        raise ValueError(
            f"{folder}: no times for its {len(files)} images. Put timestamps.txt beside them (one line per image), or "
            f"give a rate: images:{folder}?fps=10"
        )
    return _sorted(list(zip(times.ns, files, strict=True))), f"{times}, from the names"


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _files(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)


def _sorted(timed: list[tuple[int, Path]]) -> list[TimedImage]:
    timed.sort(key=lambda item: item[0])
    return [TimedImage(path, time_ns, number) for number, (time_ns, path) in enumerate(timed)]


def _by_file(files: list[Path], path: Path, unit: str | None) -> tuple[list[TimedImage], str]:
    """The images with the times of a file, and what these are, in words."""
    if not path.is_file():
        raise FileNotFoundError(f"timestamps file {str(path)!r}: no such file")
    times, names = read_times_file(path, unit)
    return _match(files, times.ns, names, path), f"{times}, from {path.name}"


def _match(files: list[Path], times: list[int], names: list[str | None], path: Path) -> list[TimedImage]:
    """Each image with its line of the times file `path`: by name, by number, or in order."""
    if all(name is not None for name in names):
        return _by_name(files, times, [str(name) for name in names], path)
    if len(times) == len(files):
        return [TimedImage(file, time, number) for number, (time, file) in enumerate(zip(times, files, strict=True))]
    numbers = [int(file.stem) if file.stem.isdigit() else len(times) for file in files]
    if len(times) < len(files) or max(numbers) >= len(times):
        raise ValueError(f"{path} has {len(times)} times for {len(files)} images; expected one line per image")
    return [TimedImage(file, times[number], number) for number, file in zip(numbers, files, strict=True)]


def _by_name(files: list[Path], times: list[int], names: list[str], path: Path) -> list[TimedImage]:
    by_name = {file.name: file for file in files} | {file.stem: file for file in files}
    lines = zip(times, (Path(name).name for name in names), strict=True)
    timed = [(time, by_name[name]) for time, name in lines if name in by_name]
    if not timed:
        raise ValueError(f"{path} names none of the {len(files)} images beside it; its first is {names[0]!r}")
    if len(timed) < len(files):
        log.warning("file=%s event=images_without_time count=%d", path, len(files) - len(timed))
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
        unit: str | None = None,
        realtime: bool = False,
        max_frames: int | None = None,
        keep_packets: bool = False,
    ) -> None:
        super().__init__(stream, realtime=realtime, max_frames=max_frames)
        self.images, self.clock = find_images(folder, fps=fps, timestamps=timestamps, unit=unit)
        self._folder, self._keep_packets = folder, keep_packets
        self._left = iter(self.images)
        self._last_ns: int | None = None
        span = self.images[-1].time_ns - self.images[0].time_ns
        steps = self.images[-1].frame_id - self.images[0].frame_id
        self.fps = fps or (steps * 1e9 / span if span > 0 else None)

    def _open(self) -> None:
        self._left, self._last_ns = iter(self.images), None
        for image in self.images:
            with contextlib.suppress(DamagedFrame):
                self.size = decode_still(image.path.read_bytes()).shape[:2]
                return

    def _next(self) -> Frame | None:
        for image in self._left:
            frame = self._load(image)
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
