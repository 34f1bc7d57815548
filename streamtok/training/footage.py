"""Which frames of a file are trained on: all of a short one, a few stretches spread over a long one."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamtok.io.stills import read_image
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.io.synthetic.drive import parse_synthetic

Numbered = Iterator[tuple[int, np.ndarray]]
"""Frames, uint8 RGB (H, W, 3), each with its number in its file."""


@dataclass(frozen=True)
class Footage:
    """A file before it is decoded: `frames` (0 where it does not say) of `size` (height, width; None if it cannot be
    opened), of which `stretches` of `length` frames in a row are taken; a single stretch is its beginning."""

    path: str
    frames: int
    size: tuple[int, int] | None
    stretches: int
    length: int

    @property
    def taken(self) -> int:
        """Frames that are taken at most."""
        return self.stretches * self.length

    def read(self, counts: Counter[str] | None = None) -> Numbered:
        """All that is taken, as (run, frame (H, W, 3) uint8 RGB): the frames of a run follow one another in the file.

        A run ends with its stretch, and where a damaged frame is left out; `counts` gets what was left out, as
        `VideoReader` counts it. ValueError, which names the file, where it holds no frame.
        """
        run, expected = -1, None
        for stretch in range(self.stretches):
            first = stretch * (self.frames - self.length) // max(1, self.stretches - 1)
            for number, frame in read_stretch(self.path, first, self.length, counts):
                if number != expected:
                    run += 1
                expected = number + 1
                yield run, frame
            expected = None
        if run < 0:
            raise ValueError(f"{self.path} holds no frame that can be decoded")


def survey(path: str, max_frames: int, stretch: int) -> Footage:
    """What to take of a video, image or synthetic: drive: `max_frames` at most, `stretch` or more of them in a row.

    The length is what the container says; it may differ from the true one by a few frames.
    """
    frames, size = _measure(path)
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return Footage(path, 1, size, 1, 1)
    stretches = max(1, max_frames // stretch) if frames > max_frames else 1
    return Footage(path, frames, size, stretches, max_frames // stretches)


def _measure(path: str) -> tuple[int, tuple[int, int] | None]:
    """How many frames of which (height, width) a file has; 0 and None where it does not say."""
    from streamtok.io.video import VideoReader

    try:
        if path.startswith("synthetic:"):
            source = parse_synthetic(path)
            return source.frames or 0, source.size
        with VideoReader(path) as video:
            return video.expected_frames, video.size
    except ValueError:
        return 0, None


def read_stretch(path: str, first: int, count: int, counts: Counter[str] | None = None) -> Numbered:
    """`count` frames of a video, image or synthetic: drive from number `first` on, without those that are damaged.

    Videos are sought in by time, at their average rate, so that nothing before a stretch is read.
    """
    if path.startswith("synthetic:"):
        yield from _draw(path, first, count)
        return
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        yield 0, read_image(path)
        return
    from streamtok.io.video import VideoReader

    with VideoReader(path) as video:
        video.counts = video.counts if counts is None else counts
        stop = first + count
        frames = video.read_from(first / video.rate, first, stop) if first else video.read_range(0, stop)
        for frame in frames:
            yield frame.number, frame.image


def read_frames(path: str, max_frames: int) -> Iterator[np.ndarray]:
    """The first frames of a video, image or synthetic: drive, each (H, W, 3) uint8 RGB; ValueError if there is none."""
    return (frame for _, frame in Footage(path, max_frames, None, 1, max_frames).read())


def _draw(spec: str, first: int, count: int) -> Numbered:
    """Frames `first` ... of a synthetic drive."""
    source = parse_synthetic(spec)
    end = first + count if source.frames is None else min(first + count, source.frames)
    return ((number, source.drive.frame(number)) for number in range(first, end))
