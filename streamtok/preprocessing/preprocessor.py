"""From a camera's picture to what the network reads, in integer arithmetic: the same bytes on any processor and GPU.

    from streamtok.preprocessing.preprocessor import Preprocessor

    prepare = Preprocessor((720, 1280), size=(256, 448))     # heights before widths, as tensors are written
    planes = prepare(image)                                  # uint8 RGB (720, 1280, 3) -> uint8 (3, 256, 448)

**The arithmetic.** A window of the source (all of it unless `fit="crop"`) is resized to a rectangle of the output by
its exact area mean. Along an axis, let the window have S pixels and the rectangle D, and let s = S / g, d = D / g with
g = gcd(S, D). On a common scale a source pixel is d long and an output pixel s long. Output pixel i covers
[i s, (i + 1) s), source pixel j covers [j d, (j + 1) d). The weight of j in i is the length of their overlap

    w(i, j) = max(0, min((i + 1) s, (j + 1) d) - max(i s, j d)),    j from (i s) // d to ((i + 1) s - 1) // d

which sums to s over j. With such weights wy for rows and wx for columns and n = sy * sx,

    out[c, i, k] = (2 * sum_j sum_m wy(i, j) wx(k, m) in[j, m, c] + n) // (2 n)

the mean rounded to the nearest integer, halves up: a single rounding. The sum is at most 255 n: below 2**32 for every
source of at most 4096 pixels a side, so 64-bit integers always do and 32-bit ones mostly. Enlarging uses the same
formula (each output pixel is the mean of what it covers). Output pixels outside the rectangle repeat the nearest pixel
of the rectangle: row and column are clamped to it after resizing.

**The window and the rectangle** (`fit_rectangles`). No size: the rectangle is the source at the output's left top,
the output is rounded up to the grid. `stretch`: all of the source fills the output. `crop`: the largest centred window
of the output's shape fills it. `pad`: all of the source fills the largest centred rectangle of the source's shape.
Sides that follow from the shape are rounded to the nearest integer (halves up, 1 at least); centring rounds down.

**How the CPU does it.** Products with banded weight matrices in float32 while 255 n < 2**24, else in float64 (exact to
2**53). Every partial sum is then an integer that the type holds exactly, so neither order nor fused operations matter.
"""

from __future__ import annotations

import itertools
import threading
from math import gcd

import numpy as np

FITS = ("stretch", "crop", "pad")
MOST_SIDE = 65535
ROW_BLOCK, COLUMN_BLOCK = 4, 16
"""Output rows and columns made by one small product; measured on a 2-core AVX-512 machine, 720p to 256 x 448."""
MOST_PRODUCTS = 1 << 18
"""Multiply-adds of one call: OpenBLAS shares larger ones among threads, which on busy cores wait for each other."""

Rectangle = tuple[int, int, int, int]
Band = tuple[slice, slice, np.ndarray]


class Preprocessor:
    """Resizes pictures of one size, uint8 RGB (h, w, 3), to what is encoded, uint8 (3, H, W); or of other `channels`.

    `size` is (H, W) of the output. `rect` is where the picture lies in it and `window` which part of the source that
    is, both (top, left, height, width). Calls from several threads take turns.
    """

    def __init__(
        self,
        source_size: tuple[int, int],
        size: tuple[int, int] | None = None,
        fit: str = "stretch",
        multiple: int = 8,
        channels: int = 3,
    ) -> None:
        self.channels = channels
        self.source_size = check_size("source size", source_size)
        self.size, self.window, self.rect = fit_rectangles(self.source_size, size, fit, multiple)
        (_, _, height, width), (_, _, tall, wide) = self.window, self.rect
        rows, columns = height // gcd(height, tall), width // gcd(width, wide)
        self._parts = rows * columns
        self._dtype = np.float32 if 255 * self._parts < 2**24 else np.float64
        self._rows = None if height == tall else _bands(height, tall, ROW_BLOCK, self._dtype)
        columns_first = None if width == wide else _bands(width, wide, COLUMN_BLOCK, self._dtype)
        self._columns = columns_first and [(i, j, np.ascontiguousarray(w.T)) for i, j, w in columns_first]
        self._lock = threading.Lock()
        self._allocate()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """One picture, uint8 RGB (h, w, 3) of `source_size`, resized: a new uint8 (3, H, W); so with other channels."""
        if image.shape != (*self.source_size, self.channels):
            expected = "x".join(str(side) for side in (*self.source_size, self.channels))
            raise ValueError(f"picture of shape {image.shape}: this preprocessor was made for {expected}")
        if image.dtype != np.uint8:
            raise TypeError(f"picture of {image.dtype}: expected uint8")
        top, left, height, width = self.window
        inner = image[top : top + height, left : left + width]
        if self._rows is None and self._columns is None:
            planes = np.ascontiguousarray(inner.transpose(2, 0, 1))
        else:
            with self._lock:
                planes = self._resize(inner)
        return planes if planes.shape[1:] == self.size else pad_edges(planes, self.rect, self.size)

    def _allocate(self) -> None:
        width, (_, _, tall, wide), channels = self.window[3], self.rect, self.channels
        deepest = max((source.stop - source.start for _, source, _ in self._rows or []), default=1)
        self._band = np.empty((deepest, width * channels), self._dtype)
        self._mixed = np.empty((ROW_BLOCK, width * channels), self._dtype)
        self._planes = np.empty((channels, tall, width), self._dtype)
        self._sums = np.empty((channels * tall, wide), self._dtype)

    def _resize(self, inner: np.ndarray) -> np.ndarray:
        _, width, _ = inner.shape
        _, _, tall, wide = self.rect
        self._mix_rows(inner.reshape(len(inner), -1))
        sums = planes = self._planes.reshape(-1, width)
        if self._columns is not None:
            sums = self._sums
            for target, source, weights in self._columns:
                _multiply(planes[:, source], weights, sums[:, target])
        return _rounded(sums, self._parts).reshape(-1, tall, wide)

    def _mix_rows(self, flat: np.ndarray) -> None:
        """Rows (h, w * channels) resized into the planes (channels, tall, w), not divided yet."""
        if self._rows is None:
            for channel in range(self.channels):
                self._planes[channel] = flat[:, channel :: self.channels]
            return
        for target, source, weights in self._rows:
            band, mixed = self._band[: source.stop - source.start], self._mixed[: target.stop - target.start]
            np.copyto(band, flat[source])
            _multiply(weights, band, mixed)
            for channel in range(self.channels):
                self._planes[channel, target] = mixed[:, channel :: self.channels]


