"""Shows reconstructions beside originals: the contact sheet of a report, and a side-by-side video."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from streamtok.io.images.stills import caption
from streamtok.io.picture_writer import VideoPictures

_PATCH, _ZOOM = 64, 4  # side of the enlarged patch in pixels, and its enlargement
_FPS = 24.0  # of the side-by-side video, whatever the clips' own


SheetRow = tuple[str, np.ndarray, np.ndarray]  # caption, original and reconstruction, uint8 RGB (h, w, 3)


def contact_sheet(rows: Sequence[SheetRow], height: int = 256) -> np.ndarray:
    """Rows of original, reconstruction, and both enlarged where the error is largest: RGB uint8 (H, W, 3).

    The enlarged patches show checkerboards and block edges.
    """
    strips = [_strip(*row, height) for row in rows]
    width = max(strip.shape[1] for strip in strips)
    return np.concatenate([np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips])


class SideBySide:
    """Writes originals and reconstructions side by side into one H.264 file, clip after clip.

    It is a context manager. The first clip sets the size; others are fitted into it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.size = (0, 0)  # height, width of one half
        self.frames = 0
        self._video: VideoPictures | None = None

    def __enter__(self) -> "SideBySide":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        if self._video is not None:
            self._video.abort() if error_type else self._video.close()

    def add(self, original: np.ndarray, rebuilt: np.ndarray) -> None:
        """Append one clip: original and reconstruction, uint8 RGB (T, h, w, 3)."""
        if self._video is None:
            self.size = height, width = original.shape[1:3]
            self._video = VideoPictures(self.path, (height, 2 * width), _FPS)
        for left, right in zip(original, rebuilt, strict=True):
            both = np.concatenate([self._fit(left), self._fit(right)], axis=1)
            self._video.write(both, round(self.frames * 1e9 / _FPS))
            self.frames += 1

    def _fit(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) at the size of one half: scaled down if too large, centred on black."""
        height, width = self.size
        scale = min(1.0, height / image.shape[0], width / image.shape[1])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = image if scale == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        return canvas


def worst_patch(original: np.ndarray, rebuilt: np.ndarray) -> tuple[int, int]:
    """Top and left of the patch with the largest squared error: two uint8 (h, w, 3); (0, 0) if it does not fit."""
    side, (height, width) = _PATCH, original.shape[:2]
    if height <= side or width <= side:
        return 0, 0
    error = np.square(original.astype(np.float64) - rebuilt).sum(-1)
    area = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = area[side:, side:] - area[:-side, side:] - area[side:, :-side] + area[:-side, :-side]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(top), int(left)


def _strip(title: str, original: np.ndarray, rebuilt: np.ndarray, height: int) -> np.ndarray:
    """One row of the sheet, from two pictures uint8 RGB (H, W, 3)."""
    top, left = worst_patch(original, rebuilt)
    patches = [x[top : top + _PATCH, left : left + _PATCH] for x in (original, rebuilt)]
    enlarged = [np.repeat(np.repeat(patch, _ZOOM, 0), _ZOOM, 1) for patch in patches]
    panels = [_to_height(x, height) for x in (original, rebuilt, *enlarged)]
    row = np.concatenate([np.pad(panel, ((0, 4), (0, 4), (0, 0)), constant_values=255) for panel in panels], axis=1)
    return np.concatenate([caption(title, row.shape[1]), row])


def _to_height(image: np.ndarray, height: int) -> np.ndarray:
    """Resize uint8 RGB (H, W, 3) to another height, keeping its aspect ratio."""
    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    shrinking = image.shape[0] > height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_NEAREST)
