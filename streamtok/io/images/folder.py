"""A folder of images as a recording: KITTI, nuScenes, EuRoC and TUM layouts, or plain numbered files with a rate.

for image in list_images("2011_09_26_drive_0001/image_02"):
    print(image.path, image.time_ns, image.frame_id)
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.io.base import RecordedSource
from streamtok.io.images.stills import DamagedFrame, decode_image_file, is_animation, read_pictures, warn_of_dark
from streamtok.io.images.times import TimesFile, find_times_file, parse_unit, read_times_file, read_times_in_names
from streamtok.io.spec import parse_bits, parse_rate, split_options
from streamtok.io.suffixes import IMAGE_SUFFIXES, is_image
from streamtok.names import natural_key
from streamtok.types import Frame

NEW_CLOCK_IMAGES = 5  # that rise together in the past: the clock was set back for good

log = logging.getLogger("streamtok.io")

OPTIONS: dict[str, Callable[[str], float | str]] = {
    "fps": parse_rate,
    "timestamps": str,
    "unit": parse_unit,
    "bits": parse_bits,
    "log": str,
}
"""What may follow images:DIR? in the name of a source or a drive."""


@dataclass(frozen=True)
class TimedImage:
    """One file of a folder: when it was taken (ns of whatever clock the folder has) and its place in the sequence."""

    path: Path
    time_ns: int
    frame_id: int
    bits: int | None = None

    def load(self) -> tuple[np.ndarray, bytes | None]:
        """The picture, uint8 RGB (H, W, 3), and the file's bytes where decoding them as they are gives the same.

        Raises DamagedFrame.
        """
        try:
            data = self.path.read_bytes()
            image, as_stored = decode_image_file(data, self.bits)
        except (DamagedFrame, OSError) as error:
            raise DamagedFrame(f"{self.path.name}: {error}") from error
        return image, data if as_stored else None


def list_images(folder: str | Path, **options: Any) -> list[TimedImage]:
    """The images of a folder (or of its `data/`) in order of their times.

    Times come from the file `timestamps` if given, else from `fps` if given. Else they come from a times file that is
    found, or from the names; ValueError says what is missing. `unit` is that of the times (None: `times` finds it).
    `bits` is how many bits of 16 the values of the images fill (None: all). `log` is the recording that names begin
    with. `frame_id` counts files. Where a times file has a line for every number but some numbered images are missing
    (KITTI), it is the number, so that the gap shows.
    """
    return find_images(folder, **options)[0]


def find_images(folder: str | Path, *, bits: int | None = None, **clock: Any) -> tuple[list[TimedImage], str]:
    """What `list_images` gives, and where the times are from, in words."""
    images, words = _time_images(Path(folder), **clock)
    return [replace(image, bits=bits) for image in _join_clocks(images, folder)], words


def _time_images(
    folder: Path, *, fps: float | None = None, timestamps: str | None = None, unit: str | None = None, log: str = ""
) -> tuple[list[TimedImage], str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {str(folder)!r}: no such folder")
    files = _files(folder)
    if not files and (folder / "data").is_dir():
        folder = folder / "data"
        files = _files(folder)
    files = [file for file in files if file.name.startswith(f"{log}__" if log else "")]
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
            f"{folder}: no times for its {len(files)} images. Put timestamps.txt beside them (one line per image), say "
            f"?unit=ns if the numbers in their names are times, or give a rate: images:{folder}?fps=10"
        )
    return _sorted(list(zip(times.ns, files, strict=True))), f"{times}, from the names"


def _files(folder: Path) -> list[Path]:
    """The pictures of a folder in order. Arrays, which may lie beside pictures, count only where they are alone."""
    files = sorted(filter(is_image, folder.iterdir()), key=natural_key)
    return [file for file in files if file.suffix.lower() != ".npy"] or files


def _sorted(timed: list[tuple[int, Path]]) -> list[TimedImage]:
    return _number(sorted(timed, key=lambda item: item[0]))


def _number(timed: list[tuple[int, Path]]) -> list[TimedImage]:
    return [TimedImage(path, time_ns, number) for number, (time_ns, path) in enumerate(timed)]


def _join_clocks(images: list[TimedImage], folder: str | Path) -> list[TimedImage]:
    """The images on one clock: where theirs was set back for good, or began anew, times go on behind the last image.

    A number is left out there, so that readers see a gap. Single images whose time does not rise stay as they are.
    """
    times = [image.time_ns for image in images]
    step_ns = round(statistics.median([b - a for a, b in itertools.pairwise(times) if b > a] or [1]))
    joined, last, shift, restarts = [], None, 0, 0
    for index, image in enumerate(images):
        if last is not None and image.time_ns + shift <= last:
            following = times[index : index + NEW_CLOCK_IMAGES]
            if len(following) > 1 and following[-1] + shift <= last and following == sorted(set(following)):
                shift, restarts = last + step_ns - image.time_ns, restarts + 1
                log.warning("folder=%s event=clock_restarts file=%s count=%d", folder, image.path.name, restarts)
        joined.append(replace(image, time_ns=image.time_ns + shift, frame_id=image.frame_id + restarts))
        last = max(joined[-1].time_ns, last or joined[-1].time_ns)
    return joined


def _by_file(files: list[Path], path: Path, unit: str | None) -> tuple[list[TimedImage], str]:
    """The images with the times of a file, and what these are, in words."""
    if not path.is_file():
        raise FileNotFoundError(f"timestamps file {str(path)!r}: no such file")
    found = read_times_file(path, unit)
    return _match(files, found, path), f"{found.times}, from {path.name}"


def _match(files: list[Path], found: TimesFile, path: Path) -> list[TimedImage]:
    """Each image with its line of the times file `path`: by name, by number, or in order."""
    times = found.times.ns
    if all(name is not None for name in found.names):
        return _by_name(files, times, [str(name) for name in found.names], path)
    if len(times) == len(files):
        return [TimedImage(*each) for each in zip(files, times, found.numbers, strict=True)]
    lines = dict(zip(found.numbers, times, strict=True))
    numbers = [int(file.stem) if file.stem.isdecimal() else -1 for file in files]
    if not lines.keys() >= set(numbers):
        raise ValueError(f"{path} has {len(times)} times for {len(files)} images; expected one line per image")
    return [TimedImage(file, lines[number], number) for number, file in zip(numbers, files, strict=True)]


def _by_name(files: list[Path], times: list[int], names: list[str], path: Path) -> list[TimedImage]:
    by_name = {file.name: file for file in files} | {file.stem: file for file in files}
    lines = zip(times, (Path(name).name for name in names), strict=True)
    timed = [(time, by_name[name]) for time, name in lines if name in by_name]
    if not timed:
        raise ValueError(f"{path} names none of the {len(files)} images beside it; its first is {names[0]!r}")
    if len(timed) < len(files):
        log.warning("file=%s event=images_without_time count=%d", path, len(files) - len(timed))
    places = [natural_key(file) for _, file in timed]
    return _number(timed) if places == sorted(places) else _sorted(timed)  # in one order already: the clock may be set


class ImageFolderSource(RecordedSource):
    """A folder of images as a source; the first one's time becomes the opening. Damaged files are counted and skipped,
    and so are images whose time does not rise (counted as `backwards`). Reading raises ValueError if none can be read.

    `options` are those of `list_images`; `clock` says in words where the times are from.
    """

    def __init__(
        self,
        folder: str | Path,
        stream: str = "cam0",
        *,
        realtime: bool = False,
        max_frames: int | None = None,
        keep_packets: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(stream, realtime=realtime, max_frames=max_frames)
        self.images, self.clock = find_images(folder, **options)
        self.expected_frames = len(self.images)
        self._folder, self._keep_packets = folder, keep_packets
        self._left = deque(self.images)
        self._last_ns: int | None = None
        span = self.images[-1].time_ns - self.images[0].time_ns
        steps = self.images[-1].frame_id - self.images[0].frame_id
        self.fps = options.get("fps") or (steps * 1e9 / span if span > 0 else None)

    def _open(self) -> None:
        self._left, self._last_ns = deque(self.images), None
        for image in self.images:
            with contextlib.suppress(DamagedFrame):
                self.size = image.load()[0].shape[:2]
                self._look_at(image)
                return

    def skip_to(self, capture_ns: int) -> None:
        """As `RecordedSource.skip_to`, without reading what is passed over."""
        if self._left and self._pending is not None and self._pending.capture_ns < capture_ns:
            self._pending = None
        first_ns = capture_ns - self.start_ns + self.images[0].time_ns
        while self._pending is None and len(self._left) > 1 and self._left[0].time_ns < first_ns:
            self._left.popleft()

    def _look_at(self, image: TimedImage) -> None:
        """Say what the first image tells of all: values that fill too few bits, several pictures in a file."""
        data = image.path.read_bytes()
        if is_animation(data):
            log.warning("file=%s event=animation reason='in a folder only its first picture is read'", image.path)
        elif image.bits is None:
            warn_of_dark(data, image.path, f"images:{self._folder}")

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
            pixels, packet = image.load()
        except DamagedFrame as error:
            self._skip("damaged", image, str(error))
            return None
        self._last_ns = image.time_ns
        capture_ns = self.start_ns + image.time_ns - self.images[0].time_ns
        if packet is None or not self._keep_packets:
            return Frame(self.stream, image.frame_id, capture_ns, pixels)
        return Frame(self.stream, image.frame_id, capture_ns, pixels, packet, IMAGE_SUFFIXES[image.path.suffix.lower()])

    def _skip(self, counter: str, image: TimedImage, reason: str) -> None:
        self.counts[counter] += 1
        if self.counts[counter] == 1:
            log.warning("stream=%s event=%s file=%s reason=%r", self.stream, counter, image.path, reason)


class ImageFileSource(RecordedSource):
    """A picture file as a source: one frame, or those of an animated WebP or AVIF at their times."""

    clock = "as the file shows its pictures"

    def __init__(self, path: Path, stream: str = "cam0", *, bits: int | None = None, **options: Any) -> None:
        super().__init__(stream, **options)
        self.path, self._bits = path, bits
        self._pictures: Iterator[tuple[int, np.ndarray]] = iter(())
        self._number = 0

    def _open(self) -> None:
        pictures = read_pictures(self.path, self._bits)
        first = next(pictures)
        self.size, self._number = first[1].shape[:2], 0
        if self._bits is None:
            warn_of_dark(self.path.read_bytes(), self.path, str(self.path))
        self._pictures = itertools.chain([first], pictures)

    def _next(self) -> Frame | None:
        for time_ns, image in self._pictures:
            self._number += 1
            return Frame(self.stream, self._number - 1, self.start_ns + time_ns, image)
        return None


def parse_images(
    spec: str, stream: str, *, realtime: bool, max_frames: int | None, keep_packets: bool
) -> ImageFolderSource:
    """The source of "images:DIR?fps=N&timestamps=FILE&unit=ns&bits=12"; the options may be left out."""
    folder, options = split_options(spec, spec.partition(":")[2], OPTIONS)
    options |= {"realtime": realtime, "max_frames": max_frames, "keep_packets": keep_packets}
    return ImageFolderSource(folder, stream, **options)
