"""Sources of picture files: a folder of images, and a file with one picture or an animation."""

import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamtok.io.base import RecordedSource
from streamtok.io.images.folder import TimedImage, find_images, join_clocks
from streamtok.io.images.stills import DamagedFrame, is_animation, read_pictures, warn_of_dark
from streamtok.io.suffixes import IMAGE_SUFFIXES
from streamtok.types import Frame

log = logging.getLogger("streamtok.io")


class ImageFolderSource(RecordedSource):
    """A folder of images as a source; the first image's time becomes the time of opening.

    Damaged files are dropped and counted, and so are images whose time does not rise (`backwards`). Reading raises
    ValueError if no image can be read. `options` are those of `list_images`.
    """

    kind = "folder of images"

    def __init__(
        self,
        folder: str | Path,
        stream: str = "cam0",
        *,
        options: dict[str, Any],
        keep_packets: bool = False,
        **paced: Any,
    ) -> None:
        super().__init__(stream, **paced)
        found = find_images(folder, **options)
        self.images, self.clock = join_clocks(found.images, folder), found.clock
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
                self._warn_about_all(image)
                return

    def _pass_over(self, time_ns: int) -> None:
        while len(self._left) > 1 and self._left[0].time_ns - self.images[0].time_ns < time_ns:
            self._left.popleft()

    def _warn_about_all(self, image: TimedImage) -> None:
        """Warn of what the first image shows about all: values that fill too few bits, several pictures in a file."""
        data = image.path.read_bytes()
        if is_animation(data):
            log.warning("file=%s event=animation reason='in a folder only its first picture is read'", image.path)
        elif image.bits is None:
            warn_of_dark(data, image.path, f"images:{self._folder}")

    def _next(self) -> Frame | None:
        while self._left:
            if (frame := self._load(self._left.popleft())) is not None:
                return frame
        if self.size is None:
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
        packet = packet if self._keep_packets else None
        codec = IMAGE_SUFFIXES[image.path.suffix.lower()] if packet else None
        return Frame(self.stream, image.frame_id, capture_ns, pixels, packet, codec)

    def _skip(self, counter: str, image: TimedImage, reason: str) -> None:
        self.counts[counter] += 1
        if self.counts[counter] == 1:
            log.warning("stream=%s event=%s file=%s reason=%r", self.stream, counter, image.path, reason)


class ImageFileSource(RecordedSource):
    """A picture file as a source: one frame, or those of an animated WebP or AVIF at their times."""

    kind, clock = "image file", "as the file shows its pictures"

    def __init__(self, path: Path, stream: str = "cam0", *, bits: int | None = None, **options: Any) -> None:
        super().__init__(stream, **options)
        self.path, self._bits = path, bits
        self._pictures: Iterator[tuple[int, tuple[int, np.ndarray]]] = iter(())

    def _open(self) -> None:
        pictures = read_pictures(self.path, self._bits)
        first = next(pictures)
        self.size = first[1].shape[:2]
        if self._bits is None:
            warn_of_dark(self.path.read_bytes(), self.path, str(self.path))
        self._pictures = enumerate(itertools.chain([first], pictures))

    def _next(self) -> Frame | None:
        for number, (time_ns, image) in self._pictures:
            return Frame(self.stream, number, self.start_ns + time_ns, image)
        return None
