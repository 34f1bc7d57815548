"""Pixel formats: against one-pixel-at-a-time Python, against the standards' real-valued formulas, and OpenCV."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtok.preprocessing.pixels import ENCODINGS, RawImage, coefficients, to_rgb

BAYER = ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"]


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def rgb_of(y, u, v, matrix="bt601", full=False):
    """One pixel by the documented integer formula, in Python's own integers."""
    y0, table = coefficients(matrix, full)
    out = []
    for cy, cu, cv in table.tolist():
        out.append(min(max((cy * (y - y0) + cu * (u - 128) + cv * (v - 128) + 2**13) >> 14, 0), 255))
    return out


def samples(encoding, data, height, width, step):
    """(y, u, v) of every pixel, read the slow way."""
    data = data.tolist()
    for row in range(height):
        for column in range(width):
            if encoding in ("uyvy", "yuyv"):
                at, pair = row * step + 2 * column, row * step + 4 * (column // 2)
                yield (
                    (data[at + 1], data[pair], data[pair + 2])
                    if encoding == "uyvy"
                    else (data[at], data[pair + 1], data[pair + 3])
                )
            elif encoding == "nv12":
                at = height * step + (row // 2) * step + 2 * (column // 2)
                yield data[row * step + column], data[at], data[at + 1]
            else:
                at = height * step + (row // 2) * (step // 2) + column // 2
                yield data[row * step + column], data[at], data[at + (height // 2) * (step // 2)]


@settings(max_examples=40)
@given(
    encoding=st.sampled_from(["uyvy", "yuyv", "nv12", "i420"]),
    half=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    padding=st.sampled_from([0, 2, 6]),
    color=st.tuples(st.sampled_from(["bt601", "bt709"]), st.booleans()),
    seed=st.integers(0, 9999),
)
def test_yuv_equals_the_formula_pixel_by_pixel(encoding, half, padding, color, seed):
    height, width = 2 * half[0], 2 * half[1]
    step = width * (2 if encoding in ("uyvy", "yuyv") else 1) + padding
    data = noise(step * height * 2, seed)
    got = to_rgb(data, encoding, height, width, step, matrix=color[0], full_range=color[1])
    want = [rgb_of(*pixel, *color) for pixel in samples(encoding, data, height, width, step)]
    assert np.array_equal(got.reshape(-1, 3), want)


@pytest.mark.parametrize(("matrix", "kr", "kb"), [("bt601", 0.299, 0.114), ("bt709", 0.2126, 0.0722)])
@pytest.mark.parametrize("full", [False, True])
def test_yuv_is_within_half_a_step_of_the_standard(matrix, kr, kb, full):
    """RGB to YUV by the standard's own definition, kept in reals, must come back as the RGB it came from."""
    rgb = noise((500, 3)).astype(float)
    luma = rgb @ (kr, 1 - kr - kb, kb)
    u, v = (rgb[:, 2] - luma) / (2 * (1 - kb)), (rgb[:, 0] - luma) / (2 * (1 - kr))
    y0, table = coefficients(matrix, full)
    luma, u, v = (luma, u, v) if full else (16 + luma * 219 / 255, u * 224 / 255, v * 224 / 255)
    back = np.stack([luma - y0, u, v], axis=1) @ table.T / 2**14
    assert np.abs(back - rgb).max() < 0.02


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("uyvy", cv2.COLOR_YUV2RGB_UYVY),
        ("yuyv", cv2.COLOR_YUV2RGB_YUYV),
        ("nv12", cv2.COLOR_YUV2RGB_NV12),
        ("i420", cv2.COLOR_YUV2RGB_I420),
    ],
)
def test_yuv_has_the_same_layout_as_opencv(encoding, code):
    height, width = 24, 36
    packed = encoding in ("uyvy", "yuyv")
    data = noise((height, width, 2) if packed else (height * 3 // 2, width))
    data = np.maximum(data, 16)  # OpenCV takes anything blacker than black for black
    got = to_rgb(data, encoding, height, width).astype(int)
    assert np.abs(got - cv2.cvtColor(data, code)).max() <= 2


def bayer_oracle(raw, order):
    """Each missing colour as the rounded mean of the same-coloured samples among the 8 neighbours that are nearest."""
    height, width = raw.shape
    mirror = np.pad(raw, 1, mode="reflect").astype(int)
    out = np.zeros((height, width, 3), int)
    for y in range(height):
        for x in range(width):
            for c, letter in enumerate("rgb"):
                out[y, x, c] = sample(mirror, order, y, x, letter)
    return out


def sample(mirror, order, y, x, letter):
    if order[2 * (y % 2) + x % 2] == letter:
        return mirror[y + 1, x + 1]
    near = []
    for distance in (1, 2):
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
            if dy * dy + dx * dx == distance and order[2 * ((y + dy) % 2) + (x + dx) % 2] == letter:
                near.append(mirror[y + 1 + dy, x + 1 + dx])
        if near:
            break
    return (2 * sum(near) + len(near)) // (2 * len(near))


@pytest.mark.parametrize("encoding", BAYER)
@pytest.mark.parametrize("size", [(2, 2), (7, 9), (8, 6)])
def test_bayer_is_the_mean_of_the_nearest_samples(encoding, size):
    raw = noise(size, 3)
    assert np.array_equal(to_rgb(raw, encoding, *size), bayer_oracle(raw, encoding[6:10]))


def test_packed_and_grey():
    image = noise((5, 7, 3))
    assert np.array_equal(to_rgb(image, "rgb8", 5, 7), image)
    assert np.array_equal(to_rgb(image, "bgr8", 5, 7), image[..., ::-1])
    four = noise((5, 7, 4))
    assert np.array_equal(to_rgb(four, "rgba8", 5, 7), four[..., :3])
    assert np.array_equal(to_rgb(four, "bgra8", 5, 7), four[..., 2::-1])
    grey = noise((5, 7))
    assert np.array_equal(to_rgb(grey, "mono8", 5, 7), np.dstack([grey] * 3))


def test_rows_may_be_padded_and_the_last_one_cut():
    padded = noise((5, 26))
    got = to_rgb(padded.reshape(-1)[: 4 * 26 + 21], "rgb8", 5, 7, 26)
    assert np.array_equal(got, padded[:, :21].reshape(5, 7, 3))


@pytest.mark.parametrize(("encoding", "columns"), [("rgb8", 18), ("yuyv", 12), ("nv12", 6), ("bayer_grbg8", 6)])
def test_a_raw_image_keeps_its_bytes_until_rgb_is_wanted(encoding, columns):
    rows = noise((6, columns + 4))
    raw = RawImage(rows, encoding, 4, 6, columns + 4)
    assert (raw.encoding, raw.step, raw.shape) == (encoding, columns + 4, (4, 6, 3))
    assert np.array_equal(raw.rows, rows[:4, :columns])
    assert np.shares_memory(raw.data, rows)
    assert np.array_equal(raw.rgb(), to_rgb(rows, encoding, 4, 6, columns + 4))
    with pytest.raises(ValueError, match="bytes"):
        RawImage(rows[:3], encoding, 4, 6, columns + 4)


def test_the_result_never_shares_memory_with_the_message():
    data = noise((4, 6, 3))
    assert not np.shares_memory(to_rgb(data, "rgb8", 4, 6), data)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_refuses_short_data(encoding):
    with pytest.raises(ValueError, match="bytes"):
        to_rgb(noise(20), encoding, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rgb9", 4, 4), "rgb8, bgr8"),
        (("nv12", 5, 4), "must be even"),
        (("uyvy", 4, 5), "must be even"),
        (("rgb8", 0, 4), "1x1 or more"),
        (("rgb8", 4, 4, 11), "less than the 12 bytes"),
        (("bayer_rggb8", 1, 4), "two rows"),
        (("i420", 4, 4, 5), "even number"),
    ],
)
def test_wrong_requests_say_what_is_allowed(arguments, words):
    with pytest.raises(ValueError, match=words):
        to_rgb(noise(4096), *arguments)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="uint16"):
        to_rgb(np.zeros(48, np.uint16), "mono8", 4, 4)
    with pytest.raises(ValueError, match="bt601, bt709"):
        to_rgb(noise(64), "nv12", 4, 4, matrix="bt2020")