def fit_rectangles(
    source: tuple[int, int], size: tuple[int, int] | None, fit: str, multiple: int
) -> tuple[tuple[int, int], Rectangle, Rectangle]:
    """((H, W) of the output, window of the source, rectangle of the output that it fills), by the module's rules."""
    if fit not in FITS:
        raise ValueError(f"fit {fit!r}: expected one of {', '.join(FITS)}")
    if multiple < 1:
        raise ValueError(f"multiple is {multiple}: expected the model's spatial compression, 1 or more")
    height, width = source
    whole = (0, 0, height, width)
    if size is None:
        return (-(-height // multiple) * multiple, -(-width // multiple) * multiple), whole, whole
    tall, wide = check_size("size", size)
    if tall % multiple or wide % multiple:
        beside = (_multiples_beside(side, multiple) for side in (tall, wide))
        near = ", ".join(f"{height}x{width}" for height, width in itertools.product(*beside))
        raise ValueError(f"size {tall}x{wide}: this model needs multiples of {multiple}; nearest are {near}")
    full = (0, 0, tall, wide)
    if fit == "stretch":
        return (tall, wide), whole, full
    if fit == "crop":
        return (tall, wide), _largest((tall, wide), (height, width)), full
    return (tall, wide), whole, _largest((height, width), (tall, wide))


def pad_edges(planes: np.ndarray, rect: Rectangle, size: tuple[int, int]) -> np.ndarray:
    """`planes` (C, h, w) put at `rect` of an output (C, H, W) whose rest repeats their nearest pixel."""
    top, left, height, width = rect
    sides = (0, 0), (top, size[0] - top - height), (left, size[1] - left - width)
    return np.pad(planes, sides, mode="edge")


def check_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """`size` as two ints, or a ValueError that calls it `name`."""
    if len(size) != 2 or min(size) < 1 or max(size) > MOST_SIDE:
        raise ValueError(f"{name} {tuple(size)}: expected (height, width), each 1 to {MOST_SIDE}")
    return int(size[0]), int(size[1])


def _multiples_beside(side: int, multiple: int) -> list[int]:
    """The multiples next to a side, below and above; one if it is a multiple itself, or if the other is no size."""
    beside = {side // multiple * multiple, -(-side // multiple) * multiple}
    return sorted(near for near in beside if 1 <= near <= MOST_SIDE)


def _largest(shape: tuple[int, int], room: tuple[int, int]) -> Rectangle:
    """The largest rectangle as wide to tall as `shape`, centred in `room`."""
    height, width = room
    if shape[1] * height < width * shape[0]:
        width = max((2 * shape[1] * height + shape[0]) // (2 * shape[0]), 1)
    else:
        height = max((2 * shape[0] * width + shape[1]) // (2 * shape[1]), 1)
    return (room[0] - height) // 2, (room[1] - width) // 2, height, width


def _bands(source: int, target: int, block: int, dtype: type) -> list[Band]:
    """Blocks of output pixels: which they are, which source pixels they cover, weights (outputs, sources)."""
    common = gcd(source, target)
    s, d = source // common, target // common
    bands = []
    for first in range(0, target, block):
        last = min(first + block, target)
        start, stop = first * s // d, -(-last * s // d)
        i, j = np.arange(first, last)[:, None], np.arange(start, stop)
        weights = np.clip(np.minimum((i + 1) * s, (j + 1) * d) - np.maximum(i * s, j * d), 0, None)
        bands.append((slice(first, last), slice(start, stop), weights.astype(dtype)))
    return bands


def _multiply(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """left (n, k) @ right (k, m) into out (n, m), the longer side of it in parts."""
    side = max(1, MOST_PRODUCTS // (left.shape[1] * min(out.shape)))
    for first in range(0, max(out.shape), side):
        part = slice(first, first + side)
        if out.shape[0] > out.shape[1]:
            np.matmul(left[part], right, out=out[part])
        else:
            np.matmul(left, right[:, part], out=out[:, part])


def _rounded(sums: np.ndarray, parts: int) -> np.ndarray:
    """(2 * sums + parts) // (2 * parts) of whole numbers kept in a float array, as uint8."""
    whole: np.ndarray = sums.astype(np.int32 if 511 * parts < 2**31 else np.int64)
    whole *= 2
    whole += parts
    whole //= 2 * parts
    return whole.astype(np.uint8)
