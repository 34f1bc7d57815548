"""List the pictures of a folder with their times: KITTI, nuScenes, EuRoC and TUM layouts, or numbered files."""

import itertools
import logging
import re
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import escape
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.io.images.stills import DamagedFrame, decode_image_file
from streamtok.io.images.times import parse_unit, read_times_in_names
from streamtok.io.images.times_file import TimesFile, find_times_file, read_times_file
from streamtok.io.spec import parse_bits, parse_rate
from streamtok.io.suffixes import IMAGE_SUFFIXES, is_image
from streamtok.names import natural_key

STEPS = 33
MOST_BEHIND = 0.1  # the share of images that may lack a line at the end of a truncated times file
NEW_CLOCK_IMAGES = 5  # images in a row with rising times in the past: the clock was set back for good

log = logging.getLogger("streamtok.io")

OPTIONS: dict[str, Callable[[str], float | str]] = {  # the options of images:DIR?... in the name of a source or a drive
    "fps": parse_rate,
    "timestamps": str,
    "unit": parse_unit,
    "bits": parse_bits,
    "names": str,
    "log": str,
}


@dataclass(frozen=True)
class TimedImage:
    """One file of a folder: its time (ns of whatever clock the folder has) and its number in the sequence.

    `numbered`: `frame_id` is from the folder's own numbering, not a count of files. `guessed`: the time was
    interpolated between those of its neighbours.
    """

    path: Path
    time_ns: int
    frame_id: int
    bits: int | None = None
    numbered: bool = False
    guessed: bool = False

    def load(self) -> tuple[np.ndarray, bytes | None]:
        """The picture, uint8 RGB (H, W, 3), and the file's bytes if decoding those gives the same picture, else None.

        Raises DamagedFrame.
        """
        try:
            data = self.path.read_bytes()
            image, as_stored = decode_image_file(data, self.bits)
        except (DamagedFrame, OSError) as error:
            raise DamagedFrame(f"{self.path.name}: {error}") from error
        return image, data if as_stored else None


def list_images(folder: str | Path, **options: Any) -> list[TimedImage]:
    """The images of a folder (or of its `data/`) in order of their times; docs/sources.md has the options.

    `frame_id` counts files. But if a times file has lines for numbered images that are missing (KITTI), it is the
    number, so that the gap shows. ValueError says which times are missing.
    """
    return join_clocks(find_images(folder, **options).images, folder)


@dataclass(frozen=True)
class Found:
    """The images of a folder by their own clock, which may step back; the origin of their times, in words; and files
    without a time."""

    images: list[TimedImage]
    clock: str
    untimed: list[Path] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """The positive steps, ns, between the first images."""
        return [b.time_ns - a.time_ns for a, b in itertools.pairwise(self.images[:STEPS]) if b.time_ns > a.time_ns]


def find_images(
    folder: str | Path,
    *,
    fps: float | None = None,
    timestamps: str | None = None,
    unit: str | None = None,
    bits: int | None = None,
    names: str = "*",
    log: str = "",
) -> Found:
    """Find the images as `list_images` does, with times as they are written."""
    files = _list_files(Path(folder), {f"{escape(log)}__*" if log else "*", names or "*"})
    if timestamps is None and fps is not None:
        parse_rate(fps)
        images = [TimedImage(path, round(n * 1e9 / fps), n) for n, path in enumerate(files)]
        found = Found(images, f"{fps:g} per second, given")
    elif times_file := Path(timestamps) if timestamps is not None else find_times_file(files[0].parent):
        found = _time_by_file(files, times_file, unit)
    else:
        times = read_times_in_names([path.stem for path in files], unit, f"folder={folder}")
        if times is None:
            raise ValueError(
                f"{files[0].parent}: no times for its {len(files)} images. Put timestamps.txt beside them (a line for "
                f"each), name a file with them (?timestamps=FILE), say ?unit=ns if the numbers in their names are "
                f"times, or give a rate: images:{folder}?fps=10"
            )
        found = Found(_number(sorted(zip(times.ns, files, strict=True), key=itemgetter(0))), f"{times}, from the names")
    _warn_of_pairs([image.path for image in found.images])
    return found if bits is None else replace(found, images=[replace(image, bits=bits) for image in found.images])


def _warn_of_pairs(files: list[Path]) -> None:
    """Warn if all numbers occur twice: from two cameras, or from pictures and what was computed from them."""
    numbers = [tuple(re.findall(r"\d+", file.stem)) for file in files]
    if all(numbers) and 2 * len(set(numbers)) <= len(files):
        twice = Counter(numbers).most_common(1)[0][0]
        one, other, *_ = (file.name for file, number in zip(files, numbers, strict=True) if number == twice)
        reason = f"{one} and {other} have the same number: images:DIR?names=PATTERN reads some of them"
        log.warning("folder=%s event=several_series reason=%r", files[0].parent, reason)


