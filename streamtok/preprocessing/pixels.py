"""Camera pixel formats to RGB in integer arithmetic, so that a GPU kernel can give the same bytes.

**YUV** (uyvy, yuyv, nv12, i420). ITU-R BT.601 with limited range (Y 16..235, U and V 16..240) unless told otherwise;
BT.709 and full range on request. From the standards' Kr, Kb and Kg = 1 - Kr - Kb, the exact conversion is

    R = ys (Y - y0) + 2 (1 - Kr) cs (V - 128)
    B = ys (Y - y0) + 2 (1 - Kb) cs (U - 128)
    G = ys (Y - y0) - 2 (1 - Kb) Kb / Kg cs (U - 128) - 2 (1 - Kr) Kr / Kg cs (V - 128)

with y0 = 16, ys = 255/219, cs = 255/224 for limited range (ITU-R BT.601-7 section 2.5, BT.709-6 section 3). Full range
has y0 = 0, ys = cs = 1 (JFIF). Every coefficient is multiplied by 2**14 and rounded to the
nearest integer, once (`coefficients`). A channel is then

    clip((cy * (Y - y0) + cu * (U - 128) + cv * (V - 128) + 2**13) >> 14, 0, 255)

in 32-bit integers with an arithmetic shift. Chroma is repeated, not interpolated. In uyvy and yuyv the pixels 2k and 2k
+ 1 of a row share U and V; in nv12 and i420 the 2 x 2 block does.

**Bayer** (bayer_rggb8, bayer_bggr8, bayer_gbrg8, bayer_grbg8: the letters are the first two rows' first two pixels).
Bilinear: a missing colour is the mean of the nearest samples of that colour. Of two it is (a + b + 1) >> 1, of four
(a + b + c + d + 2) >> 2. Outside the picture, samples are mirrored about the border pixel (row -1 is row 1).

**mono8** repeats its value; rgb8, bgr8, rgba8, bgra8 are reordered. **uint8x2, uint8x4, uint8x5, ...** are pictures of
so many channels, which lie beside each other and stay as they are: thermal beside colour, a lidar's images.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from streamtok.config.tokenizer_config import MOST_CHANNELS

PRIMARIES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
ALIASES = {"yuv422": "uyvy", "uyvy422": "uyvy", "yuv422_yuy2": "yuyv", "yuyv422": "yuyv", "yuy2": "yuyv"}
PACKED = {"rgb8": slice(0, 3), "bgr8": slice(2, None, -1), "rgba8": slice(0, 3), "bgra8": slice(2, None, -1)}
PACKED_422 = {"uyvy": (1, 0, 2), "yuyv": (0, 1, 3)}
PIXEL_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "uyvy": 2, "yuyv": 2, "nv12": 1, "i420": 1}
PIXEL_BYTES |= {f"bayer_{order}8": 1 for order in ("rggb", "bggr", "gbrg", "grbg")}
CHANNELS = {f"uint8x{count}": count for count in range(2, MOST_CHANNELS + 1) if count != 3}
"""Of pictures that are no RGB."""
ENCODINGS = (*PIXEL_BYTES, *ALIASES)  # of pictures that become RGB
PIXEL_BYTES |= CHANNELS
SHIFT = 14
BAND = 32
"""Rows converted at a time, so that the 32-bit intermediates stay in the processor's cache."""


@lru_cache
def coefficients(matrix: str = "bt601", full_range: bool = False) -> tuple[int, np.ndarray]:
    """(y0, [[cy, cu, cv] for R, G, B] int32), the integers of the module's formula."""
    if matrix not in PRIMARIES:
        raise ValueError(f"colour matrix {matrix!r}: expected one of {', '.join(PRIMARIES)}")
    kr, kb = PRIMARIES[matrix]
    kg = 1 - kr - kb
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    red, blue = 2 * (1 - kr) * chroma, 2 * (1 - kb) * chroma
    exact = [[luma, 0, red], [luma, -blue * kb / kg, -red * kr / kg], [luma, blue, 0]]
    return (0 if full_range else 16), np.rint(np.array(exact) * 2**SHIFT).astype(np.int32)


