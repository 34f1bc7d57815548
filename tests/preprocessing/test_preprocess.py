"""Resizing in integers: against a slow oracle in fractions, and the properties that make it an area mean."""

import os
import subprocess
import sys
from fractions import Fraction
from math import ceil, floor, gcd

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamtok.preprocessing.preprocessor import Preprocessor, fit_rectangles, pad_edges

SIDES = st.integers(1, 40)
SEEDS = st.integers(0, 2**32 - 1)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def overlaps(source, target):
    """Per output pixel {source pixel: Fraction of the output pixel that it covers}."""
    scale = Fraction(source, target)
    result = []
    for i in range(target):
        low, high = i * scale, (i + 1) * scale
        cover = {j: (min(high, j + 1) - max(low, j)) / scale for j in range(floor(low), ceil(high))}
        result.append(cover)
    return result


def oracle(image, target):
    rows, columns = overlaps(image.shape[0], target[0]), overlaps(image.shape[1], target[1])
    out = np.zeros((3, *target), np.uint8)
    for c in range(3):
        for y, row in enumerate(rows):
            for x, column in enumerate(columns):
                mean = sum(wy * wx * int(image[j, m, c]) for j, wy in row.items() for m, wx in column.items())
                out[c, y, x] = floor(mean + Fraction(1, 2))
    return out


@settings(max_examples=60)
@given(height=SIDES, width=SIDES, tall=st.integers(1, 12), wide=st.integers(1, 12), seed=SEEDS)
@example(height=9, width=7, tall=9, wide=7, seed=0)
@example(height=5, width=7, tall=15, wide=14, seed=0)
def test_equals_the_exact_area_mean_rounded_half_up(height, width, tall, wide, seed):
    image = picture(height, width, seed)
    got = Preprocessor((height, width), (tall, wide), multiple=1)(image)
    assert np.array_equal(got, oracle(image, (tall, wide)))


@pytest.mark.parametrize(
    ("source", "size"), [((45, 80), (16, 28)), ((53, 61), (24, 16)), ((16, 61), (16, 24)), ((61, 16), (24, 16))]
)
def test_extreme_values_stay_exact_through_blocks_of_rows_and_columns(source, size):
    image = np.where(picture(*source) > 127, 255, 0).astype(np.uint8)
    assert np.array_equal(Preprocessor(source, size, multiple=4)(image), oracle(image, size))


def area_weights(source, target):
    """(s, weights int64 (target, source)): the module's w(i, j), whose rows sum to s."""
    common = gcd(source, target)
    s, d = source // common, target // common
    i, j = np.arange(target)[:, None], np.arange(source)
    return s, np.clip(np.minimum((i + 1) * s, (j + 1) * d) - np.maximum(i * s, j * d), 0, None)


def integer_mean(image, size):
    """The module's formula in 64-bit integers."""
    (sy, wy), (sx, wx) = area_weights(image.shape[0], size[0]), area_weights(image.shape[1], size[1])
    sums = np.einsum("ij,jmc->imc", wy, image.astype(np.int64))
    sums = np.einsum("km,imc->cik", wx, sums)
    return (2 * sums + sy * sx) // (2 * sy * sx)


def test_sizes_without_a_common_divisor_need_more_than_float32_and_stay_exact():
    """719 * 479 parts exceed 2**24, so this goes through float64."""
    image = picture(479, 719)
    image[100:300] = 255
    prepare = Preprocessor((479, 719), (64, 96))
    assert prepare._dtype is np.float64
    assert np.array_equal(prepare(image), integer_mean(image, (64, 96)))


def test_without_a_size_the_picture_is_padded_to_the_grid_by_its_edge():
    image = picture(21, 30)
    prepare = Preprocessor((21, 30), None, multiple=8)
    out = prepare(image)
    assert prepare.size == (24, 32)
    assert prepare.rect == (0, 0, 21, 30)
    assert np.array_equal(out[:, :21, :30], image.transpose(2, 0, 1))
    assert np.array_equal(out[:, 21:, :30], image[20:21].repeat(3, 0).transpose(2, 0, 1))
    assert np.array_equal(out[:, :, 31], out[:, :, 29])


