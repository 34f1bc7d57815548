"""The frames of a file, read one by one, with presentation times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from streamtok.io.base import RecordedSource
from streamtok.io.media import IMAGE_SUFFIXES, read_image
from streamtok.io.source import open_source
from streamtok.types import Frame


@dataclass(frozen=True)
class FrameStream:
    """Frames in order, `capture_ns` counted from the start of the file; `total` is a guess, for a progress bar.

    `counts` are those of the source: `damaged` frames could not be read.
    """

    frames: Iterator[Frame]
    fps: float | None = None
    total: int | None = None
    counts: Counter[str] = field(default_factory=Counter)


@contextmanager
def open_frames(source: str, max_frames: int | None = None) -> Iterator[FrameStream]:
    """The frames of an image file, a video or any other source of `streamtok.io`; read within the `with`."""
    if Path(source).suffix.lower() in IMAGE_SUFFIXES:
        yield FrameStream(iter([Frame("cam0", 0, 0, read_image(source))]), total=1)
        return
    with open_source(source, max_frames=max_frames) as opened:
        start = opened.start_ns if isinstance(opened, RecordedSource) else None
        yield FrameStream(_from_start(opened, start), opened.fps, max_frames or count_frames(source), opened.counts)


def resized(frames: Iterable[Frame], size: tuple[int, int]) -> Iterator[Frame]:
    """The same frames at `size` (H, W), resized in the integer arithmetic of live streams."""
    from streamtok.preprocessing.preprocessor import Preprocessor

    prepare = None
    for frame in frames:
        shape = frame.image.shape[:2]
        if prepare is None or prepare.source_size != shape:
            prepare = Preprocessor(shape, size, multiple=1)
        yield replace(frame, picture=np.ascontiguousarray(prepare(frame.image).transpose(1, 2, 0)))


def _from_start(frames: Iterable[Frame], start_ns: int | None) -> Iterator[Frame]:
    for frame in frames:
        start_ns = frame.capture_ns if start_ns is None else start_ns
        yield replace(frame, capture_ns=frame.capture_ns - start_ns)


def count_frames(source: str) -> int | None:
    """What a video's container says of its length; the true count may differ by a few."""
    if not Path(source).is_file():
        return None
    import av

    with av.open(source) as container:
        stream = container.streams.video[0]
        if stream.frames:
            return stream.frames
        if container.duration and stream.average_rate:
            return round(container.duration / av.time_base * stream.average_rate)
    return None