class RawImage:
    """One image as a camera sends it, checked when it is made and converted only where that is wanted.

    Arguments as `to_rgb` takes them, which says what is refused; YUV is BT.601 with limited range. `data` is uint8
    (n,), `shape` that of the picture: (height, width, 3), or as many channels as `CHANNELS` says.
    """

    def __init__(self, data: np.ndarray, encoding: str, height: int, width: int, step: int | None = None) -> None:
        self.encoding, self.step = check_image(data, encoding, height, width, step)
        self.data = np.ascontiguousarray(data).reshape(-1)
        self.shape = height, width, CHANNELS.get(encoding, 3)

    @property
    def rows(self) -> np.ndarray:
        """The bytes of each row (of Y where there are planes) without padding, uint8 (height, n), not to be written."""
        height, width = self.shape[:2]
        return _rows(self.data, height, width * PIXEL_BYTES[self.encoding], self.step)

    def rgb(self) -> np.ndarray:
        """The picture, a new uint8 RGB (H, W, 3), or of the channels of `CHANNELS`."""
        return self._convert(("bt601", False))

    def _convert(self, color: tuple[str, bool]) -> np.ndarray:
        height, width = self.shape[:2]
        if self.encoding in ("nv12", "i420"):
            return _planar(self.data, self.encoding, (height, width), self.step, color)
        rows = self.rows
        if self.encoding in PACKED:
            return rows.reshape(height, width, -1)[..., PACKED[self.encoding]].copy()
        if self.encoding == "mono8":
            return np.repeat(rows[..., None], 3, axis=2)
        if self.encoding in CHANNELS:
            return rows.reshape(height, width, -1).copy()
        if self.encoding in PACKED_422:
            y, u, v = (rows[:, at::step] for at, step in zip(PACKED_422[self.encoding], (2, 4, 4), strict=True))
            return _yuv(y, u, v, color)
        return _bayer(rows, self.encoding[6:10])


def to_rgb(
    data: np.ndarray,
    encoding: str,
    height: int,
    width: int,
    step: int | None = None,
    *,
    matrix: str = "bt601",
    full_range: bool = False,
) -> np.ndarray:
    """One image as a camera sends it, as uint8 RGB (H, W, 3), or of the channels of `CHANNELS`.

    data: uint8, any shape, read in memory order. `step` is the bytes from one row to the next (None: no padding); for
    nv12 and i420 that of the Y plane, the chroma planes following at once with `step` and `step / 2`. `matrix`
    ("bt601", "bt709") and `full_range` are for the YUV encodings. ValueError names an unknown encoding, a size that
    the encoding cannot have, or data that is too short.
    """
    return RawImage(data, encoding, height, width, step)._convert((matrix, full_range))


def name_encoding(channels: int) -> str:
    """The encoding of a picture, uint8 (H, W, channels), whose bytes are as they lie: "rgb8" for three."""
    return "rgb8" if channels == 3 else f"uint8x{channels}"


