"""Pictures of a reconstruction: the contact sheet, and side-by-side video."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

_PATCH, _ZOOM, _BAR = 64, 4, 24  # side of the enlarged patch, its enlargement, height of the caption, pixels


def contact_sheet(rows: Sequence[tuple[str, np.ndarray, np.ndarray]], height: int = 256) -> np.ndarray:
    """Rows of original, reconstruction and the patch with the largest error of both, enlarged: RGB uint8 (H, W, 3).

    rows: caption, original and reconstruction, uint8 RGB (h, w, 3). The enlarged patches are where to look for
    checkerboards and block edges.
    """
    strips = [_strip(caption, original, rebuilt, height) for caption, original, rebuilt in rows]
    width = max(strip.shape[1] for strip in strips)
    return np.concatenate([np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips])


class SideBySide:
    """Writes original and reconstruction next to each other as one H.264 file, clip after clip at one size.

    A context manager; `add` takes uint8 RGB (T, h, w, 3) each. The first clip sets the size, others are fitted into it.
    """

    def __init__(self, path: Path, fps: float = 24.0):
        try:
            import av
        except ImportError as error:
            raise ImportError("side-by-side video needs PyAV: pip install av") from error
        self._av = av
        self.container = av.open(str(path), "w")
        rate = Fraction(fps).limit_denominator(1001)
        self.stream = self.container.add_stream("libx264", rate=rate, options={"crf": "14", "preset": "veryfast"})
        self.stream.pix_fmt = "yuv420p"
        self.size: tuple[int, int] | None = None  # height, width of one half

    def __enter__(self) -> "SideBySide":
        return self

    def __exit__(self, *error: object) -> None:
        if self.size is not None:
            self.container.mux(self.stream.encode(None))
        self.container.close()

    def add(self, original: np.ndarray, rebuilt: np.ndarray) -> None:
        """Append one clip."""
        if self.size is None:
            height, width = (side - side % 2 for side in original.shape[1:3])
            self.size = (height, width)
            self.stream.height, self.stream.width = height, 2 * width
        for left, right in zip(original, rebuilt, strict=True):
            both = np.concatenate([self._fit(left), self._fit(right)], axis=1)
            self.container.mux(self.stream.encode(self._av.VideoFrame.from_ndarray(both, format="rgb24")))

    def _fit(self, image: np.ndarray) -> np.ndarray:
        """Scaled down if too large, centred on black."""
        import cv2

        height, width = self.size or image.shape[:2]
        scale = min(1.0, height / image.shape[0], width / image.shape[1])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = image if scale == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
        return canvas


def worst_patch(original: np.ndarray, rebuilt: np.ndarray, side: int = _PATCH) -> tuple[int, int]:
    """Top and left of the square with the largest squared error: two uint8 (h, w, 3); (0, 0) if it does not fit."""
    height, width = original.shape[:2]
    if height <= side or width <= side:
        return 0, 0
    error = np.square(original.astype(np.float64) - rebuilt).sum(-1)
    area = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = area[side:, side:] - area[:-side, side:] - area[side:, :-side] + area[:-side, :-side]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(top), int(left)


def _strip(caption: str, original: np.ndarray, rebuilt: np.ndarray, height: int) -> np.ndarray:
    import cv2

    top, left = worst_patch(original, rebuilt)
    patches = [x[top : top + _PATCH, left : left + _PATCH] for x in (original, rebuilt)]
    enlarged = [np.repeat(np.repeat(patch, _ZOOM, 0), _ZOOM, 1) for patch in patches]
    panels = [_to_height(x, height) for x in (original, rebuilt, *enlarged)]
    row = np.concatenate([np.pad(panel, ((0, 4), (0, 4), (0, 0)), constant_values=255) for panel in panels], axis=1)
    bar = np.full((_BAR, row.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, caption, (4, _BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, row])


def _to_height(image: np.ndarray, height: int) -> np.ndarray:
    import cv2

    if image.shape[0] == height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    shrinking = image.shape[0] > height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_NEAREST)
