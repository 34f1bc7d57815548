"""Chooses the files to train on and the frames of each: all of a short one, stretches spread over a long one."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from streamtok.io.images.folder import OPTIONS, TimedImage, list_images
from streamtok.io.images.stills import DamagedFrame, read_image
from streamtok.io.spec import split_file, split_options
from streamtok.io.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_image, is_video
from streamtok.io.synthetic.drive import SyntheticSource, parse_synthetic
from streamtok.io.video import VideoReader
from streamtok.io.video.reader import open_reader
from streamtok.settings.errors import SettingsError

WHOLE = (0.0, 1.0)
Numbered = Iterator[tuple[int, np.ndarray]]
"""Frames, uint8 RGB (H, W, 3) or of other channels, each with its number in its file."""


def list_media(paths: tuple[str, ...]) -> list[str]:
    """Every video and image file in `paths`, searching folders in name order; images:DIR and synthetic: are kept.

    SettingsError for a path that does not exist, or if no such file is found.
    """
    found: list[str] = []
    for path in paths:
        if path.startswith(("synthetic:", "images:")):
            found.append(path)
        elif Path(path).is_dir():
            found += [str(file) for file in sorted(Path(path).rglob("*")) if is_image(file) or is_video(file)]
        elif split_file(path)[0].is_file():
            found.append(path)
        else:
            raise SettingsError(f"data path {path!r} is neither a folder nor a file; give folders of videos or images")
    if not found:
        known = ", ".join(sorted({*VIDEO_SUFFIXES, *IMAGE_SUFFIXES}))
        raise SettingsError(f"no video or image in {list(paths)}; known endings: {known}")
    return found


def split_holdout(paths: list[str], holdout: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(training paths, held-out paths); SettingsError if a name fits no clip, or if all clips are held out."""
    for name in holdout:
        if not any(Path(path).stem.startswith(name) for path in paths):
            known = ", ".join(sorted(Path(path).stem for path in paths)[:20])
            raise SettingsError(f"data.holdout {name!r} fits no clip; clips: {known}")
    held = [path for path in paths if Path(path).stem.startswith(holdout)] if holdout else []
    if len(held) == len(paths):
        raise SettingsError(f"data.holdout {list(holdout)} keeps every clip from training; leave some out of it")
    return [path for path in paths if path not in held], held


@dataclass(frozen=True)
class Footage:
    """The frames to take of a file, chosen before it is decoded."""

    path: str
    frames: int  # to choose from; 0 if the file does not say how many it has
    size: tuple[int, int] | None  # height, width; None if it cannot be opened
    stretches: tuple[range, ...]  # the numbers of the frames to take

    @property
    def taken(self) -> int:
        """How many frames of the file are taken."""
        return sum(map(len, self.stretches))

    def read(self, counts: Counter[str] | None = None) -> Numbered:
        """Read the chosen frames as (run, frame uint8 (H, W, C)); frames of one run are consecutive in the file.

        A run ends with its stretch, or where a damaged frame is left out; `counts` counts these as `VideoReader` does.
        ValueError names a file without any frame.
        """
        run = -1
        with open_file(self.path, Counter() if counts is None else counts) as file:
            for stretch in self.stretches:
                expected = None
                for number, frame in file.read(stretch.start, stretch.stop):
                    run += number != expected
                    expected = number + 1
                    yield run, frame
        if run < 0:
            raise ValueError(f"{self.path} holds no frame that can be decoded")


def survey(path: str, max_frames: int, stretch: int, part: tuple[float, float] = WHOLE) -> Footage:
    """Choose the frames to take of a video, image, images: folder or synthetic: drive.

    They are `max_frames` at most, in stretches of `stretch` or more. The length is what the container says, which may
    be off by a few frames. `part` is the interval to choose from, as fractions. ValueError for a part of a video that
    does not say its length.
    """
    try:
        with open_file(path, Counter()) as file:
            frames, size, is_image = file.frames, file.measure(), file.is_image
    except ValueError:
        frames, size, is_image = 0, None, False
    if is_image:
        return Footage(path, 1, size, (range(1),))
    if part != WHOLE and not frames and size is not None:
        raise ValueError(f"{path} does not say how long it is, so no part of it can be held out; hold out whole clips")
    begin, end = (round(frames * fraction) for fraction in part)
    there = end - begin
    if there > max_frames:
        return Footage(path, there, size, _spread(begin, end, max_frames, stretch))
    stop = begin + max_frames if part == WHOLE else end  # a whole file may have more frames than it says
    return Footage(path, there, size, (range(begin, stop),))


def _spread(begin: int, end: int, count: int, stretch: int) -> tuple[range, ...]:
    """Spread `count` of the frames [begin, end) evenly, as stretches of at least `stretch` frames."""
    stretches = max(1, count // stretch)
    length = count // stretches
    last = end - length
    starts = (begin + number * (last - begin) // max(1, stretches - 1) for number in range(stretches))
    return tuple(range(start, start + length) for start in starts)


@dataclass(frozen=True)
class OpenFile:
    """A file whose frames can be read by number; `frames` is 0 if it does not say how many it has.

    `measure` gives the size (height, width) of its frames, `read` the frames [first, stop).
    """

    frames: int
    measure: Callable[[], tuple[int, int] | None]
    read: Callable[[int, int], Numbered]
    is_image: bool = False


@contextmanager
def open_file(path: str, counts: Counter[str]) -> Iterator[OpenFile]:
    """Open a video, image, images: folder or synthetic: drive; damaged frames are left out and counted in `counts`.

    ValueError says why it cannot be opened.
    """
    if path.startswith("synthetic:"):
        source = parse_synthetic(path)
        yield OpenFile(source.frames or 0, lambda: source.size, partial(_draw, source))
        return
    if path.startswith("images:"):
        folder, options = split_options(path, path.partition(":")[2], OPTIONS)
        images = list_images(folder, **options)  # one clip, as `ingest` reads them
        yield OpenFile(len(images), lambda: images[0].load()[0].shape[:2], partial(_read_folder, images, counts))
        return
    file, options = split_file(path)
    if file.suffix.lower() in IMAGE_SUFFIXES:
        image = partial(read_image, file, **options)
        yield OpenFile(1, lambda: image().shape[:2], lambda first, stop: iter([(0, image())]), is_image=True)
        return
    with open_reader(path) as video:
        video.counts = counts
        yield OpenFile(video.expected_frames, lambda: video.size, partial(_read_video, video))


def _draw(source: SyntheticSource, first: int, stop: int) -> Numbered:
    end = stop if source.frames is None else min(stop, source.frames)
    return ((number, source.drive.frame(number)) for number in range(first, end))


def _read_folder(images: list[TimedImage], counts: Counter[str], first: int, stop: int) -> Numbered:
    for image in images[first:stop]:
        try:
            yield image.frame_id, image.load()[0]
        except DamagedFrame:
            counts["damaged"] += 1


def _read_video(video: VideoReader, first: int, stop: int) -> Numbered:
    """Read frames [first, stop), found by time at the average rate, so that those before `first` need not be read."""
    frames = video.read_from(first / video.rate, first, stop) if first else video.read_range(0, stop)
    return ((frame.number, frame.image) for frame in frames)
