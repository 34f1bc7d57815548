"""Which frames of a file are trained on: all of a short one, a few stretches spread over a long one."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamtok.io.media import IMAGE_SUFFIXES, open_video, read_image
from streamtok.io.synthetic.drive import parse_synthetic


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

    def read(self) -> Iterator[tuple[int, np.ndarray]]:
        """(number of its stretch, frame (H, W, 3) uint8 RGB) of all that is taken; ValueError as `read_frames`."""
        if self.stretches == 1:
            yield from ((0, frame) for frame in read_frames(self.path, self.length))
            return
        read = _draw if self.path.startswith("synthetic:") else _seek
        for number in range(self.stretches):
            first = number * (self.frames - self.length) // (self.stretches - 1)
            yield from ((number, frame) for frame in read(self.path, first, self.length))


def survey(path: str, max_frames: int, stretch: int) -> Footage:
    """What to take of a video, image or synthetic: drive: `max_frames` at most, `stretch` or more of them in a row.

    The length is what the container says; it may differ from the true one by a few frames.
    """
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return Footage(path, 1, _extent(path)[1], 1, 1)
    frames, size = _extent(path)
    stretches = max(1, max_frames // stretch) if frames > max_frames else 1
    return Footage(path, frames, size, stretches, max_frames // stretches)


def _extent(path: str) -> tuple[int, tuple[int, int] | None]:
    import av

    try:
        if path.startswith("synthetic:"):
            source = parse_synthetic(path)
            return source.frames or 0, source.size
        with av.open(path) as container:
            stream = container.streams.video[0]
            guess = round((container.duration or 0) / av.time_base * (stream.average_rate or 0))
            return stream.frames or guess, (stream.codec_context.height, stream.codec_context.width)
    except (av.FFmpegError, IndexError, ValueError):  # IndexError: no video stream
        return 0, None


def read_frames(path: str, max_frames: int) -> Iterator[np.ndarray]:
    """The first frames of a video, image or synthetic: drive, each (H, W, 3) uint8 RGB.

    ValueError, which names the file, where it breaks off or holds no frame.
    """
    if path.startswith("synthetic:"):
        yield from _draw(path, 0, max_frames)
    elif Path(path).suffix.lower() in IMAGE_SUFFIXES:
        yield read_image(path)
    else:
        yield from itertools.islice(open_video(path)[1], max_frames)


def _draw(spec: str, first: int, count: int) -> Iterator[np.ndarray]:
    """Frames `first` ... of a synthetic drive."""
    source = parse_synthetic(spec)
    end = first + count if source.frames is None else min(first + count, source.frames)
    return (source.drive.frame(number) for number in range(first, end))


def _seek(path: str, first: int, count: int) -> Iterator[np.ndarray]:
    """Frames `first` ... of a video, found by time at its average rate."""
    import av

    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            start = (stream.start_time or 0) + round(first / ((stream.average_rate or 1) * (stream.time_base or 1)))
            if first:
                container.seek(start, stream=stream)  # the key frame before
            frames = (frame for frame in container.decode(stream) if frame.pts is None or frame.pts >= start)
            for frame in itertools.islice(frames, count):
                yield frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} breaks off: {error}") from error