@settings(max_examples=80)
@given(source=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES), fit=st.sampled_from(["stretch", "crop", "pad"]))
def test_windows_and_rectangles_lie_inside_and_keep_the_shape(source, size, fit):
    out, window, rect = fit_rectangles(source, size, fit, 1)
    assert out == size
    for (top, left, height, width), room in ((window, source), (rect, size)):
        assert top >= 0
        assert left >= 0
        assert 1 <= height <= room[0] - top
        assert 1 <= width <= room[1] - left
        assert abs((room[0] - height) - 2 * top) <= 1
        assert abs((room[1] - width) - 2 * left) <= 1
    if fit == "crop":
        assert rect == (0, 0, *size)
        assert window[2] == source[0] or window[3] == source[1]
    if fit == "pad":
        assert window == (0, 0, *source)
        assert rect[2] == size[0] or rect[3] == size[1]


def test_crop_is_stretch_of_the_window_and_pad_is_stretch_within_the_rectangle():
    image = picture(40, 90)
    crop = Preprocessor((40, 90), (16, 16), "crop")
    assert crop.window == (0, 25, 40, 40)
    assert np.array_equal(crop(image), Preprocessor((40, 40), (16, 16))(image[:, 25:65]))
    pad = Preprocessor((40, 90), (32, 48), "pad")
    assert pad.rect == (5, 0, 21, 48)
    inner = Preprocessor((40, 90), (21, 48), multiple=1)(image)
    assert np.array_equal(pad(image), pad_edges(inner, pad.rect, (32, 48)))
    assert np.array_equal(pad(image)[:, 0], inner[:, 0])


def test_results_do_not_share_memory_with_later_calls():
    prepare = Preprocessor((20, 20), (8, 8))
    first = prepare(picture(20, 20, 1))
    kept = first.copy()
    prepare(picture(20, 20, 2))
    assert np.array_equal(first, kept)


COUNTING = """
import threading, time
from pathlib import Path
import numpy as np
from streamtok.preprocessing.preprocessor import Preprocessor

def count_wakes():
    others = [task for task in Path("/proc/self/task").iterdir() if int(task.name) != threading.get_native_id()]
    lines = [line for task in others for line in (task / "status").read_text().splitlines()]
    return len(others), sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

for source, size in [((720, 1280), (256, 448)), ((1080, 1920), (544, 960)), ((2160, 3840), (256, 448))]:
    prepare, image, before = Preprocessor(source, size), np.zeros((*source, 3), np.uint8), None
    while before != count_wakes():
        before = count_wakes()
        time.sleep(0.2)
    prepare(image)
    print(before[0], count_wakes()[1] - before[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_picture_wakes_no_other_thread():
    """With both cores busy, threads that share a product took 75 times the processor time."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", COUNTING], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    found = [tuple(map(int, line.split())) for line in child.stdout.splitlines()]
    if not found[0][0]:
        pytest.skip("this NumPy has one thread")
    assert [wakes for _, wakes in found] == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((720, 1280), (250, 448)), "size 250x448: .*multiples of 8; nearest are 248x448, 256x448$"),
        (((720, 1280), (36, 52)), "nearest are 32x48, 32x56, 40x48, 40x56$"),
        (((720, 1280), (3, 65535)), "nearest are 8x65528$"),
        (((720, 1280), (256, 448), "fill"), "stretch, crop, pad"),
        (((0, 1280), None), "source size"),
        (((720, 1280), (8, 80000)), "1 to 65535"),
        (((720, 1280), None, "stretch", 0), "multiple is 0"),
    ],
)
def test_wrong_settings_say_what_is_allowed(arguments, words):
    with pytest.raises(ValueError, match=words):
        Preprocessor(*arguments)


def test_wrong_pictures_are_refused():
    prepare = Preprocessor((20, 30), (8, 8))
    with pytest.raises(ValueError, match="made for 20x30x3"):
        prepare(picture(30, 20))
    with pytest.raises(TypeError, match="float32"):
        prepare(picture(20, 30).astype(np.float32))