def check_image(data: np.ndarray, encoding: str, height: int, width: int, step: int | None) -> tuple[str, int]:
    """(encoding without its aliases, step) of an image that `to_rgb` can read; else its errors."""
    encoding = ALIASES.get(encoding, encoding)
    if encoding not in PIXEL_BYTES:
        raise ValueError(f"pixel encoding {encoding!r}: expected one of {', '.join(ENCODINGS)}, uint8x2, uint8x4, ...")
    if data.dtype != np.uint8:
        raise TypeError(f"image data is {data.dtype}: expected uint8")
    _check_size(encoding, height, width)
    row = width * PIXEL_BYTES[encoding]
    step = row if step is None else step
    if step < row:
        raise ValueError(f"step {step} is less than the {row} bytes of a {width}-pixel {encoding} row")
    if encoding == "i420" and step % 2:
        raise ValueError(f"i420 step {step}: expected an even number, since the chroma rows are half as long")
    needed = step * (height - 1) + row  # the padding of the last row may be missing
    if encoding == "nv12":
        needed = step * height + step * (height // 2 - 1) + width
    if encoding == "i420":
        needed = step * height + step // 2 * (height - 1) + width // 2
    if data.size < needed:
        raise ValueError(f"{encoding} image data has {data.size} bytes, {needed} needed for {height} rows of {step}")
    return encoding, step


def _check_size(encoding: str, height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"image size {height}x{width}: expected 1x1 or more")
    if (encoding in PACKED_422 and width % 2) or (encoding in ("nv12", "i420") and (width % 2 or height % 2)):
        raise ValueError(f"{encoding} shares colour between pixels: {height}x{width} must be even")
    if encoding.startswith("bayer") and min(height, width) < 2:
        raise ValueError(f"{encoding} needs two rows and columns at least, got {height}x{width}")


def _rows(flat: np.ndarray, height: int, row: int, step: int) -> np.ndarray:
    """(height, row) view of rows that lie `step` bytes apart; the last one's padding may be missing."""
    if step == row:
        return flat[: height * row].reshape(height, row)
    return np.lib.stride_tricks.as_strided(flat, (height, row), (step, 1), writeable=False)


def _planar(flat: np.ndarray, encoding: str, size: tuple[int, int], step: int, color: tuple[str, bool]) -> np.ndarray:
    height, width = size
    y, rest = _rows(flat, height, width, step), flat[step * height :]
    if encoding == "nv12":
        pairs = _rows(rest, height // 2, width, step)
        u, v = pairs[:, 0::2], pairs[:, 1::2]
    else:
        u = _rows(rest, height // 2, width // 2, step // 2)
        v = _rows(rest[step // 2 * (height // 2) :], height // 2, width // 2, step // 2)
    return _yuv(y, u, v, color)


def _yuv(y: np.ndarray, u: np.ndarray, v: np.ndarray, color: tuple[str, bool]) -> np.ndarray:
    """Planes of luma (H, W) and chroma (H or H / 2, W / 2) to RGB (H, W, 3)."""
    offset, table = coefficients(*color)
    height, width = y.shape
    tall = height // u.shape[0]
    rgb = np.empty((height, width, 3), np.uint8)
    luma_of = (np.arange(256, dtype=np.int32) - offset) * table[0, 0] + (1 << (SHIFT - 1))
    for top in range(0, height, BAND):
        bottom = min(top + BAND, height)
        du = u[top // tall : bottom // tall].astype(np.int32) - 128
        dv = v[top // tall : bottom // tall].astype(np.int32) - 128
        luma = luma_of[y[top:bottom]].reshape(-1, tall, width // 2, 2)
        for channel in range(3):
            shade = du * table[channel, 1] + dv * table[channel, 2]
            value = (luma + shade[:, None, :, None]) >> SHIFT
            np.clip(value, 0, 255, out=value)
            rgb[top:bottom, :, channel] = value.reshape(bottom - top, width)
    return rgb


def _bayer(raw: np.ndarray, order: str) -> np.ndarray:
    """A mosaic (H, W) whose first two rows begin with the four letters of `order`, to RGB (H, W, 3)."""
    height, width = raw.shape
    padded = np.pad(raw, 1, mode="reflect").astype(np.uint16)
    up, down, here = padded[:-2], padded[2:], padded[1:-1]
    rgb = np.empty((height, width, 3), np.uint8)
    row_of = {letter: order.index(letter) // 2 for letter in "rb"}
    column_of = {letter: order.index(letter) % 2 for letter in "rb"}
    sides = (here[:, :-2] + here[:, 2:] + 1) >> 1
    ends = (up[:, 1:-1] + down[:, 1:-1] + 1) >> 1
    cross = (here[:, :-2] + here[:, 2:] + up[:, 1:-1] + down[:, 1:-1] + 2) >> 2
    corners = (up[:, :-2] + up[:, 2:] + down[:, :-2] + down[:, 2:] + 2) >> 2

    rgb[..., 1] = raw
    for channel, letter, other in ((0, "r", "b"), (2, "b", "r")):
        row, column = row_of[letter], column_of[letter]
        rgb[row::2, column::2, 1] = cross[row::2, column::2]
        plane = rgb[..., channel]
        plane[row::2, column::2] = raw[row::2, column::2]
        plane[row::2, 1 - column :: 2] = sides[row::2, 1 - column :: 2]
        plane[1 - row :: 2, column::2] = ends[1 - row :: 2, column::2]
        plane[row_of[other] :: 2, column_of[other] :: 2] = corners[row_of[other] :: 2, column_of[other] :: 2]
    return rgb
