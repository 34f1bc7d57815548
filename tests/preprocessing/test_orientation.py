"""The eight orientations are those of OpenCV for EXIF and those of ffmpeg for display matrices."""

import math

import cv2
import numpy as np
import pytest

from streamtok.preprocessing.orientation import DIRECTIONS, find_orientation, orient, read_matrix_orientation

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def segment(marker, content):
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def exif(orientation):
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0"
    return segment(0xE1, tag + bytes([orientation]) + bytes(6))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_opencv_turns_one_with_that_tag(orientation):
    image = np.random.default_rng(0).integers(0, 2, (8, 16, 1), np.uint8).repeat(3, 2) * 255
    image = np.kron(image, np.ones((8, 8, 1), np.uint8))
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    tagged = jpeg[:2] + exif(orientation) + jpeg[2:]
    stored = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    upright = cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR)
    turned = orient(stored, orientation)
    assert turned.flags.c_contiguous
    assert np.array_equal(turned, upright)


JPEG = cv2.imencode(".jpg", PICTURE)[1].tobytes()


@pytest.mark.parametrize("before", [b"", segment(0xE0, b"JFXX\0\x10" + JPEG), segment(0xFE, b"\xff\xda"), b"\xff" * 3])
def test_exif_is_found_behind_any_segment_but_not_behind_the_pixels(before):
    assert find_orientation(JPEG[:2] + before + exif(6) + JPEG[2:])[0] == 6
    assert find_orientation(JPEG[:2] + before + JPEG[2:] + exif(6))[0] == 1


@pytest.mark.parametrize(("directions", "orientation"), DIRECTIONS.items())
def test_a_display_matrix_moves_each_pixel_where_its_orientation_does(directions, orientation):
    matrix = np.zeros((3, 3), np.int32)
    matrix[:2, :2] = np.reshape(directions, (2, 2)) * 65536
    assert read_matrix_orientation(matrix) == read_matrix_orientation(matrix * 0.5) == orientation
    turned = orient(PICTURE, orientation)
    places = np.array([[x, y] for y in range(4) for x in range(6)]) @ np.reshape(directions, (2, 2))
    columns, rows = (places - places.min(0)).T
    assert np.array_equal(turned[rows, columns], PICTURE.reshape(-1, 3))


def test_what_is_no_right_angle_has_no_orientation():
    sine, cosine = math.sin(0.5), math.cos(0.5)
    assert read_matrix_orientation(np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])) is None
    assert read_matrix_orientation(np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]])) is None
    assert read_matrix_orientation(np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]])) is None
    assert read_matrix_orientation(np.zeros((3, 3))) == 1