def _list_files(folder: Path, patterns: set[str]) -> list[Path]:
    """The pictures of a folder, or of its data/ if that holds more. ValueError if there are none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {str(folder)!r}: no such folder")
    files, inside = _list_pictures(folder), _list_pictures(folder / "data") if (folder / "data").is_dir() else []
    files = inside if len(inside) > len(files) else files
    files = [file for file in files if all(fnmatchcase(file.name, pattern) for pattern in patterns)]
    if not files:
        inside_names = sorted(path.name for path in folder.iterdir() if path.is_dir() and _list_pictures(path))[:8]
        hint = f"; its folders {', '.join(inside_names)} do: name one of them" if inside_names else ""
        suffixes = Counter(path.suffix.lower() for path in folder.iterdir() if path.is_file()).most_common(3)
        hint += f"; it holds {', '.join(f'{suffix} {count}' for suffix, count in suffixes)}" if suffixes else ""
        named = "" if patterns == {"*"} else f" named {' and '.join(sorted(patterns - {'*'}))}"
        raise ValueError(f"{folder} holds no images ({' '.join(IMAGE_SUFFIXES)}){named}{hint}")
    return files


def _list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder in order. Arrays (.npy) count only in folders without other pictures."""
    files = sorted(filter(is_image, folder.iterdir()), key=natural_key)
    return [file for file in files if file.suffix.lower() != ".npy"] or files


def _number(timed: list[tuple[int, Path]]) -> list[TimedImage]:
    return [TimedImage(path, time_ns, number) for number, (time_ns, path) in enumerate(timed)]


def join_clocks(images: list[TimedImage], folder: str | Path) -> list[TimedImage]:
    """Put the images on one clock: where it was set back for good, or restarted, times go on after the last image.

    A number is skipped there, so that readers see a gap. Single images whose time does not rise stay as they are.
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
        moved = replace(image, time_ns=image.time_ns + shift, frame_id=image.frame_id + restarts) if restarts else image
        joined.append(moved)
        last = max(joined[-1].time_ns, last or joined[-1].time_ns)
    return joined


def _time_by_file(files: list[Path], path: Path, unit: str | None) -> Found:
    """The images with times from the file `path`."""
    if not path.is_file():
        raise FileNotFoundError(f"timestamps file {str(path)!r}: no such file")
    times = read_times_file(path, unit, {file.stem for file in files})
    images = _match_lines(files, times, path)
    given = {image.path for image in images}
    untimed = [file for file in files if file not in given]
    if untimed:
        log.warning("file=%s event=images_without_time count=%d", path, len(untimed))
    return Found(images, f"{times.times}, from {path.name}", untimed)


def _match_lines(files: list[Path], found: TimesFile, path: Path) -> list[TimedImage]:
    """Each image with its line of the times file `path`: by name, by number, or in order."""
    times = found.times.ns
    if all(name is not None for name in found.names):
        return _match_names(files, times, [str(name) for name in found.names], path)
    if len(times) == len(files):
        if 2 * sum(b < a for a, b in itertools.pairwise(times)) >= max(len(times), 3):
            raise ValueError(f"{path}: most of its times fall; expected the order of the images, or lines with names")
        return [TimedImage(*each, numbered=True) for each in zip(files, times, found.numbers, strict=True)]
    lines = dict(zip(found.numbers, times, strict=True))
    numbers = [int(file.stem) if file.stem.isdecimal() else -1 for file in files]
    first, last = min(lines), max(lines)
    behind = sum(number > last for number in numbers)
    cut_off = min(numbers) == 0 and behind <= MOST_BEHIND * len(files)  # numbered from the first line on
    if not lines.keys() >= set(numbers) and last != max(numbers) and not cut_off:
        raise ValueError(f"{path} has {len(times)} times for {len(files)} images; expected one line per image")
    between = (number for number in numbers if first < number < last and number not in lines)
    guessed = {number: _time_between(lines, number) for number in between}
    known = lines | guessed
    timed = [(file, number) for file, number in zip(files, numbers, strict=True) if number in known]
    return [TimedImage(file, known[n], n, numbered=True, guessed=n in guessed) for file, n in timed]


def _time_between(lines: dict[int, int], number: int) -> int:
    """The time of a picture whose line is blank, interpolated between those of its neighbours."""
    before = max(each for each in lines if each < number)
    after = min(each for each in lines if each > number)
    return lines[before] + (lines[after] - lines[before]) * (number - before) // (after - before)


def _match_names(files: list[Path], times: list[int], names: list[str], path: Path) -> list[TimedImage]:
    by_name = {file.name: file for file in files} | {file.stem: file for file in files}
    lines = zip(times, (Path(name).name for name in names), strict=True)
    timed = [(time, by_name[name]) for time, name in lines if name in by_name]
    if not timed:
        raise ValueError(f"{path} names none of the {len(files)} images beside it; its first is {names[0]!r}")
    places = [natural_key(file) for _, file in timed]
    in_order = places == sorted(places)  # then times that fall are a clock that was set: do not sort by them
    return _number(timed if in_order else sorted(timed, key=itemgetter(0)))
